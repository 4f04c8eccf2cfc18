#!/usr/bin/env bash
# Passer's side of the curves in docs/parity.md: pretrains on CIFAR-10 shards with one seed, then kNN after every epoch.
#
#   passer shards pack cifar10-jpeg.tar.gz --subfolder train --limit 10000 --out SHARDS/train
#   passer shards pack cifar10-jpeg.tar.gz --subfolder test --out SHARDS/test
#   scripts/parity/curve_passer.sh SHARDS SEED OUT [--set KEY=VALUE ...]   # PASSER names the program; default target/release/passer
#                                                                          # CONFIG names the recipe; default MoCo v2's
#
# Prints one JSON object an epoch: {"epoch", "loss", "knn"}, as moco_curve.py and curve.py do. The recipe must keep a
# checkpoint for every epoch and log every step.
set -euo pipefail
shards=$1 seed=$2 out=$3
shift 3
passer=${PASSER:-target/release/passer}
config=${CONFIG:-configs/pretrain/moco-v2-resnet18-cifar10.toml}

"$passer" pretrain "$config" --data "$shards/train" --out "$out" --set "seed=$seed" "$@" --resume >&2
for checkpoint in "$out"/checkpoints/step-*; do
  "$passer" evaluate run configs/evaluate/small-images.toml --set 'protocols=[{ knn-dino = { neighbors = [20], headline_neighbors = 20, temperature = 0.07 } }]' \
    --encoder "$checkpoint" --train "$shards/train" --test "$shards/test" --out "$checkpoint/knn" >&2
  python3 - "$out" "$checkpoint" <<'PY'
import json
import pathlib
import sys

run, checkpoint = map(pathlib.Path, sys.argv[1:])
step = json.loads((checkpoint / "position.json").read_text())["step"]
per_epoch = json.loads((run / "run.json").read_text())["steps_per_epoch"]
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
losses = [line["loss"] for line in lines if step - per_epoch < line["step"] <= step]
knn = next(r["value"] for r in json.loads((checkpoint / "knn/result.json").read_text()) if r["metric"] == "top1")
print(json.dumps({"epoch": step // per_epoch, "loss": sum(losses) / len(losses), "knn": knn}))
PY
done
