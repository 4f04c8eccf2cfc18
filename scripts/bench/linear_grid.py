"""DINOv2's grid of 52 linear classifiers (13 learning rates, 4 inputs) trained by PyTorch on stored features, compared with Passer's
`linear-cached-grid` on the same: the accuracy of the classifier chosen on records held out, time, and peak memory on top of the data.

    python scripts/bench/linear_grid.py GRID.safetensors --threads 2 --seeds 8
    RAYON_NUM_THREADS=2 cargo run --release -p evaluation --example speed -- grid GRID.safetensors 8

Needs numpy, torch, safetensors; Linux. Features are clouds of 50 classes, 768 wide, at five taps (class tokens of the last four blocks,
each noisier than the next, and a mean of patches), 10,000 records to learn from and 10,000 to test. Each side draws its own weights,
order and held-out tenth, a new one for each seed: one classifier of 52 is chosen by 1,000 records, so that single seeds lie far apart.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

RATES = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1]
TAPS = ["class_token_1", "class_token_2", "class_token_3", "class_token_4", "patch_mean"]
INPUTS = {
    "1 block": ["class_token_1"],
    "1 block + patches": ["class_token_1", "patch_mean"],
    "4 blocks": ["class_token_4", "class_token_3", "class_token_2", "class_token_1"],
    "4 blocks + patches": ["class_token_4", "class_token_3", "class_token_2", "class_token_1", "patch_mean"],
}
CLASSES, BATCH, STEPS = 50, 256, 400


def make(path, rows, width):
    draws = np.random.default_rng(0)
    centres = {tap: draws.normal(size=(CLASSES, width)) for tap in TAPS}
    noise = dict(zip(TAPS, [9.0, 10.0, 11.0, 12.0, 10.0]))
    tensors = {}
    for part in ["train", "test"]:
        labels = draws.integers(CLASSES, size=rows)
        tensors[f"{part}.labels"] = labels.astype(np.int64)
        for tap in TAPS:
            points = centres[tap][labels] + noise[tap] * draws.normal(size=(rows, width))
            tensors[f"{part}.{tap}"] = (0.3 * points).astype(np.float32)
    save_file(tensors, path)


def memory_mib(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def run(data, width, seed):
    torch.manual_seed(seed)
    labels = data["train.labels"]
    order = torch.randperm(len(labels))
    held, kept = order[: len(labels) // 10], order[len(labels) // 10 :]
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory_mib("VmRSS:"), time.perf_counter()

    heads, groups = {}, []
    for name, taps in INPUTS.items():
        for rate in RATES:
            head = torch.nn.Linear(width * len(taps), CLASSES)
            torch.nn.init.normal_(head.weight, std=0.01)
            torch.nn.init.zeros_(head.bias)
            heads[name, rate] = head
            groups.append({"params": head.parameters(), "lr": rate * BATCH / 256})
    optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=0)
    rows = lambda part, name, at: torch.cat([data[f"{part}.{tap}"][at] for tap in INPUTS[name]], 1)
    per_epoch = len(kept) // BATCH
    for step in range(STEPS):
        if step % per_epoch == 0:
            epoch = kept[torch.randperm(len(kept))]
        at = epoch[(step % per_epoch) * BATCH :][:BATCH]
        inputs = {name: rows("train", name, at) for name in INPUTS}
        loss = sum(torch.nn.functional.cross_entropy(head(inputs[name]), labels[at]) for (name, _), head in heads.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

    def accuracy(part, at, truth):
        right = {key: 0 for key in heads}
        with torch.no_grad():
            for block in at.split(1024):
                inputs = {name: rows(part, name, block) for name in INPUTS}
                for key, head in heads.items():
                    right[key] += (head(inputs[key[0]]).argmax(1) == truth[block]).sum().item()
        return {key: count / len(at) for key, count in right.items()}

    validated = accuracy("train", held, labels)
    tested = accuracy("test", torch.arange(len(data["test.labels"])), data["test.labels"])
    best = max(validated, key=validated.get)
    seconds = time.perf_counter() - start
    print(
        f"pytorch      {len(heads)} classifiers, {STEPS} steps  {seconds:7.2f} s, {memory_mib('VmHWM:') - before:5.0f} MiB on top; chosen "
        f"{best[0]}, rate {best[1]}: {100 * tested[best]:.2f} % of the test records ({100 * validated[best]:.2f} % held out)"
    )
    return 100 * tested[best], seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("features")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    make(arguments.features, arguments.rows, arguments.width)
    torch.set_num_threads(arguments.threads)
    data = {name: torch.from_numpy(values) for name, values in load_file(arguments.features).items()}
    found = [run(data, arguments.width, seed) for seed in range(arguments.seeds)]
    top1, seconds = zip(*found)
    print(
        f"pytorch      {len(found)} seeds: {np.mean(top1):.2f} +- {np.std(top1, ddof=min(1, len(found) - 1)):.2f} % of the test records, "
        f"median {np.median(seconds):.2f} s"
    )


main()
