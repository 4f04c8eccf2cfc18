"""Fixture of RandAugment and random erasing in `crates/data`: timm's pixels for fixed magnitudes, and how timm draws.

Run from the repository root, with timm and Pillow installed:

    python scripts/parity/rand_augment.py

Writes crates/data/fixtures/rand_augment.json.gz, read by crates/data/src/transforms/parity_timm.rs, which states the
tolerances. The pictures are those of augment.py.
"""

import collections
import gzip
import json
import random
from pathlib import Path

import numpy as np
import PIL
import timm
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing

from augment import picture

OUT = Path("crates/data/fixtures/rand_augment.json.gz")
FILL = (124, 116, 104)
RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
GEOMETRIC = {"Rotate": (-30, -27.3, 4.1, 30), "ShearX": (-0.3, 0.27), "ShearY": (0.3, -0.11), "TranslateXRel": (0.45, -0.2), "TranslateYRel": (-0.45, 0.13)}
OTHERS = {
    "AutoContrast": [()],
    "Equalize": [()],
    "Invert": [()],
    "PosterizeIncreasing": [(1,), (4,)],  # 0 bits, at magnitude 10, are black; newer Pillows refuse them
    "SolarizeIncreasing": [(0,), (26,), (256,)],
    "SolarizeAdd": [(0,), (99,), (110,)],
    "ColorIncreasing": [(0.1,), (1.81,)],
    "ContrastIncreasing": [(0.19,), (1.9,)],
    "BrightnessIncreasing": [(0.1,), (1.81,)],
    "SharpnessIncreasing": [(0.1,), (0.6,), (1.81,)],
}
DRAWS = 20_000


def quantiles(values):
    return [float(q) for q in np.quantile(np.array(values, dtype=np.float64), np.arange(1, 100) / 100)]


def cases(sources):
    assert set(GEOMETRIC) | set(OTHERS) == set(auto_augment._RAND_INCREASING_TRANSFORMS)
    for source, image in sources.items():
        # Noise is the hardest case for overshoot; for the rest the smooth picture will do.
        noise = source == "noise"
        for name, amounts in GEOMETRIC.items():
            for amount in amounts[:1] if noise else amounts:
                for sampling, resample in RESAMPLE.items():
                    made = auto_augment.NAME_TO_OP[name](image, amount, fillcolor=FILL, resample=resample)
                    yield {"name": name, "source": source, "arguments": [amount], "sampling": sampling, "pixels": made.tobytes().hex()}
        for name, all_arguments in OTHERS.items():
            if noise and name not in ("SharpnessIncreasing", "Equalize"):
                continue
            for arguments in all_arguments:
                made = auto_augment.NAME_TO_OP[name](image, *arguments)
                yield {"name": name, "source": source, "arguments": list(arguments), "sampling": None, "pixels": made.tobytes().hex()}


def drawn():
    """What `rand-m9-mstd0.5-inc1` does to many pictures: how often each operation, and with which arguments."""
    found = collections.defaultdict(list)
    samplings = collections.Counter()

    def recorder(name):
        def record(image, *arguments, resample=None, **_):
            found[name].append(arguments)
            if name in GEOMETRIC:
                samplings[random.choice(resample) == Image.Resampling.BICUBIC] += 1
            return image

        return record

    random.seed(0)
    np.random.seed(0)
    before = dict(auto_augment.NAME_TO_OP)
    auto_augment.NAME_TO_OP.update({name: recorder(name) for name in auto_augment._RAND_INCREASING_TRANSFORMS})
    augment = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 100, "img_mean": FILL})
    image = Image.new("RGB", (8, 8))
    counts = collections.Counter()
    for _ in range(DRAWS):
        so_far = sum(map(len, found.values()))
        augment(image)
        counts[sum(map(len, found.values())) - so_far] += 1
    auto_augment.NAME_TO_OP.update(before)
    return {
        "draws": DRAWS,
        "operations_share": {str(count): n / DRAWS for count, n in sorted(counts.items())},
        "share": {name: len(arguments) / DRAWS for name, arguments in sorted(found.items())},
        "argument": {name: quantiles([a[0] for a in arguments]) for name, arguments in sorted(found.items()) if arguments[0]},
        "argument_draws": {name: len(arguments) for name, arguments in sorted(found.items())},
    }


def erased():
    random.seed(1)
    erasing = RandomErasing(probability=0.25, mode="const", device="cpu")
    width, height = 96, 64
    boxes = []
    for _ in range(DRAWS):
        erasing_mask = erasing(torch.ones(1, height, width))[0] == 0
        rows, columns = erasing_mask.any(1).nonzero().flatten(), erasing_mask.any(0).nonzero().flatten()
        if len(rows):
            boxes.append((int(columns[0]), int(rows[0]), len(columns), len(rows)))
    left, top, w, h = np.array(boxes).T
    return {
        "draws": DRAWS,
        "width": width,
        "height": height,
        "probability": 0.25,
        "share": len(boxes) / DRAWS,
        "boxes": len(boxes),
        "area": quantiles(w * h / (width * height)),
        "log_aspect": quantiles(np.log(h / w)),
        "left": quantiles(left / width),
        "top": quantiles(top / height),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    sources = {kind: picture(24, 18, kind) for kind in ("smooth", "noise")}
    content = {
        "made_with": f"timm {timm.__version__}, Pillow {PIL.__version__}",
        "fill": FILL,
        "sources": {kind: {"width": 24, "height": 18, "pixels": image.tobytes().hex()} for kind, image in sources.items()},
        "cases": list(cases(sources)),
        "drawn": drawn(),
        "erased": erased(),
    }
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0)
    assert len(packed) <= 120_000, len(packed)
    OUT.write_bytes(packed)
    print(OUT.name, len(packed), "bytes", content["drawn"]["operations_share"], content["erased"]["share"])
