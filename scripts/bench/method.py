"""Times training steps of DINO, SwAV, SimCLR or BYOL in PyTorch on the CPU by a config of Passer's, to set beside Passer's.

    python scripts/bench/method.py configs/pretrain/dino-vit-small-16-pass.toml --batch 4 --count 2=4 [--threads 2] [--steps 6]

Prints one JSON object as moco_resnet50.py does. Networks, losses and optimizers are those of scripts/parity/curve.py; a step
is normalising u8 views, both networks, loss, backward, optimizer and teacher. Images are noise; making views is not timed.
"""

import argparse
import pathlib
import sys
import time
import tomllib

import torch

from report import report

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))
from curve import METHODS, by_size  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--batch", type=int, required=True, help="images a step")
    parser.add_argument("--count", action="append", default=[], help="GROUP=VIEWS: another number of views of a group")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--channels-last", action="store_true", help="PyTorch's other memory layout")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    with open(a.config, "rb") as file:
        config = tomllib.load(file)
    config["data"]["batch_images"] = a.batch
    for given in a.count:
        group, views = given.split("=")
        config["views"][int(group)]["count"] = int(views)

    method = METHODS[next(iter(config["objective"]))](config, 1000)
    layout = torch.channels_last if a.channels_last else torch.contiguous_format
    for module in [*method.student, *getattr(method, "teacher", getattr(method, "target", []))]:
        module.to(memory_format=layout)
    generator = torch.Generator().manual_seed(0)
    views = []
    for group in config["views"]:
        size = next(iter(group["transforms"][0].values()))["size_px"]
        shape = (a.batch, 3, size, size)
        views += [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(group["count"])]
    mean, std = config["data"]["normalize"]["mean"], config["data"]["normalize"]["std"]

    seconds = []
    for step in range(a.warm_up + a.steps):
        start = time.perf_counter()
        groups = [group.contiguous(memory_format=layout) for group in by_size(views, mean, std)]
        loss = method.train(groups, step)
        seconds.append(time.perf_counter() - start)
    report(
        a,
        seconds,
        a.batch,
        {
            "config": pathlib.Path(a.config).name,
            "batch": a.batch,
            "views": len(views),
            "last_loss": round(loss, 4),
        },
    )


if __name__ == "__main__":
    main()
