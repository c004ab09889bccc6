#!/usr/bin/env bash
# Validates deploy/helm and deploy/kustomize offline, and tests the alert rules; gets what that needs
# into .tools first.
#
#   LOCKD_DEBIAN_MIRROR  where kubectl and promtool come from where there are none
#                        (default http://deb.debian.org/debian)
set -euo pipefail
# A download that fails in a command substitution is to end the script as well.
shopt -s inherit_errexit
deploy=$(cd "$(dirname "$0")/.." && pwd)
tools=$(cd "$deploy/.." && pwd)/.tools
mirror=${LOCKD_DEBIAN_MIRROR:-http://deb.debian.org/debian}
mkdir -p "$tools"

# Gets a program into .tools from the Debian package of the same name.
fetch() {
    local name=$1 index path sum
    index=$(curl -fsS "$mirror/dists/trixie/main/binary-$(dpkg --print-architecture)/Packages.gz" | gzip -d |
        sed -n "/^Package: $name\$/,/^\$/p")
    path=$(sed -n 's/^Filename: //p' <<<"$index")
    sum=$(sed -n 's/^SHA256: //p' <<<"$index")
    echo "getting $name: $path" >&2
    curl -fsS -o "$tools/$name.deb" "$mirror/$path"
    echo "$sum  $tools/$name.deb" | sha256sum --check --quiet
    dpkg-deb -x "$tools/$name.deb" "$tools/$name-package"
    rm "$tools/$name.deb"
    mv "$tools/$name-package/usr/bin/$name" "$tools/$name"
    rm -r "$tools/$name-package"
}

# Prints the path of a program, and gets it first where there is none.
program() {
    if ! command -v "$1"; then
        [ -x "$tools/$1" ] || fetch "$1"
        echo "$tools/$1"
    fi
}

# For its `kustomize`: nothing of it talks to a cluster.
kubectl=$(program kubectl)
promtool=$(program promtool)
python=$tools/validate/bin/python
if ! "$python" -c 'import helm_python, kubernetes_validate' 2>/dev/null; then
    python3 -m venv "$tools/validate"
    "$python" -m pip install --quiet --disable-pip-version-check -r "$deploy/validate/requirements.txt"
fi
"$python" "$deploy/validate/validate.py" --kubectl "$kubectl"
# The rules are where Prometheus' container has them: only the syntax is looked at here.
"$promtool" check config --syntax-only "$deploy/monitoring/prometheus.yaml"
"$promtool" check rules "$deploy/helm/lockd/files/alerts.yaml"
"$promtool" test rules "$deploy/monitoring/alerts-test.yaml"
