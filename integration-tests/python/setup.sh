#!/usr/bin/env bash
# Prepares what the Python client needs, once per checkout: an environment in .tools/python-client with
# requirements.txt installed and the stubs of proto/ generated into it. Prints the path of its
# interpreter, and nothing else on stdout. Does nothing when all is there and up to date.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
env=$root/.tools/python-client
stamp=$env/stamp
python=$env/bin/python

say() { echo "python-client: $*" >&2; }

# What the environment is made from; a change of any of it, this script included, makes it anew.
ingredients() {
    (cd "$root" && sha256sum integration-tests/python/{requirements.txt,setup.sh} proto/lockd/v1/*.proto)
}

up_to_date() {
    [ -x "$python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$(ingredients)" ]
}

make_anew() {
    command -v python3 >/dev/null || { say "no python3: install Python 3.10 or newer, with venv"; exit 1; }
    # Taken before the work: what changes meanwhile is seen by the next run.
    local made_from stubs
    made_from=$(ingredients)
    say "making $env"
    rm -rf "$env"
    python3 -m venv "$env" >&2
    "$python" -m pip install -q --disable-pip-version-check -r "$here/requirements.txt" >&2
    # Beside the packages, where the interpreter finds them without being told.
    stubs=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$python" -m grpc_tools.protoc -I"$root/proto" --python_out="$stubs" --grpc_python_out="$stubs" \
        "$root"/proto/lockd/v1/*.proto >&2
    # Last, and at once: a run that was interrupted leaves no stamp.
    echo "$made_from" > "$stamp.new"
    mv "$stamp.new" "$stamp"
}

mkdir -p "$root/.tools"
# Two runs at once take turns; the second finds all done. The lock ends with the process.
exec 9> "$env.lock"
flock 9
up_to_date || make_anew
echo "$python"
