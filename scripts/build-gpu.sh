#!/bin/sh
# Builds the program for a GPU, from a clean clone, without a GPU, its driver or its vendor's software:
#
#   scripts/build-gpu.sh cuda|rocm|vulkan
#
# `cuda` and `rocm` compile their kernels at run time with NVRTC and HIP RTC (feature `cpp`), so the LLVM that Burn's other way
# downloads is replaced by a stand-in (scripts/gpu/cubecl-llvm). Cargo reads the replacement from a copy of the workspace's manifest
# beside the target folder; the checkout and its lock file stay as they are. Result: target/gpu/passer-BACKEND, and the same compressed.
# CARGO_TARGET_DIR names another target folder.
set -eu
cd "$(dirname "$0")/.."
backend=${1:-}
case $backend in
cuda | rocm) features=$backend,cpp ;;
vulkan) features=vulkan ;;
*)
  echo "usage: scripts/build-gpu.sh cuda|rocm|vulkan" >&2
  exit 2
  ;;
esac
checkout=$PWD
mkdir -p "${CARGO_TARGET_DIR:-target}/gpu/workspace"
out=$(cd "${CARGO_TARGET_DIR:-target}/gpu" && pwd)

# The same workspace, by links, under another manifest.
for part in crates tests scripts configs docs rust-toolchain.toml; do
  ln -sfn "$checkout/$part" "$out/workspace/$part"
done
cp Cargo.lock "$out/workspace/Cargo.lock"
{
  cat Cargo.toml
  printf '\n[patch.crates-io]\ncubecl-llvm = { path = "%s/scripts/gpu/cubecl-llvm" }\n' "$checkout"
} >"$out/workspace/Cargo.toml"

# The driver interface to build against where no CUDA is installed; at run time any driver from CUDA 12 on will do.
export CUDARC_CUDA_VERSION="${CUDARC_CUDA_VERSION:-13000}"
cd "$out/workspace"
cargo build --release --package cli --bin passer --features "$features" --target-dir "$out"

cp "$out/release/passer" "$out/passer-$backend"
if command -v zstd >/dev/null; then
  zstd -q -f -19 -T0 "$out/passer-$backend" -o "$out/passer-$backend.zst"
else
  gzip -9 -c "$out/passer-$backend" >"$out/passer-$backend.gz"
fi
ls -l "$out/passer-$backend"*
