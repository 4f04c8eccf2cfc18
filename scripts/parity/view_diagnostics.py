"""LiDAR and alignment of drawn features by NumPy and SciPy, by their definitions: more columns than images, and fewer. Writes
crates/evaluation/fixtures/view_diagnostics.json.

    python scripts/parity/view_diagnostics.py crates/evaluation/fixtures
"""

import itertools
import json
import pathlib
import sys

import numpy as np
from scipy.linalg import fractional_matrix_power

EPSILON = 1e-8


def lidar(views, delta):
    images, count, width = views.shape
    means = views.mean(1)
    apart = (views - means[:, None]).reshape(-1, width)
    within = apart.T @ apart / len(apart) + delta * np.eye(width)
    between = np.cov(means.T, bias=True)
    root = fractional_matrix_power(within, -0.5).real
    values = np.clip(np.linalg.eigvalsh(root @ between @ root), 0, None)
    shares = values / values.sum() + EPSILON
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(views):
    unit = views / np.linalg.norm(views, axis=2, keepdims=True)
    pairs = itertools.combinations(range(views.shape[1]), 2)
    return float(np.mean([((unit[:, a] - unit[:, b]) ** 2).sum(1).mean() for a, b in pairs]))


def main(folder):
    draws = np.random.default_rng(0)
    cases = []
    for images, count, width in [(20, 5, 6), (6, 4, 9)]:
        rows = draws.normal(size=(images, 1, width)) * np.linspace(0.2, 2, width) + 0.4 * draws.normal(size=(images, count, width))
        rows = rows.astype(np.float32)
        wide = rows.astype(np.float64)
        cases.append({
            "views": count, "width": width, "rows": [float(f"{value:.9g}") for value in rows.ravel()], "delta": 1e-4,
            "lidar": lidar(wide, 1e-4), "alignment": alignment(wide),
        })
    pathlib.Path(folder, "view_diagnostics.json").write_text(json.dumps(cases))


main(sys.argv[1])
