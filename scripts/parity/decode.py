"""Fixtures of `crates/data`'s decoder: images of every kind, written by Pillow, with the RGB pixels Pillow reads from them.

Run from the repository root, with Pillow and numpy installed:

    python scripts/parity/decode.py

Writes crates/data/fixtures/decode.json.gz. Read by crates/data/src/decode/tests.rs.
"""

import gzip
import io
import json
from pathlib import Path

import numpy as np
import PIL
from PIL import Image, ImageOps

OUT = Path("crates/data/fixtures/decode.json.gz")


def picture(width=33, height=22):
    y, x = np.mgrid[0:height, 0:width]
    planes = [127.5 + 120 * np.sin(x / (5 + c) + y / (9 - c) + c) for c in range(3)]
    return Image.fromarray(np.stack(planes, -1).astype(np.uint8))


def encoded(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def exif(orientation):
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def files():
    image = picture()
    gray = image.convert("L")
    # JPEG: the tolerances allow for another inverse DCT and other chroma upsampling.
    yield "jpeg 4:4:4", encoded(image, "JPEG", quality=95, subsampling=0), 3
    yield "jpeg 4:2:0", encoded(image, "JPEG", quality=95, subsampling=2), 6
    yield "jpeg 4:2:2", encoded(image, "JPEG", quality=95, subsampling=1), 6
    yield "jpeg progressive", encoded(image, "JPEG", quality=95, subsampling=0, progressive=True), 3
    yield "jpeg restarts", encoded(image, "JPEG", quality=95, subsampling=0, restart_marker_blocks=1), 3
    yield "jpeg gray", encoded(gray, "JPEG", quality=95), 2
    yield "jpeg cmyk", encoded(image.convert("CMYK"), "JPEG", quality=95), 4
    for orientation in range(1, 9):
        yield f"jpeg orientation {orientation}", encoded(image, "JPEG", quality=95, subsampling=0, exif=exif(orientation)), 3
    yield "png rgb", encoded(image, "PNG"), 0
    yield "png gray", encoded(gray, "PNG"), 0
    yield "png 1 bit", encoded(gray.convert("1"), "PNG"), 0
    rgba = image.copy()
    rgba.putalpha(gray)
    yield "png rgba", encoded(rgba, "PNG"), 0
    la = gray.copy()
    la.putalpha(gray)
    yield "png gray alpha", encoded(la, "PNG"), 0
    yield "png palette", encoded(image.quantize(32), "PNG"), 0
    yield "png palette transparent", encoded(image.quantize(32), "PNG", transparency=3), 0
    yield "png orientation 6", encoded(image, "PNG", exif=exif(6)), 0
    yield "webp lossless", encoded(image, "WEBP", lossless=True), 0
    yield "webp lossy", encoded(image, "WEBP", quality=90), 4
    yield "webp alpha", encoded(rgba, "WEBP", lossless=True, exact=True), 0
    yield "bmp rgb", encoded(image, "BMP"), 0
    yield "bmp palette", encoded(image.quantize(32), "BMP"), 0
    yield "gif", encoded(image.quantize(32), "GIF"), 0
    yield "gif animated", encoded(image.quantize(32), "GIF", save_all=True, append_images=[gray.quantize(32)], duration=50), 0


def main():
    cases = []
    for name, content, tolerance in files():
        with Image.open(io.BytesIO(content)) as image:
            rgb = ImageOps.exif_transpose(image).convert("RGB")
        cases.append(
            {
                "name": name,
                "tolerance": tolerance,
                "encoded": content.hex(),
                "width": rgb.width,
                "height": rgb.height,
                "pixels": rgb.tobytes().hex(),
            }
        )
    text = json.dumps({"made_with": f"Pillow {PIL.__version__}", "cases": cases}, separators=(",", ":")).encode()
    packed = gzip.compress(text, 9, mtime=0)
    assert len(packed) <= 100_000, len(packed)
    OUT.write_bytes(packed)
    print(OUT, len(packed), "bytes,", len(cases), "images")


if __name__ == "__main__":
    main()
