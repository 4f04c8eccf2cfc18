"""Makes crates/objectives/fixtures/infonce.json: InfoNCE with a queue, value and gradient.

    python scripts/parity/infonce.py [--out crates/objectives/fixtures/infonce.json]

Only outputs are stored; both sides make the inputs from this formula, in float64, and round them to
float32 last (the reference then computes in float64 on the rounded numbers):

    noise(i, phase) = 2 * frac(43758.5453 * sin(12.9898 * (i + 1) + phase)) - 1,  frac(v) = v - floor(v)
    query[n, d] = noise(n * D + d, 0)                            not normalised
    key[n, d]   = noise(n * D + d, 0) / 2 + noise(n * D + d, 1)      not normalised; its query's positive
    queue[j, d] = noise(j * D + d, 2)                            not normalised, rows are keys

The loss L2-normalises the rows of all three, then is the mean over n of
-log(exp(q.k+ / T) / (exp(q.k+ / T) + sum_j exp(q.queue_j / T))), eq. 1 of MoCo. `gradient` is with respect
to the un-normalised query, every `stride`-th element of the flat `[N, D]` array, from element 0.

As a second opinion every case is computed by lightly's NTXentLoss with a memory bank, whose definition
is the same when a bank is given (one direction, positives from the pair, negatives from the bank alone);
the script fails where the two differ by more than 1e-9.
"""

import argparse
import json
import pathlib

import numpy as np
import torch
import torch.nn.functional as F

from moco import info_nce

# (queries N, width D, queue K): one image, few, a batch; a small and MoCo's own width.
SHAPES = [(1, 8, 16), (4, 8, 16), (32, 8, 256), (4, 128, 256), (32, 128, 256), (32, 128, 4096)]
TEMPERATURES = [0.07, 0.2]  # MoCo v1 and v2
WHOLE = 512  # gradients of up to this many elements are stored whole
SAMPLED = 256


def noise(rows, width, phase):
    index = np.arange(1, rows * width + 1, dtype=np.float64)
    value = 43758.5453 * np.sin(12.9898 * index + phase)
    return (2 * (value - np.floor(value)) - 1).reshape(rows, width)


def rounded(array):
    return torch.from_numpy(array.astype(np.float32))


def inputs(queries, width, keys):
    query = noise(queries, width, 0.0)
    key = query / 2 + noise(queries, width, 1.0)
    return rounded(query), rounded(key), rounded(noise(keys, width, 2.0))


def reference(query, key, queue, temperature):
    query = query.clone().requires_grad_()
    unit = [F.normalize(rows, dim=1) for rows in (query, key, queue)]
    loss = info_nce(*unit, temperature)
    loss.backward()
    return loss.detach(), query.grad


def second_opinion(query, key, queue, temperature):
    from lightly.loss import NTXentLoss

    criterion = NTXentLoss(temperature=temperature, memory_bank_size=tuple(queue.shape)).double()
    bank = F.normalize(queue, dim=1)
    # Whichever way round this version of lightly keeps its bank, [K, D] or [D, K].
    criterion.memory_bank.bank = bank if criterion.memory_bank.bank.shape == bank.shape else bank.T.clone()
    query = query.clone().requires_grad_()
    loss = criterion(query, key)
    loss.backward()
    return loss.detach(), query.grad


def relative(ours, reference):
    return float((ours.double() - reference).norm() / reference.norm())


def case(queries, width, keys, temperature):
    single = inputs(queries, width, keys)
    double = [tensor.double() for tensor in single]
    loss, gradient = reference(*double, temperature)
    for name, value, expected in zip(
        ("loss", "gradient"), second_opinion(*double, temperature), (loss, gradient), strict=True
    ):
        if relative(value, expected) > 1e-9:
            raise SystemExit(f"lightly's {name} differs by {relative(value, expected):.2e}")
    loss32, gradient32 = reference(*single, temperature)
    stride = 1 if gradient.numel() <= WHOLE else gradient.numel() // SAMPLED
    return {
        "queries": queries,
        "width": width,
        "queue": keys,
        "temperature": temperature,
        "loss": float(loss),
        "gradient_norm": float(gradient.norm()),
        "stride": stride,
        "gradient": [float(f"{v:.9e}") for v in gradient.flatten()[::stride]],
        # What PyTorch itself loses in float32 (design: a bound out of reach becomes three times this).
        "torch_float32_error": {
            "loss": float(f"{relative(loss32, loss):.2e}"),
            "gradient": float(f"{relative(gradient32, gradient):.2e}"),
        },
    }


def main():
    root = pathlib.Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=root / "crates/objectives/fixtures/infonce.json")
    out = parser.parse_args().out
    torch.set_num_threads(1)
    cases = [case(*shape, temperature) for shape in SHAPES for temperature in TEMPERATURES]
    generator = "scripts/parity/infonce.py; the formula for the inputs is at its top"
    lines = ",\n".join(json.dumps(c) for c in cases)
    text = f'{{"generator": "{generator}", "torch": "{torch.__version__}", "tolerance": 1e-5, "cases": [\n{lines}\n]}}\n'
    out.write_text(text)
    worst = max(max(c["torch_float32_error"].values()) for c in cases)
    print(f"{out}: {len(cases)} cases, {len(text)} bytes; torch's own float32 error at most {worst:.1e}")


if __name__ == "__main__":
    main()
