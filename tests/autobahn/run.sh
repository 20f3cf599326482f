#!/usr/bin/env bash
# Runs every case of the Autobahn test suite against the echo path of a server started here, with compression on.
# It fails unless each is OK, NON-STRICT or INFORMATIONAL.
#
#   tests/autobahn/run.sh [CASES]      CASES: 'all' (the default), or a pattern such as '9.*'
#
# PYTHON     Python 3.11 with imserver's dependencies (default: python3)
# PYTHON27   Python 2.7, for the test suite alone (default: the first one found)
# HTTP       front or wsgi, as the setting server.http
# URL        test this WebSocket URL instead of starting a server
set -eu

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
work="$top/build/autobahn"
python=${PYTHON:-python3}
cases=${1:-all}
http=${HTTP:-front}

find_python27() {
    local candidate
    for candidate in "${PYTHON27:-}" "$(command -v python2.7 || true)" "$HOME"/.pyenv/versions/2.7*/bin/python2.7; do
        # A shim may stand in the path without a Python behind it: only one that runs counts.
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (2, 7))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

if ! python27=$(find_python27); then
    echo "autobahn: the test suite needs Python 2.7, and none is here: put python2.7 in PATH or name it in PYTHON27 (Debian 11 is the last Debian with it)" >&2
    exit 2
fi

mkdir -p "$work"
stamp="$work/env/installed-$(cksum < "$here/requirements.txt" | tr -dc '0-9')"
if [ ! -e "$stamp" ]; then
    echo "autobahn: installing the test suite for $python27"
    rm -rf "$work/env" "$work/virtualenv"
    # 20.21 is the last virtualenv that can make an environment for 2.7.
    "$python" -m pip install --quiet --disable-pip-version-check --target "$work/virtualenv" 'virtualenv==20.21.1'
    PYTHONPATH="$work/virtualenv" "$python" -m virtualenv --quiet --python "$python27" "$work/env"
    PYTHONWARNINGS=ignore "$work/env/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt" 2> "$work/pip.log" ||
        { cat "$work/pip.log" >&2; exit 2; }
    touch "$stamp"
fi

exec "$python" "$here/run.py" --top "$top" --work "$work" --http "$http" --cases "$cases" ${URL:+--url "$URL"}
