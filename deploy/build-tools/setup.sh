#!/usr/bin/env bash
# Sees to what the build needs beyond a Rust toolchain: a C compiler and linker, and protoc, which the
# build of etcd-client runs. Installs what it can and says exactly what to install where it cannot.
# Prints the path of protoc, and nothing else on stdout. Does nothing when all is there.
#
#   setup.sh [valgrind]   valgrind too, for counting instructions
#
#   PROTOC   a protoc to use instead of finding one
set -euo pipefail

tools=$(cd "$(dirname "$0")/../.." && pwd)/.tools
wrapper=$tools/protoc

say() { echo "setup: $*" >&2; }

# Installs Debian packages where that is possible: as root, or by a sudo that asks nothing.
apt_install() {
    local root=()
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || return 1
        root=(sudo -n)
    fi
    say "installing $*"
    "${root[@]}" apt-get -q update >&2 &&
        "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@" >&2
}

# PyPI's grpcio-tools carries a protoc; a wrapper makes it a command.
pypi_protoc() {
    command -v python3 >/dev/null || return 1
    say "no protoc from apt-get; taking the one in PyPI's grpcio-tools"
    python3 -m venv "$tools/python" >&2 &&
        "$tools/python/bin/pip" install -q grpcio-tools >&2 || return 1
    # The well-known types lie beside the module, where a plain protoc has its include folder.
    cat > "$wrapper" <<WRAPPER
#!/bin/sh
include=\$("$tools/python/bin/python" -c 'import grpc_tools, os; print(os.path.dirname(grpc_tools.__file__) + "/_proto")')
exec "$tools/python/bin/python" -m grpc_tools.protoc -I"\$include" "\$@"
WRAPPER
    chmod +x "$wrapper"
}

find_protoc() {
    if [ -n "${PROTOC:-}" ]; then
        echo "$PROTOC"
    elif [ -x "$wrapper" ]; then
        echo "$wrapper"
    else
        command -v protoc
    fi
}

# A protoc counts when it knows the well-known types, which Debian packs apart from it. One that PROTOC
# names is taken as it is.
protoc_works() {
    local protoc probe
    [ -z "${PROTOC:-}" ] || return 0
    protoc=$(find_protoc) || return 1
    probe=$(mktemp -d)
    echo 'syntax = "proto3"; import "google/protobuf/struct.proto";' > "$probe/probe.proto"
    "$protoc" -I"$probe" -o /dev/null "$probe/probe.proto" 2>/dev/null
    local works=$?
    rm -r "$probe"
    return $works
}

if ! command -v cargo >/dev/null; then
    say "no cargo: install a Rust toolchain, 1.90 or newer, from https://rustup.rs"
    exit 1
fi
if ! command -v cc >/dev/null && ! apt_install gcc libc6-dev; then
    say "no C compiler, which rustc links with: install gcc (Debian: apt-get install gcc libc6-dev)"
    exit 1
fi
if ! protoc_works && ! apt_install protobuf-compiler libprotobuf-dev && ! pypi_protoc; then
    say "no protoc, which the build of etcd-client needs. One of these, then again:"
    say "  Debian, Ubuntu: apt-get install protobuf-compiler libprotobuf-dev"
    say "  Fedora:         dnf install protobuf-compiler protobuf-devel"
    say "  macOS:          brew install protobuf"
    say "  or set PROTOC to the path of one (https://github.com/protocolbuffers/protobuf/releases)"
    exit 1
fi
if [ "${1:-}" = valgrind ] && ! command -v valgrind >/dev/null && ! apt_install valgrind; then
    say "no valgrind, which counts instructions: install it (Debian: apt-get install valgrind)"
    exit 1
fi
find_protoc
