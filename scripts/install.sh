#!/bin/sh
# Makes .venv, installs what requirements.lock pins with its hashes checked, and this project on top of it.
# Safe to repeat; one that was cut off is finished by the next. PYTHON names another interpreter than python3.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

say() { printf 'install: %s\n' "$*" >&2; }
stop() { say "$1"; say "type:  $2"; exit 1; }

# from_debian WHAT PACKAGE...: install Debian's packages when we may, else say what to type.
from_debian() {
    what=$1; shift
    line="apt-get update && apt-get install -y $*"
    command -v apt-get >/dev/null || stop "$what is missing" "your system's command that installs it"
    [ "$(id -u)" = 0 ] || stop "$what is missing" "sudo sh -c '$line', then make again"
    say "$what is missing: $line"
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q "$@"; } >&2 ||
        stop "$what could not be installed" "$line"
}

command -v "$python" >/dev/null || from_debian "Python" python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "$("$python" --version) is too old: 3.11 or newer is needed" "make install PYTHON=python3.12, or the like"

# A .venv that was cut off while it was made, or whose interpreter is gone, is made again.
if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || from_debian "Python's venv" python3-venv
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
say "installing the packages of requirements.lock"
pip install -q --require-hashes -r requirements.lock
pip install -q --no-deps -e .
say "done: .venv/bin/tandem"
