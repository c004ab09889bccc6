#!/usr/bin/env bash
# Validates deploy/helm and deploy/kustomize offline; gets what that needs into .tools first.
#
#   LOCKD_DEBIAN_MIRROR  where kubectl comes from where there is none (default http://deb.debian.org/debian)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tools=$(cd "$here/../.." && pwd)/.tools
mirror=${LOCKD_DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$tools"

# Debian's, for its `kustomize`: nothing of it talks to a cluster.
fetch_kubectl() {
    local index path sum
    index=$(curl -fsS "$mirror/dists/trixie/main/binary-$(dpkg --print-architecture)/Packages.gz" | gzip -d |
        sed -n '/^Package: kubectl$/,/^$/p')
    path=$(sed -n 's/^Filename: //p' <<<"$index")
    sum=$(sed -n 's/^SHA256: //p' <<<"$index")
    echo "getting kubectl: $path" >&2
    curl -fsS -o "$tools/kubectl.deb" "$mirror/$path"
    echo "$sum  $tools/kubectl.deb" | sha256sum --check --quiet
    dpkg-deb -x "$tools/kubectl.deb" "$tools/kubectl-package"
    rm "$tools/kubectl.deb"
    cp "$tools/kubectl-package/usr/bin/kubectl" "$tools/kubectl"
    rm -r "$tools/kubectl-package"
}

kubectl=$(command -v kubectl || true)
if [ -z "$kubectl" ]; then
    kubectl=$tools/kubectl
    [ -x "$kubectl" ] || fetch_kubectl
fi
python=$tools/validate/bin/python
if ! "$python" -c 'import helm_python, kubernetes_validate' 2>/dev/null; then
    python3 -m venv "$tools/validate"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
fi
exec "$python" "$here/validate.py" --kubectl "$kubectl"
