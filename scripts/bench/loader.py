"""Views per second of torchvision's transforms under PyTorch's loader, or under webdataset's: the Python half of the loader's benchmark.

    python scripts/bench/loader.py DATA.tar WORKERS BATCHES [--recipe moco|dino] [--source torchvision|webdataset] [--float]

Prints one number. The same photographs, batch and recipe as `crates/data/examples/loader_bench.rs`. Views stay 8-bit, as ours do,
which favours torchvision; `--float` adds its usual ToTensor and Normalize.
"""

import argparse
import io
import random
import tarfile
import time

import torch
from PIL import Image, ImageFilter
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

WARM_UP = 2
BATCH = 64


class GaussianBlur:
    """Pillow's blur with a radius drawn from [0.1, 2], as MoCo-v2 and DINO have it."""

    def __call__(self, image):
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def ending(as_float):
    if not as_float:
        return [transforms.PILToTensor()]
    return [transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])]


def moco(as_float):
    recipe = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0)),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.RandomApply([GaussianBlur()], p=0.5),
            transforms.RandomHorizontalFlip(),
            *ending(as_float),
        ]
    )
    return [recipe] * 2


def dino(as_float):
    def recipe(side, scale, blur, solarize):
        crop = transforms.RandomResizedCrop(side, scale=scale, interpolation=transforms.InterpolationMode.BICUBIC)
        return transforms.Compose(
            [
                crop,
                transforms.RandomHorizontalFlip(),
                transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
                transforms.RandomGrayscale(p=0.2),
                transforms.RandomApply([GaussianBlur()], p=blur),
                transforms.RandomSolarize(128, p=solarize),
                *ending(as_float),
            ]
        )

    return [recipe(224, (0.4, 1.0), 1.0, 0.0), recipe(224, (0.4, 1.0), 0.1, 0.2), *[recipe(96, (0.05, 0.4), 0.5, 0.0)] * 8]


class Photos(Dataset):
    def __init__(self, path, images, views):
        with tarfile.open(path) as tar:
            self.places = [(m.offset_data, m.size) for m in tar if m.name.lower().endswith((".jpg", ".jpeg"))]
        self.path, self.length, self.views, self.file = path, images, views, None

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.file = self.file or open(self.path, "rb")
        offset, size = self.places[index % len(self.places)]
        self.file.seek(offset)
        image = Image.open(io.BytesIO(self.file.read(size))).convert("RGB")
        return [view(image) for view in self.views]


def webdataset_of(path, images, views, workers):
    """The same through webdataset's pipeline, with its own shuffle; each worker reads the one shard again and again."""
    import webdataset

    data = webdataset.WebDataset([str(path)] * max(1, workers), resampled=True, shardshuffle=False, nodesplitter=None, workersplitter=None)
    data = data.shuffle(250).decode("pilrgb").to_tuple("jpg;jpeg").map(lambda sample: [view(sample[0]) for view in views])
    return webdataset.WebLoader(data, batch_size=BATCH, num_workers=workers).slice(images // BATCH)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("workers", type=int)
    parser.add_argument("batches", type=int)
    parser.add_argument("--recipe", choices=("moco", "dino"), default="moco")
    parser.add_argument("--source", choices=("torchvision", "webdataset"), default="torchvision")
    parser.add_argument("--float", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    views = {"moco": moco, "dino": dino}[a.recipe](a.float)
    images = (WARM_UP + a.batches) * BATCH
    if a.source == "torchvision":
        loader = DataLoader(Photos(a.path, images, views), batch_size=BATCH, shuffle=True, num_workers=a.workers)
    else:
        loader = webdataset_of(a.path, images, views, a.workers)
    loader = iter(loader)
    for _ in range(WARM_UP):
        next(loader)
    start, made = time.perf_counter(), 0
    for batch in loader:
        made += sum(len(view) for view in batch)
    print(f"{made / (time.perf_counter() - start):.1f}")


if __name__ == "__main__":
    main()
