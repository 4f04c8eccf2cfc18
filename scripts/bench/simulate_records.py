"""Makes a data set of any number of records that takes the disk space of one shard: hard links to it, each with an index of its own.

    python scripts/bench/simulate_records.py IMAGES.tar OUT --records 10000000

IMAGES.tar is a shard of small images (`passer shards pack`). Each link's index, written here as docs/formats.md describes it,
names other keys and other content hashes, as a real data set's would; the pictures behind them are the shard's.
"""

import argparse
import os
import pathlib
import struct
import tarfile
import zlib

import numpy as np

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")


def section(array):
    content = array if isinstance(array, bytes) else array.tobytes()
    return struct.pack("<Q", len(content)) + content


def index(shard, blocks, lengths, number, generator):
    """The index of the shard's `number`th link: keys of 32 hexadecimal digits, as long as those of PASS."""
    records, stat = len(blocks), shard.stat()
    hashes = generator.integers(0, 256, (records, 32), dtype=np.uint8)
    names = "".join(f"{number:08x}{row:08x}" + bytes(hashes[row, :8]).hex() for row in range(records)).encode()
    ends = np.arange(1, records + 1, dtype="<u4") * 32
    empty = np.zeros(0, dtype="<u4")
    body = b"PASSERIX" + struct.pack("<IIQqQ", 1, 1, stat.st_size, stat.st_mtime_ns, 0)
    body += section(names) + section(b'[[0,""]]') + section(b"[]")
    for column in (ends, blocks, lengths, empty, empty, empty, empty, empty, hashes):
        body += section(column)
    return body + struct.pack("<I", zlib.crc32(body))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shard", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--records", type=int, required=True)
    a = parser.parse_args()
    with tarfile.open(a.shard) as tar:
        images = [(m.offset_data // 512, m.size) for m in tar if m.name.lower().endswith(IMAGES)]
    blocks, lengths = (np.array(column, dtype="<u4") for column in zip(*images, strict=True))
    a.out.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number, first in enumerate(range(0, a.records, len(images))):
        count = min(len(images), a.records - first)
        link = a.out / f"shard-{number:06}.tar"
        os.link(a.shard, link)
        made = index(link, blocks[:count], lengths[:count], number, generator)
        link.with_name(f"{link.name}.idx").write_bytes(made)


if __name__ == "__main__":
    main()
