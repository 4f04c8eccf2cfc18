"""Masks, boxes and resizes of detection targets by pycocotools, Pillow and torchvision: the reference of crates/data/src/targets.

    python scripts/parity/targets.py crates/data/fixtures/targets.json.gz

Polygons come from a formula, which the Rust side repeats (crates/data/src/targets/tests.rs): numbers drawn by

    state = state * 6364136223846793005 + 1442695040888963407 mod 2^64, number = state >> 33, starting at 1

For each of 1,000 polygons: width 1 + draw % 120, height 1 + draw % 120 (anew for every tenth), corners 3 + draw % 10, spread
draw % 4, then for each corner x and y: draw % ((side + 40) * 100) / 100 - 20 at spread 0 (reaching out of the picture),
draw % (side * 10 + 1) / 10 at 1 (one decimal, where roundings are ties), draw % (side + 1) at 2 (whole numbers),
side / 2 + draw % 300 / 100 at 3 (small).

Besides pycocotools, torch and torchvision this needs Pillow.
"""

import gzip
import json
import sys

import numpy as np
import torch
import torchvision
from PIL import Image
from pycocotools import mask as coco
from torchvision.models.detection.transform import GeneralizedRCNNTransform


class Draws:
    def __init__(self):
        self.state = 1

    def draw(self, end):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.state >> 33) % end


def polygons(draws):
    for number in range(1000):
        if number % 10 == 0:
            width, height = 1 + draws.draw(120), 1 + draws.draw(120)
        corners, spread = 3 + draws.draw(10), draws.draw(4)
        flat = []
        for _ in range(corners):
            for side in (width, height):
                if spread == 0:
                    flat.append(draws.draw((side + 40) * 100) / 100 - 20)
                elif spread == 1:
                    flat.append(draws.draw(side * 10 + 1) / 10)
                elif spread == 2:
                    flat.append(float(draws.draw(side + 1)))
                else:
                    flat.append(side / 2 + draws.draw(300) / 100)
        yield width, height, flat


def text(rle):
    return rle["counts"].decode()


def masks():
    made = []
    before = None
    for width, height, flat in polygons(Draws()):
        (rle,) = coco.frPyObjects([flat], height, width)
        case = {"rle": text(rle), "area": int(coco.area(rle)), "box": [int(side) for side in coco.toBbox(rle)]}
        if before is not None and before["size"] == rle["size"]:
            case["union"] = text(coco.merge([before, rle]))
            case["intersection"] = text(coco.merge([before, rle], intersect=True))
        made.append(case)
        before = rle
    return made


def sizes(transform):
    """New sides by the real transform, for a picture of each pair of sides."""
    draws = Draws()
    made = []
    for _ in range(400):
        width, height = 1 + draws.draw(1500), 1 + draws.draw(1500)
        if max(width, height) / min(width, height) > 300:
            continue
        resized, _ = transform.resize(torch.zeros(1, height, width))
        made.append([width, height, resized.shape[2], resized.shape[1]])
    return made


def resized():
    """Boxes and masks through torchvision's transform, and masks through Pillow's nearest neighbor."""
    made = []
    for number, (width, height, flat) in enumerate(polygons(Draws())):
        if number % 50:
            continue
        short = 17 + number % 90
        transform = GeneralizedRCNNTransform(short, 2 * short, [0, 0, 0], [1, 1, 1])
        transform.eval()
        (rle,) = coco.frPyObjects([flat], height, width)
        mask = torch.from_numpy(coco.decode(rle))[None]
        box = [0.1 * width, 0.2 * height, 0.7 * width, 0.9 * height]
        target = {"boxes": torch.tensor([box], dtype=torch.float32), "masks": mask}
        image, target = transform.resize(torch.zeros(3, height, width), target)
        to_rle = lambda mask: text(coco.encode(np.asfortranarray(mask.astype(np.uint8))))
        new = (image.shape[2], image.shape[1])
        pillow = np.asarray(Image.fromarray(mask[0].numpy()).resize(new, Image.NEAREST))
        made.append({
            "number": number,
            "short": short,
            "size": list(new),
            "box": [float(edge) for edge in target["boxes"][0]],
            "torchvision": to_rle(target["masks"][0].numpy()),
            "pillow": to_rle(pillow),
        })
    return made


def pictures():
    """Pictures (7 x + 5 y + 40 channel + x y mod 11) mod 256, resized by PyTorch without antialiasing, rounded to 8 bits."""
    made = []
    for width, height, across, down in [(37, 23, 20, 41), (16, 40, 33, 80), (30, 20, 7, 5)]:
        y, x = np.mgrid[:height, :width]
        planes = [(7 * x + 5 * y + 40 * channel + x * y % 11) % 256 for channel in range(3)]
        picture = torch.from_numpy(np.stack(planes)).float()[None]
        resized = torch.nn.functional.interpolate(picture, size=(down, across), mode="bilinear", align_corners=False)
        pixels = (resized[0] + 0.5).floor().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        made.append({"size": [width, height, across, down], "pixels": pixels.tobytes().hex()})
    return made


def main(path):
    transform = GeneralizedRCNNTransform(800, 1333, [0, 0, 0], [1, 1, 1])
    transform.eval()
    fixture = {
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "pycocotools": "2.0.11"},
        "masks": masks(),
        "sizes": sizes(transform),
        "resized": resized(),
        "pictures": pictures(),
    }
    with open(path, "wb") as file:
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
            packed.write(json.dumps(fixture, separators=(",", ":")).encode())


main(sys.argv[1])
