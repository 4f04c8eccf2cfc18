"""Trains many tiny epochs and prints how memory, open files and threads of the process grow over them.

    python scripts/bench/soak.py --passer target/release/passer --out /tmp/soak [--epochs 500]

Each epoch is two steps of eight synthetic pictures, with a checkpoint at its end and two checkpoints kept. Slopes are least squares over the
last four fifths of the epochs. Exit status 1 if the run fails, or one of them grows by more than LIMITS per 100 epochs. Needs Linux.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import time

LIMITS = {"memory, KiB": 2048, "open files": 0.5, "threads": 0.5}
SETS = [
    "data.batch_images=8",
    "data.workers=1",
    "training.batch_norm_images=4",
    "training.log_every_steps=1",
    "training.checkpoint_every_epochs=1",
    "training.keep_checkpoints=2",
    "backbone.resnet.width=4",
    "objective.moco.queue_images=64",
    "objective.moco.embedding_width=16",
    "views.0.transforms.0.random_resized_crop.size_px=16",
]


def pictures(folder):
    """Sixteen PPM-like pictures, as BMP, which needs no package."""
    for index in range(16):
        rows = b"".join(bytes((x * 7 + index * 3 + c * 40 + y * 5) % 256 for x in range(24) for c in range(3)) for y in range(24))
        size = 54 + len(rows)
        head = b"BM" + size.to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little") + (40).to_bytes(4, "little")
        head += (24).to_bytes(4, "little") * 2 + (1).to_bytes(2, "little") + (24).to_bytes(2, "little") + bytes(24)
        path = folder / ("a" if index % 2 else "b") / f"{index}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(head + rows)


def reading(process):
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    of = dict(line.split(":", 1) for line in status.splitlines())
    return {
        "memory, KiB": int(of["VmRSS"].split()[0]),
        "open files": len(os.listdir(f"/proc/{process}/fd")),
        "threads": int(of["Threads"]),
    }


def slope(points):
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    square = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / square if square else 0.0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--passer", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--epochs", type=int, default=500)
    arguments = parser.parse_args()
    data, run = arguments.out / "pictures", arguments.out / "run"
    pictures(data)
    config = pathlib.Path(__file__).resolve().parents[2] / "configs/pretrain/moco-v2-resnet18-cifar10.toml"
    command = [arguments.passer, "pretrain", config, "--device", "flex", "--data", data, "--out", run]
    for key in [*SETS, f"training.epochs={arguments.epochs}"]:
        command += ["--set", key]
    readings, log = [], run / "metrics.jsonl"
    with open(arguments.out / "log", "w") as said:
        process = subprocess.Popen(["nice", *map(str, command)], stdout=said, stderr=said)
        while process.poll() is None:
            time.sleep(0.2)
            try:
                epochs = log.read_bytes().count(b"\n") / 2
                readings.append((epochs, reading(process.pid)))
            except (OSError, KeyError, ValueError):
                continue
    failed = process.returncode != 0
    behind = [point for point in readings if point[0] >= arguments.epochs / 5]
    done = log.read_bytes().count(b"\n") / 2
    print(f"{done:.0f} epochs, {len(readings)} readings, exit status {process.returncode}")
    for name, limit in LIMITS.items() if behind else ():
        points = [(epochs, of[name]) for epochs, of in behind]
        per_100 = slope(points) * 100
        failed |= per_100 > limit
        print(f"{name}: {points[0][1]} to {points[-1][1]}, highest {max(y for _, y in points)}, {per_100:+.3f} per 100 epochs")
    sys.exit(failed)


if __name__ == "__main__":
    main()
