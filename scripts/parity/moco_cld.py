"""Makes the fixtures of crates/objectives/src/moco_cld.rs: cross-level discrimination, and twenty steps of MoCo-v2 with it.

    python scripts/parity/moco_cld.py

Written from Wang, Liu, Yu 2021 (arXiv 2008.03813); what the paper leaves open is as in its authors' program: k-means starts at
the first rows, a cluster without members has its centroid at 0, gradients pass through the last means.

moco_cld_groups.json: the CLD loss over a grid. With u(t, i) of formula.py, `first` = u(1) + 2 c and `second` = u(2) / 2 + u(1) / 2 + 2 c are
`[parts * points, width]`, c of a row being row (row mod 5) of u(3); rows are then brought to length 1. `gradients` are with respect
to both as they were before that, sampled. A second witness of k-means is scikit-learn's, wherever no cluster is empty.

moco_cld.json: formula.py's record of a narrow ResNet-18. The orders in which keys are shuffled are Passer's own draws and are read
from moco_training.json, whose seed and batch are the same.
"""

import copy
import json
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import nn

from formula import FIXTURES, fill, record, relative, sample, u
from moco import info_nce, resnet

# (parts, points in each, width, clusters): few and many clusters, as many as points, more.
SHAPES = [(1, 16, 8, 4), (2, 12, 16, 3), (1, 64, 32, 10), (4, 8, 8, 8), (2, 8, 16, 12)]
TEMPERATURES = [0.07, 0.4]
ITERATIONS = [1, 5]


def k_means(points, clusters, iterations):
    """Labels and centroids of one part, by loops over the clusters."""
    centroids = points[:clusters]
    for _ in range(iterations):
        distances = torch.stack([((points - c) ** 2).sum(1) for c in centroids], 1)
        labels = distances.argmin(1)
        means = [points[labels == k].mean(0) if (labels == k).any() else points[0] * 0 for k in range(clusters)]
        centroids = torch.stack(means)
    return labels, centroids


def check_by_scikit(points, clusters, iterations):
    labels, centroids = k_means(points, clusters, iterations)
    if len(labels.unique()) < clusters or clusters == len(points):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        start = points[:clusters].numpy()
        theirs = KMeans(clusters, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd").fit(points.numpy())
    assert np.abs(theirs.cluster_centers_ - centroids.numpy()).max() < 1e-9
    return True


def cross_level(first, second, clusters, iterations, temperature):
    """One part."""
    (labels1, centroids1), (labels2, centroids2) = (k_means(x, clusters, iterations) for x in (first, second))
    one = F.cross_entropy(first @ centroids2.T / temperature, labels2)
    return (one + F.cross_entropy(second @ centroids1.T / temperature, labels1)) / 2


def inputs(parts, points, width, dtype):
    rows = parts * points
    centres = u(3, (5, width))[torch.arange(rows) % 5] * 2
    first = u(1, (rows, width)) + centres
    second = u(2, (rows, width)) / 2 + u(1, (rows, width)) / 2 + centres
    return first.to(dtype).requires_grad_(), second.to(dtype).requires_grad_()


def case(parts, points, width, clusters, iterations, temperature, dtype):
    first, second = inputs(parts, points, width, dtype)
    units = [F.normalize(x, dim=1).split(points) for x in (first, second)]
    loss = torch.stack([cross_level(a, b, clusters, iterations, temperature) for a, b in zip(*units, strict=True)]).mean()
    loss.backward()
    checked = 0
    if dtype == torch.float64:
        checked = sum(check_by_scikit(x.detach(), clusters, iterations) for unit in units for x in unit)
    return loss.item(), [sample(x.grad, 32) for x in (first, second)], checked


def grid():
    cases, checked = [], 0
    for shape in SHAPES:
        for iterations in ITERATIONS:
            for temperature in TEMPERATURES:
                loss, gradients, count = case(*shape, iterations, temperature, torch.float64)
                checked += count
                single, of_single, _ = case(*shape, iterations, temperature, torch.float32)
                errors = {"loss": relative([single], [loss])}
                errors["gradient"] = max(relative(a, b) for a, b in zip(of_single, gradients, strict=True))
                made = dict(zip(("parts", "points", "width", "clusters"), shape, strict=True))
                made |= {"iterations": iterations, "temperature": temperature}
                made["torch_float32_error"] = {name: float(f"{error:.1e}") for name, error in errors.items()}
                gradients = [[float(f"{v:.9e}") for v in gradient] for gradient in gradients]
                cases.append({**made, "loss": loss, "gradients": gradients})
    assert checked >= 10, checked
    fixture = {"generator": "scripts/parity/moco_cld.py", "torch": torch.__version__, "cases": cases}
    (FIXTURES / "moco_cld_groups.json").write_text(json.dumps(fixture).replace('{"parts"', '\n{"parts"') + "\n")
    worst = max(c["torch_float32_error"]["gradient"] for c in cases)
    print(f"moco_cld_groups.json: {len(cases)} cases, {checked} clusterings as scikit-learn's, float32 gradients {worst:.1e}")


class NormLinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs))

    def forward(self, x):
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


