"""Draws a picture of docs/parity and prints the means of docs/parity.md, from the curves of both sides.

    python scripts/parity/plot_curves.py docs/parity/moco-cifar10.svg docs/parity/{passer,torch}-{0,1,2}.jsonl

Needs matplotlib. Files whose name starts with `passer` are Passer's (curve_passer.sh), those with `torch` PyTorch's
(moco_curve.py, curve.py). Lines are means over seeds, bands the range.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "passer"
import matplotlib.pyplot as plt  # noqa: E402


def curve(path, key):
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return {line["epoch"]: line[key] for line in lines if "epoch" in line and line.get(key) is not None and line["epoch"] > 0}


def main():
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
    for side, colour in (("passer", "C0"), ("torch", "C1")):
        files = [path for path in sys.argv[2:] if Path(path).name.startswith(side)]
        for axis, key in zip(axes, ("loss", "knn")):
            curves = [curve(path, key) for path in files]
            epochs = sorted(set.intersection(*(set(c) for c in curves)))
            rows = [[c[epoch] for c in curves] for epoch in epochs]
            means = [sum(row) / len(row) for row in rows]
            axis.plot(epochs, means, color=colour, label={"passer": "Passer", "torch": "PyTorch"}[side])
            axis.fill_between(epochs, [min(r) for r in rows], [max(r) for r in rows], color=colour, alpha=0.2)
            axis.set(xlabel="epoch", ylabel={"loss": "mean loss of the epoch", "knn": "kNN accuracy (k 20)"}[key])
            print(f"{side} {key}: " + " ".join(f"{m:.4f}" for m in means) + f" | last, by seed: {rows[-1]}")
    axes[1].legend()
    figure.tight_layout()
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
