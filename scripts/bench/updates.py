"""Milliseconds of optimizer steps and of the moving average alone in PyTorch, on ResNet-50's and ViT-S/16's parameters.

    python scripts/bench/updates.py [--threads 2]

The Rust half is crates/training/examples/update_bench.rs. PyTorch's default on a CPU is taken (`foreach`), and `torch._foreach_lerp_`
for the average, which is the quickest that it has.
"""

import argparse
import json
import statistics
import time

import timm
import torch


def median(update):
    update()
    seconds = []
    for _ in range(15):
        start = time.perf_counter()
        update()
        seconds.append(time.perf_counter() - start)
    return round(1000 * statistics.median(seconds), 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    made = {}
    for name, model in (("ResNet-50", "resnet50"), ("ViT-S/16", "vit_small_patch16_224")):
        student, teacher = (list(timm.create_model(model, num_classes=0).parameters()) for _ in range(2))
        for parameter in student:
            parameter.grad = torch.randn_like(parameter) * 1e-3
        sgd = torch.optim.SGD(student, lr=1e-3, momentum=0.9, weight_decay=1e-4)
        adamw = torch.optim.AdamW(student, lr=1e-3, weight_decay=0.04)
        made[f"SGD, {name}"] = median(sgd.step)
        made[f"AdamW, {name}"] = median(adamw.step)
        with torch.no_grad():
            made[f"moving average, {name}"] = median(lambda t=teacher, s=student: torch._foreach_lerp_(t, s, 0.001))
    print(json.dumps(made))


if __name__ == "__main__":
    main()
