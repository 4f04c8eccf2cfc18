"""Pretrains a narrow ResNet-18 with MoCo-v2 on part of CIFAR-10, wholly in PyTorch and torchvision.

    python scripts/parity/moco_curve.py --data cifar10-jpeg.tar.gz --out curve.jsonl [--seed 0] [--threads 2]

Each line of the output is {"epoch", "loss", "knn", "lr", "seconds"}: the epoch's mean loss, the kNN accuracy
on the test images after it, and the epoch's wall-clock training time. Epoch 0 is the network before training.
The line before it holds the settings. Same seed, same threads: same numbers.

The tree holds train/CLASS/NAME.jpg and test/CLASS/NAME.jpg; --per-class names of each class, evenly spread in
sorted order, are trained on, all test images tested. Epochs shuffle all images and drop the last partial batch.
The views are those of MoCo-v2, blur left out at 32 px unless --blur is given. kNN is DINO's: cosine similarity of
L2-normalised pooled features of the un-augmented images, in evaluation mode; the k nearest vote for
their classes with weight exp(similarity / 0.07).
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import sys
import tarfile
import time

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from moco import Branch, Moco, cosine_per_epoch, normalise, random_queue, resnet

# CIFAR-10's channel statistics, as in configs/pretrain/moco-v2-resnet18-cifar10.toml.
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def read_images(path, per_class):
    """{"train": (images, labels), "test": ...} of a .tar.gz; images are PIL, classes in sorted order."""
    found = collections.defaultdict(dict)  # (split, class) -> {name: bytes}
    with tarfile.open(path) as tar:
        for member in tar:
            parts = pathlib.PurePosixPath(member.name).parts
            if member.isfile() and len(parts) == 3 and parts[0] in ("train", "test"):
                found[parts[:2]][parts[2]] = tar.extractfile(member).read()
    if not found:
        raise SystemExit(f"{path}: no train/CLASS/NAME or test/CLASS/NAME in it")
    splits = {"train": ([], []), "test": ([], [])}
    classes = sorted({name for _, name in found})
    for (split, name), files in sorted(found.items()):
        images, labels = splits[split]
        names = sorted(files)
        if split == "train":  # evenly spread, as `passer shards pack --limit` takes them
            names = [names[i * len(names) // per_class] for i in range(per_class)]
        for file in names:
            images.append(Image.open(io.BytesIO(files[file])).convert("RGB"))
            labels.append(classes.index(name))
    return splits


class PillowBlur:
    """Pillow's Gaussian blur of radius U(0.1, 2), as MoCo-v2 has it (torchvision's own uses a kernel)."""

    def __call__(self, image):
        return image.filter(ImageFilter.GaussianBlur(float(torch.empty(1).uniform_(0.1, 2.0))))


def augmentation(size, blur):
    """MoCo-v2's, in its order."""
    steps = [
        transforms.RandomResizedCrop(size, scale=(0.2, 1.0)),
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
    ]
    if blur:
        steps.append(transforms.RandomApply([PillowBlur()], p=0.5))
    steps += [transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    return transforms.Compose(steps)


class TwoViews(Dataset):
    """Two u8 views an image, drawn from (seed, epoch, image, view) alone, whatever the workers."""

    def __init__(self, images, size, seed, blur=False):
        self.images, self.seed, self.epoch = images, seed, 0
        self.transform = augmentation(size, blur)

    def __len__(self):
        return len(self.images)

    def view(self, index, number):
        words = np.random.SeedSequence((self.seed, self.epoch, index, number)).generate_state(1, np.uint64)
        torch.manual_seed(int(words[0]))
        return self.transform(self.images[index])

    def __getitem__(self, index):
        return self.view(index, 0), self.view(index, 1)


def batches(dataset, batch, epoch, workers):
    """One epoch of (query, key) u8 batches `[B, 3, H, W]`; the order depends on (seed, epoch)."""
    dataset.epoch = epoch
    generator = torch.Generator().manual_seed(dataset.seed * 100_003 + epoch)
    return DataLoader(dataset, batch, shuffle=True, drop_last=True, num_workers=workers, generator=generator)


def stack(images):
    return torch.stack([transforms.functional.pil_to_tensor(image) for image in images])


@torch.no_grad()
def features(encoder, images, mean, std):
    """L2-normalised pooled features `[N, width]` in evaluation mode."""
    encoder.eval()
    rows = [encoder(normalise(part, mean, std)) for part in images.split(500)]
    encoder.train()
    return F.normalize(torch.cat(rows), dim=1)


def knn_accuracy(bank, bank_labels, queries, labels, k, temperature):
    correct = 0
    classes = int(bank_labels.max()) + 1
    for part, expected in zip(queries.split(1000), labels.split(1000), strict=True):
        similarity, nearest = (part @ bank.T).topk(k, dim=1)
        votes = torch.zeros(len(part), classes)
        votes.scatter_add_(1, bank_labels[nearest], (similarity / temperature).exp())
        correct += int((votes.argmax(1) == expected).sum())
    return correct / len(queries)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="cifar10-jpeg.tar.gz")
    parser.add_argument("--out", help="JSON lines; default: standard output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--stop-after", type=int, help="epochs to run of the schedule; default: all")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=0.06)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--queue", type=int, default=4096)
    parser.add_argument("--m", type=float, default=0.99, help="momentum of the key encoder")
    parser.add_argument("--temperature", type=float, default=0.2)
    parser.add_argument("--batch-norm-images", type=int, default=32)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--blur", action="store_true")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--knn-temperature", type=float, default=0.07)
    parser.add_argument("--mean", type=float, nargs=3, default=MEAN)
    parser.add_argument("--std", type=float, nargs=3, default=STD)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that make views; 0: in line")
    return parser.parse_args()


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    splits = read_images(a.data, a.per_class)
    (train, train_labels), (test, test_labels) = splits["train"], splits["test"]
    train_labels, test_labels = torch.tensor(train_labels), torch.tensor(test_labels)
    train_pixels, test_pixels = stack(train), stack(test)
    dataset = TwoViews(train, train[0].width, a.seed, a.blur)

    torch.manual_seed(a.seed)
    query, key = (Branch(resnet(18, a.width, "small", a.batch_norm_images)) for _ in range(2))
    optimizer = torch.optim.SGD(query.parameters(), lr=a.lr, momentum=0.9, weight_decay=a.weight_decay)
    generator = torch.Generator().manual_seed(a.seed)
    queue = random_queue(a.queue, 128, generator)
    moco = Moco(query, key, queue, a.m, a.temperature, optimizer)

    def knn():
        bank, queries = (features(query.encoder, x, a.mean, a.std) for x in (train_pixels, test_pixels))
        return knn_accuracy(bank, train_labels, queries, test_labels, a.k, a.knn_temperature)

    with open(a.out, "w") if a.out else contextlib.nullcontext(sys.stdout) as out:

        def line(record):
            print(json.dumps(record), file=out, flush=True)

        line({"settings": vars(a), "torch": torch.__version__, "train": len(train), "test": len(test)})
        line({"epoch": 0, "loss": None, "knn": knn(), "lr": None, "seconds": 0.0})
        for epoch in range(a.stop_after or a.epochs):
            rate = cosine_per_epoch(a.lr, epoch, a.epochs)
            optimizer.param_groups[0]["lr"] = rate
            start, losses = time.monotonic(), []
            for views in batches(dataset, a.batch, epoch, a.workers):
                first, second = (normalise(view, a.mean, a.std) for view in views)
                losses.append(moco.step(first, second, torch.randperm(a.batch, generator=generator)))
            seconds = round(time.monotonic() - start, 2)
            loss = sum(losses) / len(losses)
            line({"epoch": epoch + 1, "loss": loss, "knn": knn(), "lr": rate, "seconds": seconds})


if __name__ == "__main__":
    main()
