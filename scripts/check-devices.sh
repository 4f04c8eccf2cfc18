#!/usr/bin/env bash
# The GPU path without a GPU: methods, networks and checkpoints on `wgpu` beside `flex`, on Debian's lavapipe (Vulkan in
# software), and the types of the backends that only build elsewhere. About 25 minutes cold on two cores, 4 warm.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

# Vulkan's loader complains without it.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"

step "wgpu beside flex"
# `ls` would fail wherever one of the two folders is empty, as Debian's second is.
if ! compgen -G "/usr/share/vulkan/icd.d/*.json" >/dev/null && ! compgen -G "/etc/vulkan/icd.d/*.json" >/dev/null; then
  echo "no Vulkan driver: install one, such as Debian's mesa-vulkan-drivers, or wgpu finds no device" >&2
  exit 1
fi
# One at a time: a software device has no memory or cores to share.
cargo test --release --locked -p cli --features wgpu --test devices -- --nocapture --test-threads=1

step "lints, and types of cuda, rocm and vulkan"
# Their builds download LLVM; DOCS_RS leaves that out, and then they can be checked but not linked.
DOCS_RS=1 cargo clippy --locked -p cli --all-targets --features wgpu,vulkan,cuda,rocm -- -D warnings
