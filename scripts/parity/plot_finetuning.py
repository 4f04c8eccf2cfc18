"""Draws docs/finetuning.svg and prints the table of docs/finetuning.md, from run directories of `passer evaluate finetune`.

    python scripts/parity/plot_finetuning.py docs/finetuning.svg TITLE LABEL=RUN [LABEL=RUN ...] [-- TITLE LABEL=RUN ...]

One panel for each part between `--`. Runs of one label are its seeds: lines are means, bands the range. Needs matplotlib.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "passer"
import matplotlib.pyplot as plt  # noqa: E402


def curve(run):
    lines = [json.loads(line) for line in (Path(run) / "validation.jsonl").read_text().splitlines()]
    return {line["step"]: 100 * line["top1"] for line in lines}


def test(run):
    results = json.loads((Path(run) / "result.json").read_text())
    return next(100 * result["value"] for result in results if result["metric"] == "top1")


def panels(arguments):
    panel = []
    for argument in [*arguments, "--"]:
        if argument == "--":
            yield panel[0], [item.split("=", 1) for item in panel[1:]]
            panel = []
        else:
            panel.append(argument)


def main():
    parts = list(panels(sys.argv[2:]))
    figure, axes = plt.subplots(1, len(parts), figsize=(4.5 * len(parts), 3.4), squeeze=False)
    for axis, (title, runs) in zip(axes[0], parts):
        for colour, label in enumerate(dict.fromkeys(label for label, _ in runs)):
            of_label = [run for name, run in runs if name == label]
            curves = [curve(run) for run in of_label]
            steps = sorted(set.intersection(*(set(c) for c in curves)))
            rows = [[c[step] for c in curves] for step in steps]
            axis.plot(steps, [sum(row) / len(row) for row in rows], color=f"C{colour}", label=label)
            axis.fill_between(steps, [min(r) for r in rows], [max(r) for r in rows], color=f"C{colour}", alpha=0.2)
            every = max(1, len(steps) // 10)
            shown = " | ".join(f"{sum(row) / len(row):.1f}" for row in rows[every - 1 :: every])
            scores = [test(run) for run in of_label]
            print(f"{title} | {label} | {shown} | test {sum(scores) / len(scores):.2f} {[round(s, 2) for s in scores]}")
        axis.set(title=title, xlabel="step", ylabel="top-1 on held-out training records, %")
        axis.legend()
    figure.tight_layout()
    figure.savefig(sys.argv[1], metadata={"Date": None})


if __name__ == "__main__":
    main()
