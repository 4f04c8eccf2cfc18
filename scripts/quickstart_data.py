#!/usr/bin/env python3
"""Makes the images that `passer quickstart` ships: a class-balanced part of Fashion-MNIST, as gzipped IDX files.

Source: Debian's package `dataset-fashion-mnist` (MIT, Zalando SE):

    apt-get install dataset-fashion-mnist
    python3 scripts/quickstart_data.py /usr/share/datasets/fashion-mnist crates/cli/quickstart

Takes the first 600 training images and the first 200 test images of each of the ten classes, in the order of the
source, so that the result is the same everywhere. Standard library only.
"""
import gzip
import struct
import sys
from pathlib import Path

PER_CLASS = {"train": 600, "t10k": 200}


def read(path: Path, magic: int) -> tuple[list[int], bytes]:
    raw = gzip.decompress(path.read_bytes())
    dims = raw[3]
    if struct.unpack(">I", raw[:4])[0] != magic:
        sys.exit(f"{path}: expected an IDX file with magic number {magic}")
    sizes = list(struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims]))
    return sizes, raw[4 + 4 * dims :]


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    for split, per_class in PER_CLASS.items():
        sizes, pixels = read(source / f"{split}-images-idx3-ubyte.gz", 2051)
        _, labels = read(source / f"{split}-labels-idx1-ubyte.gz", 2049)
        area = sizes[1] * sizes[2]
        taken = [0] * 10
        keep = []
        for index, label in enumerate(labels):
            if taken[label] < per_class:
                taken[label] += 1
                keep.append(index)
        assert taken == [per_class] * 10, taken
        images = b"".join(pixels[index * area : (index + 1) * area] for index in keep)
        header = struct.pack(">IIII", 2051, len(keep), sizes[1], sizes[2])
        files = {
            f"{split}-images-idx3-ubyte.gz": header + images,
            f"{split}-labels-idx1-ubyte.gz": struct.pack(">II", 2049, len(keep)) + bytes(labels[i] for i in keep),
        }
        for name, content in files.items():
            # No time stamp: the same input gives the same bytes.
            (target / name).write_bytes(gzip.compress(content, 9, mtime=0))
            print(f"{target / name}: {len(keep)} records, {(target / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
