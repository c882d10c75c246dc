#!/bin/sh
# Makes sure that the build finds a CUDA compiler: an installed one, or pinned wheels in ./.cuda
# (about 100 MB, once). The search is the one that build.rs does.
set -eu
cd "$(dirname "$0")/.."

found() {
    [ -x "$1" ] && echo "CUDA compiler: $1"
}

for candidate in "${WORKER_ORCD_NVCC:-}" "${CUDA_HOME:+$CUDA_HOME/bin/nvcc}" "${CUDA_PATH:+$CUDA_PATH/bin/nvcc}" \
    "$(command -v nvcc || true)" /usr/local/cuda/bin/nvcc .cuda/lib/python3*/site-packages/nvidia/cu13/bin/nvcc; do
    [ -n "$candidate" ] && found "$candidate" && exit 0
done

. scripts/pip.sh
find_pip
echo "No CUDA compiler found: fetching one into .cuda (about 100 MB, once) ..."
version=$(python3 -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
rm -rf .cuda .cuda.part
# Mixed versions fail in ptxas, so all five are pinned.
$pip install --disable-pip-version-check --root-user-action=ignore --target ".cuda.part/lib/$version/site-packages" \
    nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
mv .cuda.part .cuda
found ".cuda/lib/$version/site-packages/nvidia/cu13/bin/nvcc" || {
    echo "the wheels hold no nvcc for this machine" >&2
    exit 1
}
