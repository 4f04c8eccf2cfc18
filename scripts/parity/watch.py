"""Makes crates/training/fixtures/watch.json: what the log measures of embeddings, assignments, gradients and teachers.

    python scripts/parity/watch.py [--out crates/training/fixtures/watch.json]

Needs numpy and torch. Inputs come from `formula.py`, in float32; everything is computed in float64:

- `rank`: RankMe (Garrido et al. 2023, equation 1, epsilon 1e-7) from numpy's singular values;
- `spread`: the unbiased deviation of each column of `torch.nn.functional.normalize`d rows, averaged, times the root of the width;
- `entropy`: `torch.distributions.Categorical` of the moving average of the steps' mean assignments;
- `gradient_norm`: `torch.nn.utils.clip_grad_norm_`, `distance`: from `torch.nn.utils.parameters_to_vector`.
"""

import argparse
import json
import pathlib

import numpy as np
import torch

import formula

# Rows, width, and how many directions carry them: fewer rows than columns, more, a collapse to a line and nearly to a point.
SHAPES = [(40, 12, 12), (12, 40, 12), (64, 16, 3), (48, 20, 1)]
MOMENTUM = 0.9


def u(tensor, *shape):
    return formula.u(tensor, shape)


def embeddings(case):
    rows, width, directions = SHAPES[case]
    if directions == min(rows, width):
        return u(10 * case + 1, rows, width)
    # Products are rounded to float32, as the test does.
    left, right = u(10 * case + 1, rows, directions).double(), u(10 * case + 2, directions, width).double()
    return (left @ right + (5.0 if directions == 1 else 0.0)).float()


def of_embeddings(case):
    rows = embeddings(case).double()
    values = np.linalg.svd(rows.numpy(), compute_uv=False)
    share = values / values.sum() + 1e-7
    unit = torch.nn.functional.normalize(rows, dim=1)
    return {
        "shape": list(SHAPES[case]),
        "rank": float(np.exp(-(share * np.log(share)).sum())),
        "spread": float(unit.std(dim=0).mean() * rows.shape[1] ** 0.5),
    }


def of_assignments(steps, images, prototypes):
    average = None
    for step in range(steps):
        mean = torch.softmax(5 * u(100 + step, images, prototypes).double(), dim=1).mean(dim=0)
        average = mean if average is None else MOMENTUM * average + (1 - MOMENTUM) * mean
    entropy = torch.distributions.Categorical(probs=average).entropy()
    return {"steps": steps, "images": images, "prototypes": prototypes, "entropy": entropy.item()}


def of_weights():
    shapes = [(6, 4), (6,)]

    def tensor(number, shape):
        return u(number, *shape).double()

    student = [torch.nn.Parameter(tensor(200 + n, shape)) for n, shape in enumerate(shapes)]
    teacher = torch.nn.utils.parameters_to_vector([tensor(210 + n, shape) for n, shape in enumerate(shapes)])
    flat = torch.nn.utils.parameters_to_vector(student).detach()
    for n, parameter in enumerate(student):
        parameter.grad = tensor(220 + n, shapes[n])
    norm = torch.nn.utils.clip_grad_norm_(student, 1e9)
    distance = (flat - teacher).norm() / flat.norm()
    return {"gradient_norm": norm.item(), "distance": distance.item()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default="crates/training/fixtures/watch.json")
    fixture = {
        "generator": "scripts/parity/watch.py",
        "tolerance": 1e-5,
        "embeddings": [of_embeddings(case) for case in range(len(SHAPES))],
        "assignments": of_assignments(3, 9, 7),
        "weights": of_weights(),
    }
    parser.parse_args().out.write_text(json.dumps(fixture, indent=1) + "\n")


if __name__ == "__main__":
    main()
