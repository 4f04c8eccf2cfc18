"""Runs the small configs healthy, and others broken on purpose, and prints docs/watching.md's tables of alarms.

    python scripts/bench/alarms.py --passer target/release/passer --data cifar10-10000 --out /tmp/alarms [--only NAME ...]

`--data` is a folder of 10,000 of CIFAR-10's training images. Each run is three epochs with networks of width 8 (ResNets) or 32
(vision transformers), and a log line each step. A run directory that is there already is read and not run again. Exit status 1 if
a healthy run gives an alarm, or a broken one gives none of those that it should.
"""

import argparse
import json
import pathlib
import subprocess
import sys

RESNET, VIT = "backbone.resnet.width=8", "backbone.vit.width=32"
# Name, config (without `-cifar10.toml`), size.
HEALTHY = {
    "moco": ("moco-v2-resnet18", RESNET),
    "moco_cld": ("moco-v2-cld-resnet18", RESNET),
    "moco_v3": ("moco-v3-resnet18", RESNET),
    "moco_v3-vit": ("moco-v3-vit", VIT),
    "simclr": ("simclr-resnet18", RESNET),
    "swav": ("swav-resnet18", RESNET),
    "dino": ("dino-resnet18", RESNET),
    "dino-vit": ("dino-vit", VIT),
    "ibot": ("ibot-vit", VIT),
    "byol": ("byol-resnet18", RESNET),
    "simsiam": ("simsiam-resnet18", RESNET),
    "vicreg": ("vicreg-resnet18", RESNET),
    "barlow_twins": ("barlow-twins-resnet18", RESNET),
    "mae": ("mae-vit", VIT),
}
# What is broken, the healthy run beside it, what is set.
BROKEN = {
    "dino: no centering": ("dino", ["objective.dino.centering.mean.momentum=1.0"]),
    "dino-vit: no centering": ("dino-vit", ["objective.dino.centering.mean.momentum=1.0"]),
    "dino: no sharpening": ("dino", ["objective.dino.teacher_temperature=1.0"]),
    "swav: no assignment (epsilon 10)": ("swav", ["objective.swav.sinkhorn_epsilon=10.0"]),
    "vicreg: no variance and covariance": (
        "vicreg",
        ["objective.vicreg.variance_weight=0.0", "objective.vicreg.covariance_weight=0.0"],
    ),
    "barlow_twins: no redundancy term": ("barlow_twins", ["objective.barlow_twins.redundancy_weight=0.0"]),
    "moco: no split batch norm": ("moco", ["training.batch_norm_images=256", "objective.moco.shuffle=false"]),
    "moco: rate times 100": ("moco", ["optimizer.sgd.learning_rate_per_256=6.0"]),
    "simsiam: rate times 100": ("simsiam", ["optimizer.sgd.learning_rate_per_256=3.0"]),
    "swav: rate times 100": ("swav", ["optimizer.sgd.learning_rate_per_256=60.0"]),
    "dino: rate times 100": ("dino", ["optimizer.adamw.learning_rate_per_256=0.05"]),
    "mae: rate times 100": ("mae", ["optimizer.adamw.learning_rate_per_256=0.1"]),
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(arguments, name, config, sets):
    out = arguments.out / name.replace(": ", "-").replace(" ", "_").replace("(", "").replace(")", "")
    if not (out / "run.json").exists():
        config = pathlib.Path(__file__).resolve().parents[2] / f"configs/pretrain/{config}-cifar10.toml"
        sets = ["training.epochs=3", "training.checkpoint_every_epochs=3", "training.log_every_steps=1", *sets]
        command = [arguments.passer, "pretrain", config, "--data", arguments.data, "--out", out]
        command += [word for key in sets for word in ("--set", key)]
        with open(f"{out}.log", "w") as log:
            subprocess.run(["nice", *map(str, command)], stderr=log, stdout=log)
    return lines(out / "metrics.jsonl"), lines(out / "alarms.jsonl")


def at(metrics, step, signal):
    line = next((line for line in metrics if line["step"] == step), None)
    return None if line is None else line["signals"].get(signal, line.get(signal))


def shown(value):
    return "–" if value is None else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--passer", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    wanted = lambda name: not arguments.only or name in arguments.only
    failed, healthy = False, {}
    print("| healthy run | steps | alarms | " + " | ".join(SIGNALS) + " |\n|---|---|---|" + "---|" * len(SIGNALS))
    for name, (config, size) in HEALTHY.items():
        if not wanted(name):
            continue
        metrics, alarms = healthy[name] = run(arguments, name, config, [size])
        failed |= bool(alarms)
        found = ", ".join(f"`{alarm['alarm']}` at {alarm['step']}" for alarm in alarms) or "none"
        ranges = []
        for signal in SIGNALS:
            values = [line["signals"][signal] for line in metrics[1:] if line["signals"].get(signal) is not None]
            ranges.append(f"{shown(min(values))} to {shown(max(values))}" if values else "–")
        print(f"| `{name}` | {len(metrics)} | {found} | " + " | ".join(ranges) + " |")
    print("\n| broken run | set | alarm | at step | signal | value | healthy run's |\n|---|---|---|---|---|---|---|")
    for name, (beside, sets) in BROKEN.items():
        if not wanted(name) or beside not in healthy:
            continue
        config, size = HEALTHY[beside]
        metrics, alarms = run(arguments, name, config, [size, *sets])
        keys = ", ".join(f"`{key.split('.', 1)[1]}`" for key in sets)
        for alarm in alarms:
            signal, step = alarm["signal"], alarm["step"]
            of_healthy = shown(at(healthy[beside][0], step, signal))
            print(f"| {name} | {keys} | `{alarm['alarm']}` | {step} | `{signal}` | {shown(alarm['value'])} | {of_healthy} |")
        if not alarms:
            failed = True
            print(f"| {name} | {keys} | none in {len(metrics)} steps | | | | |")
    sys.exit(failed)


SIGNALS = ["embedding_spread", "embedding_rank", "prototypes_used", "loss_over_chance", "gradient_norm"]

if __name__ == "__main__":
    main()
