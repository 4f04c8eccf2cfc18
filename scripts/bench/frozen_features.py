"""kNN and k-means of scikit-learn and faiss on 10,000 (or `--rows 100000`) x 768 features, beside Passer's: time, and peak memory on top
of the data.

    python scripts/bench/frozen_features.py FEATURES.safetensors
    RAYON_NUM_THREADS=2 cargo run --release -p evaluation --example speed -- features FEATURES.safetensors

Needs numpy, scikit-learn, safetensors, and faiss-cpu where it is to be compared; Linux. Threads: set OMP_NUM_THREADS. There are 10,000
test rows whatever the number of training rows. Features are clouds of 200 classes in float32; k-means
runs 20 of Lloyd's iterations from centres that lie in the file. Each call runs in a process of its own.
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file


def make(path, rows, width):
    generator = np.random.default_rng(0)
    classes = generator.normal(size=(200, width))

    def draw(count):
        points = classes[generator.integers(200, size=count)] + 2.0 * generator.normal(size=(count, width))
        return np.maximum(points + 0.5, 0.0).astype(np.float32)

    train, test = draw(rows), draw(10_000)
    starts = {f"start_{k}": train[generator.permutation(rows)[:k]] for k in (100, 1000)}
    save_file({"train": train, "test": test, **starts}, path)


def memory_mib(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    return 0.0


def child(path, name):
    from sklearn.cluster import KMeans
    from sklearn.neighbors import NearestNeighbors

    try:
        import faiss
    except ImportError:
        faiss = None
    library, _, name = name.partition(" ")
    if library == "faiss" and faiss is None:
        print("faiss        is not installed")
        return
    data = load_file(path)
    train, test = data["train"], data["test"]
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (train, test)]
    note = ""
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory_mib("VmRSS:"), time.perf_counter()
    if library == "faiss" and name == "cosine":
        index = faiss.IndexFlatIP(train.shape[1])
        index.add(unit[0])
        index.search(unit[1], 20)
    elif library == "faiss":
        k = int(name)
        # All rows, as the others have: by itself it would take 256 a centre.
        search = faiss.Kmeans(train.shape[1], k, niter=20, max_points_per_centroid=len(train), min_points_per_centroid=1)
        search.train(train, init_centroids=data[f"start_{k}"])
        note = f", inertia {search.obj[-1]:.6e} before the last of 20 updates"
    elif name == "cosine":
        NearestNeighbors(n_neighbors=20, algorithm="brute", metric="cosine").fit(train).kneighbors(test)
    elif name == "euclidean":
        # On rows of length 1, which is the same ranking and scikit-learn's fastest way.
        NearestNeighbors(n_neighbors=20, algorithm="brute", metric="euclidean").fit(unit[0]).kneighbors(unit[1])
    else:
        k = int(name)
        search = KMeans(k, init=data[f"start_{k}"], n_init=1, max_iter=20, tol=0.0).fit(train)
        note = f", inertia {search.inertia_:.6e} after {search.n_iter_} iterations"
    seconds = time.perf_counter() - start
    print(f"{library:<12} {name:<24} {seconds:7.2f} s, {memory_mib('VmHWM:') - before:5.0f} MiB on top{note}")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("features")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    arguments = parser.parse_args()
    make(arguments.features, arguments.rows, arguments.width)
    context = multiprocessing.get_context("spawn")
    names = [f"scikit-learn {name}" for name in ("cosine", "euclidean", "100", "1000")]
    for name in names + [f"faiss {name}" for name in ("cosine", "100", "1000")]:
        process = context.Process(target=child, args=(arguments.features, name))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
