#!/usr/bin/env bash
# Prints the name of an image for the tests that this machine has, and gets one first if it has none: the
# one that LOCKD_TEST_<NAME>_IMAGE names, else the official one, else one built here from Debian packages.
#
#   image.sh etcd | postgres | redis | zookeeper | python
#
#   LOCKD_TEST_<NAME>_IMAGE  the image to use, such as LOCKD_TEST_ETCD_IMAGE
#   LOCKD_TEST_PULL_SECONDS  how long the registry may take to answer (default 10)
#   LOCKD_DEBIAN_MIRROR      where packages come from (default http://deb.debian.org/debian)
set -euo pipefail

usage() { echo "usage: image.sh etcd|postgres|redis|zookeeper|python" >&2; exit 64; }

case ${1:-} in
etcd) version=3.5.30 official=gcr.io/etcd-development/etcd:v$version ;;
postgres) version=15 official=postgres:$version ;;
redis) version=7 official=redis:$version ;;
python) version=3 official=python:3.13-slim ;;
# The official image takes its configuration from the environment; the benchmark's is from Debian.
zookeeper) version=3.8 official=lockd-test-zookeeper:$version ;;
*) usage ;;
esac
name=$1
override=LOCKD_TEST_${name^^}_IMAGE
wanted=${!override:-$official}
built=lockd-test-$name:$version
base=lockd-test-base:bookworm
here=$(cd "$(dirname "$0")" && pwd)

has() { docker image inspect "$1" >/dev/null 2>&1; }

# A registry that does not answer at once is one that cannot be reached. One that answers may take as
# long as the download takes, so only the manifest request is under the short limit.
pulls() {
    timeout "${LOCKD_TEST_PULL_SECONDS:-10}" docker manifest inspect "$1" >/dev/null 2>&1 &&
        docker pull -q "$1" >&2
}

build() {
    "$here/base.sh" "$base" &&
        docker build -q --network host -t "$built" \
            --build-arg BASE="$base" \
            --build-arg VERSION="$version" \
            --build-arg MIRROR="${LOCKD_DEBIAN_MIRROR:-http://deb.debian.org/debian}" \
            --build-arg http_proxy --build-arg https_proxy --build-arg no_proxy \
            "$here/$name"
}

if ! docker info >/dev/null 2>&1; then
    echo "the tests need a Docker engine that answers: install docker.io, start it, and see 'docker info'" >&2
    exit 1
fi

if has "$wanted"; then
    echo "$wanted"
elif has "$built" && [ -z "${!override:-}" ]; then
    echo "$built"
elif pulls "$wanted"; then
    echo "$wanted"
else
    echo "cannot pull $wanted; using $built, made from Debian packages" >&2
    # One build at a time on a machine: the second finds what the first has built.
    exec 9>"${TMPDIR:-/tmp}/lockd-test-images.lock"
    flock 9
    has "$built" || build >&2
    echo "$built"
fi
