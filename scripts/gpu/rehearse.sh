#!/bin/sh
# Rehearses scripts/gpu/run.sh without a GPU, with small sizes: a CUDA driver that stands in for one loads every kernel and runs none.
#
#   scripts/gpu/rehearse.sh target/gpu/passer-cuda [arguments of run.sh]
#
# Needs a C compiler, NVRTC and CUDA's headers (docs/devices.md has the Python packages), and a `python3` with torch, torchvision and timm.
# No figure that comes out means anything; losses are those of memory that no kernel wrote.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cc -shared -fPIC -w -o "$folder/libcuda.so.1" "$here/standin_libcuda.c"
LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$here/run.sh" "$@" --small
