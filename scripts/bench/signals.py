"""Measures what the signals of a line of the log cost, in processor time of the same steps.

    python scripts/bench/signals.py --passer target/release/passer --data cifar10-10000 --out /tmp/signals [--rounds 5] [--steps 24]

Runs in turn the same steps with a line after each step, and with one line at the end; processor time is user and system of the whole
process, so that other programs on the machine disturb little. The difference over the lines is the cost of a line: gradient norm, teacher
distance, rank of 512 embeddings, the transfer from the device. It is printed in percent of a step, and at the config's `log_every_steps`.
What a step always computes (the terms of the loss, the deviation of embeddings) is in both. Networks are small, so real shares are lower
for the rank and equal for the passes over the weights.
"""

import argparse
import os
import pathlib
import shutil
import statistics
import subprocess
import tomllib

# Name: config, what is set.
RUNS = {
    "MoCo": ("moco-v2-resnet18", ["backbone.resnet.width=32", "data.batch_images=64", "training.batch_norm_images=32"]),
    "DINO": ("dino-vit", ["backbone.vit.width=96", "data.batch_images=32"]),
    "MAE": ("mae-vit", ["backbone.vit.width=96", "data.batch_images=64"]),
}


def seconds(arguments, config, sets, every):
    out = arguments.out / "run"
    shutil.rmtree(out, ignore_errors=True)
    path = pathlib.Path(__file__).resolve().parents[2] / f"configs/pretrain/{config}-cifar10.toml"
    sets = [*sets, f"training.steps={arguments.steps}", f"training.log_every_steps={every}", "data.workers=1"]
    command = [arguments.passer, "pretrain", path, "--device", "flex", "--data", arguments.data, "--out", out]
    command += [word for key in sets for word in ("--set", key)]
    with open(arguments.out / "log", "a") as log:
        process = subprocess.Popen(["nice", *map(str, command)], stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"see {arguments.out / 'log'}"
    return usage.ru_utime + usage.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--passer", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    print("| method | step, CPU s | a line, % of a step | lowest to highest | at a line every 50 steps, % |\n|---|---|---|---|---|")
    for name, (config, sets) in RUNS.items():
        if arguments.only and name not in arguments.only:
            continue
        costs, steps = [], []
        for _ in range(arguments.rounds):
            with_lines = seconds(arguments, config, sets, 1)
            without = seconds(arguments, config, sets, 10 * arguments.steps)
            step = without / arguments.steps
            steps.append(step)
            costs.append((with_lines - without) / (arguments.steps - 1) / step * 100)
        cost = statistics.median(costs)
        print(f"| {name} | {statistics.median(steps):.3g} | {cost:.2f} | {min(costs):.2f} to {max(costs):.2f} | {cost / 50:.3f} |", flush=True)


if __name__ == "__main__":
    main()
