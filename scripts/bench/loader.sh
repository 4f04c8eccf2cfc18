#!/usr/bin/env bash
# Views per second of our loader and of torchvision's under MoCo-v2's recipe, on the same photographs and workers.
# Usage: scripts/bench/loader.sh PHOTOS.tar [PYTHON]      (PYTHON: an interpreter with torch and torchvision)
set -euo pipefail
cd "$(dirname "$0")/../.."
photos=${1:?usage: scripts/bench/loader.sh PHOTOS.tar [PYTHON]}
python=${2:-python3}
cargo build --release --quiet -p data --example loader_bench
target=${CARGO_TARGET_DIR:-target}
echo "workers  ours (views/s)  torchvision (views/s)  ratio"
for workers in 1 2; do
    ours=$("$target/release/examples/loader_bench" "$photos" "$workers" 40)
    theirs=$("$python" scripts/bench/loader.py "$photos" "$workers" 8)
    awk -v w="$workers" -v a="$ours" -v b="$theirs" 'BEGIN { printf "%7d  %14.0f  %21.0f  %5.1f\n", w, a, b, a / b }'
done
