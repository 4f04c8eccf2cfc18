"""Times MoCo-v2 training steps in PyTorch on the CPU, to compare with Passer's.

    python scripts/bench/moco_resnet50.py [--model resnet50|resnet18-small] [--threads 2] [--steps 10]

Prints one JSON object: images_per_second (images, not views: batch / median seconds of a step), seconds_per_step,
peak_rss_mb (MiB of the process, its highest), and the settings. A step is what a run does once views
are made: normalise two u8 views, query forward, key forward, loss, backward, SGD, EMA, queue.
Images are noise; making views is not timed.
"""

import argparse
import pathlib
import sys
import time

import torch

from report import report

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))
from moco import Branch, Moco, normalise, random_queue, resnet  # noqa: E402

# name: (depth, width, stem, image size in px, batch, batch_norm_images)
MODELS = {
    "resnet50": (50, 64, "imagenet", 224, 8, None),
    "resnet18-small": (18, 16, "small", 32, 256, 32),
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="resnet50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--batch-norm-images", type=int, help="default: the model's; as many as the batch: not split")
    parser.add_argument("--queue", type=int, default=4096)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--channels-last", action="store_true", help="PyTorch's other memory layout")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    depth, width, stem, size, batch, group = MODELS[a.model]
    batch, group = a.batch or batch, a.batch_norm_images or group
    layout = torch.channels_last if a.channels_last else torch.contiguous_format

    def branch():
        return Branch(resnet(depth, width, stem, group)).to(memory_format=layout)

    query, key = branch(), branch()
    optimizer = torch.optim.SGD(query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)
    moco = Moco(query, key, random_queue(a.queue, 128, generator), 0.999, 0.2, optimizer)
    views = torch.randint(0, 256, (2 * batch, 3, size, size), dtype=torch.uint8, generator=generator)

    seconds = []
    for _ in range(a.warm_up + a.steps):
        order = torch.randperm(batch, generator=generator)
        start = time.perf_counter()
        first, second = normalise(views, MEAN, STD).contiguous(memory_format=layout).chunk(2)
        loss = moco.step(first, second, order)
        seconds.append(time.perf_counter() - start)
    report(
        a,
        seconds,
        batch,
        {
            "model": a.model,
            "image_px": size,
            "batch": batch,
            "batch_norm_images": group or batch,
            "queue": a.queue,
            "last_loss": round(loss, 4),
        },
    )


if __name__ == "__main__":
    main()
