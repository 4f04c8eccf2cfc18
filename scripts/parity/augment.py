"""Fixtures of `crates/data`'s transforms: what Pillow gives for fixed parameters, as torchvision calls it, and how
torchvision draws the parameters.

Run from the repository root, with Pillow and torchvision installed:

    python scripts/parity/augment.py

Writes crates/data/fixtures/augment.json.gz (cases with fixed parameters) and crates/data/fixtures/sampling.json.gz
(quantiles of drawn parameters). Read by crates/data/src/transforms/parity.rs, which states the tolerances.
"""

import gzip
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms import functional as F
from torchvision.transforms.functional import InterpolationMode

OUT = Path("crates/data/fixtures")
FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def picture(width, height, kind):
    """`smooth` resembles a photograph; `noise` is the hardest case for rounding and overshoot."""
    rng = np.random.default_rng(7)
    if kind == "noise":
        return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    y, x = np.mgrid[0:height, 0:width]
    waves = [127.5 + 127.5 * np.sin(x / (3 + c) + y / (7 - c) + c) for c in range(3)]
    return Image.fromarray(np.clip(np.stack(waves, -1) + rng.normal(0, 8, (height, width, 3)), 0, 255).astype(np.uint8))


def case(name, source, result, **parameters):
    assert result.mode == "RGB"
    return {
        "name": name,
        "source": source,
        "parameters": parameters,
        "width": result.width,
        "height": result.height,
        "pixels": result.tobytes().hex(),
    }


def fixed_cases(sources):
    for source in ("smooth", "noise"):
        image = sources[source]
        for filter_name, filter_ in FILTERS.items():
            # Reduced, enlarged, one direction each, and a crop at the border whose outside must not enter.
            for left, top, width, height, size in [
                (0, 0, 24, 18, [8, 8]),
                (3, 2, 17, 11, [16, 16]),
                (19, 12, 5, 6, [14, 14]),
                (6, 1, 12, 16, [12, 12]),
                (1, 1, 22, 10, [10, 14]),
            ]:
                result = F.resized_crop(image, top, left, height, width, size, filter_)
                yield case(
                    "crop_and_resize", source, result, filter=filter_name, left=left, top=top, crop_width=width, crop_height=height
                )
        for factor in (0.0, 0.61, 1.37, 2.5):
            yield case("brightness", source, F.adjust_brightness(image, factor), factor=factor)
            yield case("contrast", source, F.adjust_contrast(image, factor), factor=factor)
            yield case("saturation", source, F.adjust_saturation(image, factor), factor=factor)
        for turn in (-0.5, -0.1, -0.003, 0.0, 0.07, 0.4):
            yield case("hue", source, F.adjust_hue(image, turn), turn=turn)
        for sigma in (0.1, 0.5, 1.3, 2.0, 4.5, 30.0):
            yield case("blur", source, image.filter(ImageFilter.GaussianBlur(radius=sigma)), sigma=sigma)
        for threshold in (0, 128, 255):
            yield case("solarize", source, ImageOps.solarize(image, threshold), threshold=threshold)
        yield case("grayscale", source, F.rgb_to_grayscale(image, num_output_channels=3))
        yield case("flip", source, F.hflip(image))
        for size in (10, 13, 30):
            yield case("center_crop", source, F.center_crop(image, [size, size]), size=size)
        for shorter in (9, 18, 21):
            yield case("shorter_side", source, F.resize(image, shorter, InterpolationMode.BILINEAR), shorter=shorter)


def colour_cubes():
    """SHA-256 of Pillow's conversions of all 2^24 colours, in the order 000000, 000001 (blue first to change), ..., ffffff."""
    values = np.arange(1 << 24, dtype=np.uint32)
    cube = np.stack([values >> 16, values >> 8 & 255, values & 255], -1).astype(np.uint8).reshape(4096, 4096, 3)
    rgb = Image.fromarray(cube, "RGB")
    hsv = Image.frombytes("HSV", (4096, 4096), cube.tobytes())
    digest = lambda image: hashlib.sha256(image.tobytes()).hexdigest()
    return {"hsv_from_rgb": digest(rgb.convert("HSV")), "rgb_from_hsv": digest(hsv.convert("RGB")), "luma": digest(rgb.convert("L"))}


def quantiles(values):
    """The 99 percentiles."""
    return [float(q) for q in np.quantile(np.array(values, dtype=np.float64), np.arange(1, 100) / 100)]


def sampling(draws=20000):
    torch.manual_seed(0)
    out = {"draws": draws, "crops": [], "jitter": {}}
    # A usual photograph; one so long that most tries fail and the fallback is taken; a small one.
    for width, height, scale in [(500, 375, [0.2, 1.0]), (1000, 60, [0.2, 1.0]), (32, 32, [0.08, 1.0])]:
        image = torch.empty(3, height, width)
        boxes = [RandomResizedCrop.get_params(image, scale, [3 / 4, 4 / 3]) for _ in range(draws)]
        top, left, h, w = np.array(boxes).T
        out["crops"].append(
            {
                "width": width,
                "height": height,
                "scale": scale,
                "area": quantiles(w * h / (width * height)),
                "log_ratio": quantiles(np.log(w / h)),
                "left": quantiles(left / width),
                "top": quantiles(top / height),
            }
        )
    jitter = ColorJitter(0.4, 1.5, 0.4, 0.1)
    params = [ColorJitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(draws)]
    for at, name in enumerate(["brightness", "contrast", "saturation", "hue"], start=1):
        out["jitter"][name] = quantiles([p[at] for p in params])
    orders = [tuple(p[0].tolist()) for p in params]
    out["jitter"]["order_share"] = {"".join(map(str, o)): orders.count(o) / draws for o in sorted(set(orders))}
    return out


def write(name, content):
    content["made_with"] = f"Pillow {PIL.__version__}, torchvision {torchvision.__version__}"
    text = json.dumps(content, separators=(",", ":")).encode()
    # Time 0 keeps the file the same from run to run.
    packed = gzip.compress(text, 9, mtime=0)
    assert len(packed) <= 100_000, (name, len(packed))
    (OUT / name).write_bytes(packed)
    print(name, len(packed), "bytes")


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    sources = {kind: picture(24, 18, kind) for kind in ("smooth", "noise")}
    # The noise picture is needed where rounding and clipping are at stake; elsewhere the smooth one will do.
    heavy = {"crop_and_resize", "hue", "blur", "saturation"}
    cases = [c for c in fixed_cases(sources) if c["source"] == "smooth" or c["name"] in heavy]
    write(
        "augment.json.gz",
        {
            "sources": {
                kind: {"width": image.width, "height": image.height, "pixels": image.tobytes().hex()} for kind, image in sources.items()
            },
            "cases": cases,
            "cubes": colour_cubes(),
        },
    )
    write("sampling.json.gz", sampling())
