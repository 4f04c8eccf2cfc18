"""Views per second of torchvision's loader under MoCo-v2's recipe: the Python half of `scripts/bench/loader.sh`.

Usage: loader.py DATA.tar WORKERS BATCHES [--float]; prints one number. The same photographs, batch and recipe as
`crates/data/examples/loader_bench.rs`. Views stay 8-bit, as ours do, which favours torchvision; `--float` adds its usual
ToTensor and Normalize.
"""

import io
import random
import sys
import tarfile
import time

import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WARM_UP = 2


class GaussianBlur:
    """MoCo-v2's: Pillow's blur with a radius drawn from [0.1, 2]."""

    def __call__(self, image):
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def recipe(as_float):
    to_tensor = (
        [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]
        if as_float
        else [transforms.PILToTensor()]
    )
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([GaussianBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            *to_tensor,
        ]
    )


class Photos(Dataset):
    def __init__(self, path, batches, transform):
        with tarfile.open(path) as tar:
            self.places = [(m.offset_data, m.size) for m in tar if m.name.lower().endswith((".jpg", ".jpeg"))]
        self.path, self.length, self.transform, self.file = path, batches * 64, transform, None

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.file = self.file or open(self.path, "rb")
        offset, size = self.places[index % len(self.places)]
        self.file.seek(offset)
        image = Image.open(io.BytesIO(self.file.read(size))).convert("RGB")
        return self.transform(image), self.transform(image)


def main():
    path, workers, batches = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    data = Photos(path, WARM_UP + batches, recipe("--float" in sys.argv))
    loader = iter(DataLoader(data, batch_size=64, shuffle=True, num_workers=workers))
    for _ in range(WARM_UP):
        next(loader)
    start, views = time.perf_counter(), 0
    for first, second in loader:
        views += len(first) + len(second)
    print(f"{views / (time.perf_counter() - start):.1f}")


if __name__ == "__main__":
    main()
