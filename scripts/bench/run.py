"""Compares Passer with PyTorch and other libraries on this machine's CPU: one command, Markdown tables.

    python scripts/bench/run.py photos-250.tar [--only steps loader features updates] [--rounds 3] [--threads 2]

Builds Passer, then runs each pair in turn, Passer first, `--rounds` times, so that a machine that slows down slows both. Figures
are medians of the rounds, with the smallest and the largest. PHOTOS is any shard with 250 or more photographs. Run it with nothing
else running. The interpreter needs torch, torchvision, timm, lightly, webdataset, and may have nvidia-dali-cuda120.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import tomllib

# Optional: 400 MB from PyPI.
DALI = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"

# name, config, images a step, views of the groups that differ from the config's, settings, PyTorch's script and arguments
STEPS = [
    (
        "MoCo v2, ResNet-50, 224 px, batch 8",
        "moco-v2-resnet50-imagenet",
        8,
        {},
        ["training.batch_norm_images=8", "objective.moco.queue_images=4096"],
        ["moco_resnet50.py", "--model", "resnet50"],
    ),
    (
        "MoCo v2, ResNet-18 of width 16, 32 px, batch 256 in parts of 32",
        "moco-v2-resnet18-cifar10",
        256,
        {},
        [],
        ["moco_resnet50.py", "--model", "resnet18-small"],
    ),
    ("SwAV, ResNet-50, 2 × 224 + 6 × 96 px, batch 4", "swav-resnet50-pass", 4, {}, ["training.batch_norm_images=4"], ["method.py"]),
    ("DINO, ViT-S/16, 2 × 224 + 4 × 96 px, batch 4", "dino-vit-small-16-pass", 4, {2: 4}, [], ["method.py"]),
    ("MAE, ViT-S/16, 224 px, batch 16", "mae-vit-small-pass", 16, {}, ["training.micro_batch_images=16"], ["method.py"]),
]


def environment(threads):
    """For a command that may use so many threads."""
    return {**os.environ, "RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


def run(command, threads, **more):
    """Standard output of a command that may use so many threads."""
    made = subprocess.run([str(part) for part in command], env=environment(threads), text=True, capture_output=True, cwd=ROOT, **more)
    if made.returncode:
        raise SystemExit(f"{command}:\n{made.stderr[-2000:]}")
    return made


def memory_of(process):
    """Memory of a process and its descendants now, MiB; pages that several share are counted once. Linux only, 0 elsewhere."""
    total, waiting = 0, [process]
    while waiting:
        folder = pathlib.Path(f"/proc/{waiting.pop()}")
        try:
            waiting += [child for task in folder.glob("task/*/children") for child in task.read_text().split()]
            total += int(re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.M)[1])
        except (OSError, TypeError):
            # It has ended meanwhile.
            continue
    return total / 1024


def run_measured(command, threads):
    """A command's only number, and its peak memory with its workers'."""
    peak, done = 0, threading.Event()

    def watch(process):
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, memory_of(process))

    with subprocess.Popen(
        [str(part) for part in command], env=environment(threads), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        watcher = threading.Thread(target=watch, args=[process.pid])
        watcher.start()
        out, errors = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{command}:\n{errors[-2000:]}")
    return float(out), peak


def python(script, *arguments, threads):
    return json.loads(run([sys.executable, HERE / script, *arguments], threads).stdout)


def inline(value):
    """TOML on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(of_key)}" for key, of_key in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)


class Row:
    """Rates of Passer and of others over the rounds, and peak memory."""

    def __init__(self, name, unit):
        self.name, self.unit, self.rates, self.memory = name, unit, {}, {}

    def add(self, who, rate, memory=None):
        self.rates.setdefault(who, []).append(rate)
        if memory:
            self.memory[who] = max(memory, self.memory.get(who, 0))

    def lines(self):
        ours = statistics.median(self.rates["Passer"])
        for who, rates in self.rates.items():
            middle = statistics.median(rates)
            digits = 0 if middle >= 1000 else 1 if middle >= 100 else 2
            spread = f"{middle:.{digits}f} ({min(rates):.{digits}f}–{max(rates):.{digits}f})"
            ratio = "" if who == "Passer" else f"{ours / middle:.2f}"
            memory = f"{self.memory[who]:.0f}" if who in self.memory else ""
            yield f"| {self.name} | {who} | {spread} {self.unit} | {ratio} | {memory} |"


class Table:
    def __init__(self, title):
        print(f"\n### {title}\n\n| what | who | median (smallest–largest) | Passer's rate over theirs | peak memory, MiB |\n|---|---|---|---|---|")

    def print(self, row):
        print(*row.lines(), sep="\n", flush=True)


def small_images(photos, out):
    """An image folder of 32 px pieces of the photographs, so that reading costs what it costs with small images."""
    from PIL import Image

    out.mkdir()
    made = 0
    with tarfile.open(photos) as tar:
        for member in tar:
            if not member.name.lower().endswith((".jpg", ".jpeg")):
                continue
            photo = Image.open(tar.extractfile(member)).convert("RGB").resize((160, 128))
            for left in range(0, 160, 32):
                for top in range(0, 128, 32):
                    photo.crop((left, top, left + 32, top + 32)).save(out / f"{made}.png")
                    made += 1


