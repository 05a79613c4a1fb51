#!/bin/sh
# Make the virtual environment VENV from the interpreter PYTHON, or say in one sentence why it cannot be made.
set -eu

python=${1:?usage: tools/make_venv.sh PYTHON VENV}
venv=${2:?usage: tools/make_venv.sh PYTHON VENV}
here=$(dirname "$0")

fail() {
    echo "error: $*" >&2
    exit 1
}

if ! command -v "$python" >/dev/null 2>&1; then
    [ "$python" = python3 ] || fail "there is no '$python' on this machine; name another with PYTHON=..."
    "$here/system_packages.sh" python3 python3-venv
fi

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "'$python' is no working Python"
case $version in
    3.10 | 3.11 | 3.12 | 3.13) ;;
    *) fail "'$python' is Python $version, and this project needs 3.10 to 3.13; name one, for example: make serve PYTHON=python3.12" ;;
esac

if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$here/system_packages.sh" "python$version-venv" ||
        fail "'$python' cannot make virtual environments, since its modules venv and ensurepip are missing; install them"
fi

# --clear: a directory left by an interpreter that has since gone is of no use.
"$python" -m venv --clear "$venv"
