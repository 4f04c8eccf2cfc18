#!/usr/bin/env bash
# MoCo-v2 training steps of Passer and of PyTorch on this machine's CPU, as a Markdown table with the ratio.
# Usage: scripts/bench/steps.sh PHOTOS PYTHON [THREADS] [STEPS]
#   PHOTOS  any data that `passer` reads, with at least 8 * (STEPS + 2) records (photos-250.tar: up to 29 steps)
#   PYTHON  an interpreter with torch and torchvision
set -euo pipefail
cd "$(dirname "$0")/../.."
photos=${1:?usage: scripts/bench/steps.sh PHOTOS PYTHON [THREADS] [STEPS]} python=${2:?usage: see above}
threads=${3:-2} steps=${4:-8}
cargo build --release --quiet -p cli
passer=${CARGO_TARGET_DIR:-target}/release/passer
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# model, config, images a step, extra settings
ours() {
  local config=$1 batch=$2; shift 2
  local sets=(--set "data.batch_images=$batch" --set training.epochs=1 --set training.log_every_steps=1 --set objective.moco.queue_images=4096)
  for set in "$@"; do sets+=(--set "$set"); done
  "$passer" shards pack "$photos" --limit $((batch * (steps + 2))) --out "$scratch/data" 2>/dev/null >/dev/null
  RAYON_NUM_THREADS=$threads "$passer" pretrain "$config" --device flex --data "$scratch/data" --out "$scratch/run" "${sets[@]}" >/dev/null 2>"$scratch/log"
  "$python" - "$scratch" <<'PY'
import json, pathlib, re, statistics, sys

scratch = pathlib.Path(sys.argv[1])
rates = [json.loads(line)["images_per_second"] for line in (scratch / "run/metrics.jsonl").read_text().splitlines()][2:]
memory = re.search(r"peak memory (\d+) MiB", (scratch / "log").read_text())[1]
print(f"{statistics.median(rates):.3f} {memory}")
PY
  rm -rf "$scratch/run" "$scratch/data"
}
theirs() {
  "$python" scripts/bench/moco_resnet50.py --threads "$threads" --steps "$steps" "$@" \
    | "$python" -c 'import json, sys; r = json.load(sys.stdin); print("%.3f %.0f" % (r["images_per_second"], r["peak_rss_mb"]))'
}
row() { awk -v name="$1" -v a="$2" -v am="$3" -v b="$4" -v bm="$5" 'BEGIN { printf "| %s | %.2f | %.2f | %.2f | %d | %d |\n", name, a, b, a / b, am, bm }'; }

echo "| step, $threads threads | Passer images/s | PyTorch images/s | ratio | Passer peak MiB | PyTorch peak MiB |"
echo "|---|---|---|---|---|---|"
read -r a am < <(ours configs/pretrain/moco-v2-resnet50-imagenet.toml 8 training.batch_norm_images=8)
read -r b bm < <(theirs --model resnet50)
row "MoCo-v2 ResNet-50, 224 px, batch 8" "$a" "$am" "$b" "$bm"
read -r c cm < <(theirs --model resnet50 --channels-last)
row "the same, PyTorch channels-last" "$a" "$am" "$c" "$cm"