def steps(a, scratch):
    table = Table("Training steps")
    run([TARGET / "passer", "shards", "pack", a.photos, "--out", scratch / "photos"], a.threads)
    small_images(a.photos, scratch / "pieces")
    run([TARGET / "passer", "shards", "pack", scratch / "pieces", "--out", scratch / "small"], a.threads)
    for name, config, batch, counts, settings, theirs in STEPS:
        if a.match.lower() not in name.lower():
            continue
        row = Row(name, "images/s")
        with open(ROOT / f"configs/pretrain/{config}.toml", "rb") as file:
            views = tomllib.load(file)["views"]
        for group, count in counts.items():
            views[group]["count"] = count
        small = batch > 100
        given = [f"views={inline(views)}", f"data.batch_images={batch}", "training.epochs=1", "training.log_every_steps=1", "data.workers=2"]
        given.append("schedule={ cosine_per_step = {} }")
        given += settings
        other = [*theirs[1:]]
        if theirs[0] == "method.py":
            other = [ROOT / f"configs/pretrain/{config}.toml", "--batch", batch]
            other += [f"--count={group}={count}" for group, count in counts.items()]
        limit = (a.steps + 2) * batch
        data = scratch / f"data-{config}"
        source = scratch / ("small" if small else "photos")
        run([TARGET / "passer", "shards", "pack", source, "--limit", limit, "--out", data], a.threads)
        for number in range(a.rounds):
            out = scratch / f"run-{config}-{number}"
            command = [TARGET / "passer", "pretrain", f"configs/pretrain/{config}.toml", "--device", "flex", "--data", data, "--out", out]
            log = run([*command, *(part for setting in given for part in ("--set", setting))], a.threads).stderr
            rates = [json.loads(line)["images_per_second"] for line in (out / "metrics.jsonl").read_text().splitlines()][2:]
            row.add("Passer", statistics.median(rates), int(re.search(r"peak memory (\d+) MiB", log)[1]))
            run(["rm", "-rf", out], a.threads)
            for layout in ("contiguous", "channels-last"):
                flags = ["--channels-last"] if layout == "channels-last" else []
                made = python(theirs[0], *other, *flags, "--steps", a.steps, "--threads", a.threads, threads=a.threads)
                row.add(f"PyTorch, {layout}", made["images_per_second"], made["peak_rss_mb"])
        table.print(row)


def loader(a, scratch):
    table = Table("Making views")
    for recipe in ("moco", "dino"):
        for workers in range(1, a.threads + 1):
            row = Row(f"{recipe}'s recipe, {workers} worker{'s'[: workers - 1]}", "views/s")
            for _ in range(a.rounds):
                row.add("Passer", *run_measured([TARGET / "examples/loader_bench", a.photos, workers, 24, recipe], a.threads))
                for source in ("torchvision", "webdataset"):
                    command = [sys.executable, HERE / "loader.py", a.photos, workers, 6, "--recipe", recipe, "--source", source]
                    row.add(source, *run_measured(command, a.threads))
                if DALI:
                    command = [sys.executable, HERE / "loader_dali.py", a.photos, workers, 6, "--recipe", recipe]
                    row.add("DALI", *run_measured(command, a.threads))
            table.print(row)


def features(a, scratch):
    table = Table("Features of frozen encoders, 250 photographs from file to vector, start-up and first batches included")
    for model, batch in (("resnet50", 32), ("vit_small_patch16_224", 32)):
        row = Row(f"{model}, 224 px", "images/s")
        weights = scratch / f"{model}.pth"
        for number in range(a.rounds):
            theirs = python("features.py", a.photos, model, weights, "--batch", batch, "--threads", a.threads, threads=a.threads)
            start = time.perf_counter()
            out = scratch / f"{model}-{number}.safetensors"
            run(
                [TARGET / "passer", "features", "--device", "flex", "--encoder", weights, "--data", a.photos]
                + ["--size-px", 224, "--batch-images", batch, "--workers", a.threads, "--out", out],
                a.threads,
            )
            seconds = time.perf_counter() - start
            row.add("Passer", theirs["images"] / seconds)
            row.add("PyTorch", theirs["images_per_second"], theirs["peak_rss_mb"])
        table.print(row)


def updates(a, scratch):
    table = Table("Optimizers and moving average alone")
    rows = {}
    for _ in range(a.rounds):
        ours = json.loads(run([TARGET / "examples/update_bench"], a.threads).stdout)
        theirs = python("updates.py", "--threads", a.threads, threads=a.threads)
        for name, milliseconds in ours.items():
            row = rows.setdefault(name, Row(name, "updates/s"))
            row.add("Passer", 1000 / milliseconds)
            row.add("PyTorch", 1000 / theirs[name])
    for row in rows.values():
        table.print(row)


PARTS = {"steps": steps, "loader": loader, "features": features, "updates": updates}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--match", default="", help="of the training steps, only those whose name holds this")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a round, after two to warm up")
    parser.add_argument("--threads", type=int, default=2, help="of either side")
    a = parser.parse_args()
    # `-p cli` each time, so that Burn is built with the same features.
    build = ["cargo", "build", "--release", "--locked", "-p", "cli"]
    run([*build, "--bins", "-p", "data", "--example", "loader_bench", "-p", "training", "--example", "update_bench"], a.threads)
    with tempfile.TemporaryDirectory() as scratch:
        for part in a.only:
            PARTS[part](a, pathlib.Path(scratch))


if __name__ == "__main__":
    main()
