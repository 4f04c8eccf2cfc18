"""Makes crates/objectives/fixtures/swav.json and swav_loss.json: SwAV's training steps and its loss, from the paper's formulas.

    python scripts/parity/swav.py

Written from arXiv:2006.09882: eq. 2 (swapped prediction), eq. 3 to 5 (assignments by Sinkhorn's iterations on exp(scores / eps),
prototypes to 1 / K, images to 1 / B, three times), appendix A (prototypes of length 1 before each forward, queue). lightly's
SwaVLoss is the second witness of the loss: it takes the same scores and must give the same number.
Scores of the loss's cases are u(seed, i) of scripts/parity/formula.py.
"""

import itertools
import json

import torch
import torch.nn.functional as F
from torch import nn

from formula import FIXTURES, Mlp, fill, record, sample, u
from moco import resnet


def sinkhorn(scores, epsilon, iterations):
    """`[B, K]` scores to assignments whose rows sum to 1."""
    q = torch.exp(scores / epsilon).T
    q = q / q.sum()
    k, b = q.shape
    for _ in range(iterations):
        q = q / q.sum(1, keepdim=True) / k
        q = q / q.sum(0, keepdim=True) / b
    return (q * b).T


def swav_loss(views, queues, temperature, epsilon, iterations):
    """`views` are scores `[B, K]`, the first two of global views; `queues` are scores of queued embeddings, or None."""
    loss = 0.0
    for t in range(2):
        with torch.no_grad():
            scores = views[t].detach()
            together = scores if queues is None else torch.cat([queues[t], scores])
            q = sinkhorn(together, epsilon, iterations)[-len(scores) :]
        others = [v for s, v in enumerate(views) if s != t]
        loss = loss + sum(-(q * F.log_softmax(v / temperature, 1)).sum(1).mean() for v in others) / len(others)
    return loss / 2


def loss_cases():
    from lightly.loss import SwaVLoss

    cases = []
    grid = itertools.product([(8, 2, 6, 0), (5, 8, 11, 20), (16, 4, 40, 16)], [0.1, 0.5], [(0.05, 3), (0.03, 5)])
    for seed, ((images, views, prototypes, queue), temperature, (epsilon, iterations)) in enumerate(grid):
        scores = u(seed, (views * images, prototypes)).double().requires_grad_()
        queues = [u(500 + t, (queue, prototypes)).double() for t in range(2)] if queue else None
        parts = scores.chunk(views)
        loss = swav_loss(parts, queues, temperature, epsilon, iterations)
        theirs = SwaVLoss(temperature, iterations, epsilon, sinkhorn_gather_distributed=False)(
            list(parts[:2]), list(parts[2:]), queues
        )
        assert abs(loss - theirs) < 1e-6 * loss, (loss, theirs)
        (gradient,) = torch.autograd.grad(loss, scores)
        cases.append(
            {
                "seed": seed,
                "images": images,
                "views": views,
                "prototypes": prototypes,
                "queue": queue,
                "temperature": temperature,
                "epsilon": epsilon,
                "iterations": iterations,
                "loss": loss.item(),
                "gradient": sample(gradient, 32),
            }
        )
    path = FIXTURES / "swav_loss.json"
    text = {"generator": "scripts/parity/swav.py", "torch": torch.__version__, "cases": cases}
    path.write_text(json.dumps(text) + "\n")
    print(path.name, len(cases), "cases,", path.stat().st_size, "bytes")


SETTINGS = {
    "objective": {
        "hidden_width": 24,
        "embedding_width": 16,
        "prototypes": 30,
        "temperature": 0.1,
        "sinkhorn_epsilon": 0.05,
        "sinkhorn_iterations": 3,
        "freeze_prototypes_epochs": 1,
        "queue": {"images": 32, "from_epoch": 1},
    },
    "backbone": {"resnet": {"depth": 18, "width": 4, "stem": "small"}},
    "views": [(2, 16), (2, 8)],
    "images": 16,
    "batch_norm_images": None,
    "steps": 20,
    "steps_per_epoch": 5,
    "learning_rate": 5e-5,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}


def build(dtype):
    o, images = SETTINGS["objective"], SETTINGS["images"]
    backbone = resnet(18, 4, "small")
    projector = Mlp(backbone.features, [o["hidden_width"]], o["embedding_width"], True, True, True)
    prototypes = nn.Linear(o["embedding_width"], o["prototypes"], bias=False)
    modules = {"backbone": backbone, "projector": projector, "prototypes": prototypes}
    for module in modules.values():
        module.to(dtype).train()
    parameters = fill(modules)

    def normalise_prototypes():
        prototypes.weight.copy_(F.normalize(prototypes.weight, dim=1))

    with torch.no_grad():
        normalise_prototypes()
    queue = torch.zeros(2, o["queue"]["images"], o["embedding_width"], dtype=dtype)
    start = o["queue"]["from_epoch"] * SETTINGS["steps_per_epoch"]
    newest = []

    def loss(views, step):
        features = torch.cat([backbone(group) for group in views])
        embeddings = F.normalize(projector(features), dim=1)
        scores = prototypes(embeddings).split(images)
        newest[:] = [e.detach() for e in embeddings.split(images)[:2]]
        full = (step - start) * images >= queue.shape[1]
        queues = [queue[t] @ prototypes.weight.detach().T for t in range(2)] if full else None
        return swav_loss(scores, queues, o["temperature"], o["sinkhorn_epsilon"], o["sinkhorn_iterations"])

    def after(step):
        normalise_prototypes()
        if step >= start:
            for t in range(2):
                queue[t] = torch.cat([newest[t], queue[t][:-images]])

    def frozen(step):
        return ["prototypes"] if step // SETTINGS["steps_per_epoch"] < o["freeze_prototypes_epochs"] else []

    return parameters, loss, after, frozen


if __name__ == "__main__":
    loss_cases()
    record("swav", SETTINGS, build)
