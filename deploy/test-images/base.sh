#!/usr/bin/env bash
# Makes the Debian image that the other test images start from, without any registry. Does nothing
# when it is already there.
#
#   LOCKD_DEBIAN_MIRROR   where packages come from (default http://deb.debian.org/debian)
set -euo pipefail

base=${1:?usage: base.sh IMAGE}
mirror=${LOCKD_DEBIAN_MIRROR:-http://deb.debian.org/debian}

if docker image inspect "$base" >/dev/null 2>&1; then
    exit 0
fi
if ! command -v debootstrap >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get -q update && apt-get -q install -y --no-install-recommends debootstrap
    else
        echo "no registry answers, and building the image needs debootstrap: apt-get install debootstrap" >&2
        exit 1
    fi
fi
if [ "$(id -u)" != 0 ]; then
    echo "debootstrap needs root: run 'sudo make test-images' once, then go on as yourself" >&2
    exit 1
fi

root=$(mktemp -d "${TMPDIR:-/tmp}/lockd-debootstrap.XXXXXX")
trap 'rm -rf --one-file-system "$root"' EXIT
echo "debootstrap bookworm from $mirror, about a minute" >&2
if ! debootstrap --variant=minbase --include=ca-certificates bookworm "$root/tree" "$mirror" >"$root/log" 2>&1; then
    tail -n 20 "$root/log" >&2
    exit 1
fi
rm -rf "$root"/tree/var/cache/apt/archives/*.deb "$root"/tree/var/lib/apt/lists/*
tar -C "$root/tree" -c . | docker import - "$base" >/dev/null
