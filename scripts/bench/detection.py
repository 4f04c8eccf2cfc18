"""Training steps and inference of Faster and Mask R-CNN R50-FPN: Passer beside torchvision, default layout and channels-last.

    python scripts/bench/detection.py PROGRAM [--rounds 5] [--threads 2]

PROGRAM is the example `detector_step` of crates/cli. Two pictures of 320 x 416 px, four objects each, frozen norms, stem
and first stage frozen, 1,000 proposals in training and 300 at test, SGD with momentum, float32. Each side is a process of its own;
medians after two rounds of warm-up; prints one JSON object per network.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

SIZE = (320, 416)
WARMUP = 2


def torchvision_side(kind, layout, rounds, threads):
    import torch
    from torchvision.models import detection
    from torchvision.models.detection.image_list import ImageList

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    make = detection.maskrcnn_resnet50_fpn if kind == "mask" else detection.fasterrcnn_resnet50_fpn
    from torchvision.ops import FrozenBatchNorm2d

    model = make(
        weights=None, weights_backbone=None, num_classes=91, rpn_pre_nms_top_n_train=1000, rpn_post_nms_top_n_train=1000,
        rpn_pre_nms_top_n_test=1000, rpn_post_nms_top_n_test=300, norm_layer=FrozenBatchNorm2d,
    )  # fmt: skip
    for name, parameter in model.backbone.body.named_parameters():
        if name.startswith(("conv1", "bn1", "layer1")):
            parameter.requires_grad_(False)
    if layout == "channels_last":
        model = model.to(memory_format=torch.channels_last)
    count = 2 * 3 * SIZE[0] * SIZE[1]
    pixels = ((torch.arange(count) * 7919) % 1009).float() / 504.5 - 1.0
    pixels = pixels.reshape(2, 3, *SIZE)
    boxes = [[20.0, 30.0, 180.0, 200.0], [150.0, 60.0, 400.0, 300.0], [10.0, 220.0, 90.0, 310.0], [230.0, 10.0, 330.0, 90.0]]

    def target():
        masks = torch.zeros(4, *SIZE, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[int(y0) : int(y1), int(x0) : int(x1)] = 1
        return {"boxes": torch.tensor(boxes), "labels": torch.tensor([1, 17, 3, 41]), "masks": masks}

    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9, weight_decay=1e-4)

    def images():
        made = pixels.clone()
        return ImageList(made.contiguous(memory_format=torch.channels_last) if layout == "channels_last" else made, [SIZE, SIZE])

    steps, passes = [], []
    model.train()
    for round_ in range(WARMUP + rounds):
        started = time.perf_counter()
        batch, targets = images(), [target(), target()]
        features = model.backbone(batch.tensors)
        proposals, of_proposals = model.rpn(batch, features, targets)
        _, of_regions = model.roi_heads(features, proposals, batch.image_sizes, targets)
        optimizer.zero_grad()
        sum([*of_proposals.values(), *of_regions.values()]).backward()
        optimizer.step()
        if round_ >= WARMUP:
            steps.append(time.perf_counter() - started)
    model.eval()
    with torch.inference_mode():
        for round_ in range(WARMUP + rounds):
            started = time.perf_counter()
            batch = images()
            features = model.backbone(batch.tensors)
            proposals, _ = model.rpn(batch, features)
            model.roi_heads(features, proposals, batch.image_sizes)
            if round_ >= WARMUP:
                passes.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({
        "step_seconds": round(statistics.median(steps), 3), "inference_seconds": round(statistics.median(passes), 3),
        "peak_rss_mb": round(peak),
    }))  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.side:
        return torchvision_side(*a.side, a.rounds, a.threads)

    def run(command):
        environment = {**os.environ, "RAYON_NUM_THREADS": str(a.threads)}
        return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)

    for kind in ("faster", "mask"):
        python = [sys.executable, __file__, a.program, "--rounds", str(a.rounds), "--threads", str(a.threads), "--side", kind]
        sides = {
            "passer": run([a.program, kind, str(a.rounds)]),
            "default": run([*python, "default"]),
            "channels_last": run([*python, "channels_last"]),
        }
        best = {key: min(sides["default"][key], sides["channels_last"][key]) for key in sides["passer"]}
        ratios = {key.removesuffix("_seconds"): round(best[key] / sides["passer"][key], 2) for key in best}
        print(json.dumps({"network": kind, **sides, "ratio_to_the_better": ratios}), flush=True)


if __name__ == "__main__":
    main()
