"""Views per second of NVIDIA DALI's pipeline on the CPU, on the photographs and with the recipes of loader.py.

    python scripts/bench/loader_dali.py DATA.tar THREADS BATCHES [--recipe moco|dino]

Needs `nvidia-dali-cuda120` from PyPI; no GPU. The files lie in memory, which favours DALI. An image is decoded once for all its views.
"""

import argparse
import tarfile
import time

import numpy as np
from nvidia.dali import fn, pipeline_def, types

from loader import BATCH, WARM_UP

# side in px, area, probability of blur, of solarisation; saturation and hue jitter
RECIPES = {
    "moco": ([(224, (0.2, 1.0), 0.5, 0.0)] * 2, 0.4, 0.1),
    "dino": ([(224, (0.4, 1.0), 1.0, 0.0), (224, (0.4, 1.0), 0.1, 0.2), *[(96, (0.05, 0.4), 0.5, 0.0)] * 8], 0.2, 0.1),
}


def within(width):
    return fn.random.uniform(range=(1 - width, 1 + width))


def view(image, side, area, blur, solarize, saturation, hue):
    image = fn.random_resized_crop(image, size=side, random_area=area)
    image = fn.flip(image, horizontal=fn.random.coin_flip())
    if fn.random.coin_flip(probability=0.8, dtype=types.BOOL):
        turn = fn.random.uniform(range=(-360 * hue, 360 * hue))
        image = fn.color_twist(image, brightness=within(0.4), contrast=within(0.4), saturation=within(saturation), hue=turn)
    if fn.random.coin_flip(probability=0.2, dtype=types.BOOL):
        image = fn.saturation(image, saturation=0.0)
    if fn.random.coin_flip(probability=blur, dtype=types.BOOL):
        image = fn.gaussian_blur(image, sigma=fn.random.uniform(range=(0.1, 2.0)))
    if solarize > 0 and fn.random.coin_flip(probability=solarize, dtype=types.BOOL):
        image = fn.cast((image < 128) * image + (image >= 128) * (255 - image), dtype=types.UINT8)
    return image


@pipeline_def(enable_conditionals=True, device_id=None, prefetch_queue_depth=2)
def pipeline(files, recipe):
    views, saturation, hue = RECIPES[recipe]
    encoded = fn.external_source(lambda sample: files[sample.idx_in_epoch % len(files)], batch=False, dtype=types.UINT8)
    image = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
    return tuple(view(image, *shape, saturation, hue) for shape in views)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path")
    parser.add_argument("threads", type=int)
    parser.add_argument("batches", type=int)
    parser.add_argument("--recipe", choices=RECIPES, default="moco")
    a = parser.parse_args()
    with tarfile.open(a.path) as tar:
        members = [m for m in tar if m.name.lower().endswith((".jpg", ".jpeg"))]
        files = [np.frombuffer(tar.extractfile(member).read(), dtype=np.uint8) for member in members]
    made = pipeline(files, a.recipe, batch_size=BATCH, num_threads=a.threads, seed=0)
    made.build()
    for _ in range(WARM_UP):
        made.run()
    start, views = time.perf_counter(), 0
    for _ in range(a.batches):
        views += sum(len(output) for output in made.run())
    print(f"{views / (time.perf_counter() - start):.1f}")


if __name__ == "__main__":
    main()
