"""A small shard written by Python's `webdataset`, for the test that we read what it writes; and the reverse check.

Run from the repository root, with webdataset, Pillow and numpy installed:

    python scripts/parity/shards.py                 writes crates/data/fixtures/python.tar
    python scripts/parity/shards.py --read SHARD... reads shards that we wrote and prints one JSON line a record
"""

import hashlib
import io
import json
import sys
import tarfile

import numpy as np
import webdataset as wds
from PIL import Image

OUT = "crates/data/fixtures/python.tar"


def image(seed, format):
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def write():
    with wds.TarWriter(OUT, mtime=0, user="x", group="x") as sink:
        sink.write({"__key__": "plain", "jpg": image(0, "JPEG"), "cls": 3, "json": {"photographer": "Ann Bé", "latitude": -1.5, "camera": "X"}})
        sink.write({"__key__": "folder/other", "png": image(1, "PNG"), "cls": 0, "txt": "a caption", "seg.png": image(9, "PNG")})
        sink.write({"__key__": "many", "webp": image(2, "WEBP"), "classes.json": [4, 1]})
        sink.write({"__key__": "l" * 120, "jpg": image(3, "JPEG"), "cls": 7})
        sink.write({"__key__": "no-image", "cls": 1})
    print(OUT)


def read(paths):
    for sample in wds.WebDataset(paths, shardshuffle=False).decode():
        line = {"key": sample["__key__"], "cls": sample.get("cls"), "json": sample.get("json"), "classes": sample.get("classes.json")}
        print(json.dumps(line, sort_keys=True))
    for path in paths:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.rsplit(".", 1)[-1] in ("jpg", "png", "webp", "bmp", "gif"):
                    print(json.dumps({"member": member.name, "sha256": hashlib.sha256(tar.extractfile(member).read()).hexdigest()}))


if __name__ == "__main__":
    read(sys.argv[2:]) if sys.argv[1:2] == ["--read"] else write()