class Encoder(nn.Module):
    def __init__(self, backbone, width, normed):
        super().__init__()
        self.backbone = backbone
        self.hidden = nn.Linear(backbone.features, backbone.features)
        self.instance, self.group = ((NormLinear if normed else nn.Linear)(backbone.features, width) for _ in range(2))

    def forward(self, images):
        hidden = torch.relu(self.hidden(self.backbone(images)))
        return F.normalize(self.instance(hidden), dim=1), F.normalize(self.group(hidden), dim=1)


def build(settings):
    config, shape = settings["objective"], settings["backbone"]["resnet"]
    orders = json.loads((FIXTURES / "moco_training.json").read_text())["orders"]

    def make(dtype):
        backbone = resnet(shape["depth"], shape["width"], shape["stem"], settings["batch_norm_images"])
        encoder = Encoder(backbone, config["embedding_width"], config["head"] == "norm_mlp")
        parameters = fill({name: getattr(encoder, name) for name in ("backbone", "hidden", "instance", "group")})
        encoder = encoder.to(dtype).train()
        teacher = copy.deepcopy(encoder).requires_grad_(False)
        queue = F.normalize(u(1000, (config["queue_images"], config["embedding_width"])), dim=1).to(dtype)
        pushed = []

        def loss(views, step):
            first, key, second = views[0].chunk(3)
            (q0, g0), (q2, g2) = encoder(first), encoder(second)
            order = torch.tensor(orders[step])
            keys = torch.empty_like(q0)
            with torch.no_grad():
                keys[order] = teacher(key[order])[0]
            pushed.append(keys.detach())
            instances = sum(info_nce(q, keys.detach(), queue.clone(), config["temperature"]) for q in (q0, q2)) / 2
            together = config["cluster_images"]
            clustering = (config["clusters"], config["cluster_iterations"], config["cluster_temperature"])
            parts = [cross_level(a, b, *clustering) for a, b in zip(g0.split(together), g2.split(together), strict=True)]
            return instances + config["cluster_weight"] * torch.stack(parts).mean()

        def after(step):
            for t, s in zip(teacher.parameters(), encoder.parameters(), strict=True):
                t.mul_(config["momentum"]).add_(s, alpha=1 - config["momentum"])
            keys = pushed[-1]
            row = step * len(keys) % len(queue)
            queue[row : row + len(keys)] = keys

        return parameters, loss, after, lambda step: []

    return make


SETTINGS = {
    "backbone": {"resnet": {"depth": 18, "width": 4, "stem": "small"}},
    "objective": {
        "head": "norm_mlp",
        "embedding_width": 16,
        "queue_images": 64,
        "momentum": 0.99,
        "temperature": 0.2,
        "shuffle": True,
        "clusters": 3,
        "cluster_images": 8,
        "cluster_iterations": 5,
        "cluster_temperature": 0.4,
        "cluster_weight": 0.25,
    },
    "learning_rate": 0.0002,
    "steps": 20,
    "steps_per_epoch": 20,
    "images": 16,
    "views": [[3, 16]],
    "batch_norm_images": 8,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    grid()
    record("moco_cld", SETTINGS, build(SETTINGS))
