#!/usr/bin/env bash
# The GPU path without a GPU: kernels, methods, networks and checkpoints on `wgpu` beside `flex`, on Debian's lavapipe (Vulkan in
# software), and the types of the backends that only build elsewhere. About 25 minutes cold on two cores; 4 after
# scripts/check.sh with the same PASSER_FEATURES and PASSER_LINT_FEATURES, as in `.ci/run`.
set -euo pipefail
cd "$(dirname "$0")/.."

features=(--features "wgpu,${PASSER_FEATURES:-}")
types="wgpu,vulkan,cuda,rocm,${PASSER_LINT_FEATURES:-${PASSER_FEATURES:-}}"

step() { printf '\n== %s (%s s)\n' "$*" "$SECONDS"; }

# Vulkan's loader complains without it.
export XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}"

step "wgpu beside flex"
# `ls` would fail wherever one of the two folders is empty, as Debian's second is.
if ! compgen -G "/usr/share/vulkan/icd.d/*.json" >/dev/null && ! compgen -G "/etc/vulkan/icd.d/*.json" >/dev/null; then
  echo "no Vulkan driver: install one, such as Debian's mesa-vulkan-drivers, or wgpu finds no device" >&2
  exit 1
fi
# One at a time: a software device has no memory or cores to share.
cargo test --release --locked --workspace "${features[@]}" --test gpu --test devices -- --nocapture --test-threads=1

step "lints, and types of cuda, rocm and vulkan"
# Their builds download LLVM; DOCS_RS leaves that out, and then they can be checked but not linked.
export DOCS_RS=1
# The tests of devices are no part of `--all-targets`: the manifest leaves them out of `cargo test`.
for targets in --all-targets "--test=gpu --test=devices"; do
  # shellcheck disable=SC2086 # one or two arguments
  cargo clippy --release --locked --workspace $targets --features "$types" -- -D warnings
done

step "done"
