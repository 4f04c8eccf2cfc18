"""How far our JPEG decoder is from Pillow's (libjpeg-turbo) on real photographs.

Run from the repository root, with Pillow and numpy installed, after `cargo build --release -p data --example decode_raw`:

    python scripts/parity/jpeg_difference.py PHOTOS.tar [TARGET_FOLDER]
"""

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def main():
    program = Path(sys.argv[2] if len(sys.argv) > 2 else "target") / "release/examples/decode_raw"
    counts, worst = np.zeros(256, dtype=np.int64), []
    with tarfile.open(sys.argv[1]) as tar, tempfile.TemporaryDirectory() as folder:
        for member in tar:
            if not member.name.lower().endswith((".jpg", ".jpeg")):
                continue
            content = tar.extractfile(member).read()
            path = Path(folder) / "image.jpg"
            path.write_bytes(content)
            raw = subprocess.run([program, path], check=True, capture_output=True).stdout
            width, height = np.frombuffer(raw[:8], dtype="<u4")
            ours = np.frombuffer(raw[8:], dtype=np.uint8).reshape(height, width, 3)
            theirs = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
            assert ours.shape == theirs.shape, member.name
            difference = np.abs(ours.astype(np.int16) - theirs)
            counts += np.bincount(difference.ravel(), minlength=256)
            worst.append((int(difference.max()), member.name))
    values = np.arange(256)
    total = counts.sum()
    print(f"{len(worst)} photographs, {total} values, of 255: mean difference {(counts * values).sum() / total:.4f},")
    print(f"equal {counts[0] / total:.4%}, over 1: {counts[2:].sum() / total:.4%}, over 3: {counts[4:].sum() / total:.5%}")
    print("largest:", sorted(worst, reverse=True)[:5])


if __name__ == "__main__":
    main()
