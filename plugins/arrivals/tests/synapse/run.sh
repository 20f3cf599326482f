#!/usr/bin/env bash
# Runs Synapse on this machine, lets people talk there, exports it, and compares what our adapter for Matrix reads.
#
#   plugins/arrivals/tests/synapse/run.sh
#
# PYTHON     Python 3.11 with imserver's dependencies (default: python3)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
work="$(cd "$here/../../../.." && pwd)/build/synapse"
python=${PYTHON:-python3}

mkdir -p "$work"
stamp="$work/env/installed-$(cksum < "$here/requirements.txt" | tr -dc '0-9')"
if [ ! -e "$stamp" ]; then
    echo "synapse: installing it in build/synapse"
    rm -rf "$work/env"
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/env" -r "$here/requirements.txt" 2> "$work/pip.log" ||
        { cat "$work/pip.log" >&2; exit 2; }
    touch "$stamp"
fi

exec "$python" "$here/run.py" "$work"
