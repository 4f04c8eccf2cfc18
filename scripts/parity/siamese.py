"""Makes the fixtures of the methods with two views and no queue: SimCLR, BYOL, SimSiam, Barlow Twins, VICReg.

    python scripts/parity/siamese.py [NAME ...]     # losses, simclr, byol, simsiam, barlow_twins, vicreg; default: all

`losses` writes crates/objectives/fixtures/siamese_losses.json: each loss by itself, value and gradient in float64 on inputs
rounded to float32, over a grid of shapes and parameters. lightly's class is the second witness; the script fails where the
two differ by more than 1e-9. Both sides make the inputs, both views of every image as `[2 images, width]`:

    noise(i, phase) = 2 * frac(43758.5453 * sin(12.9898 * (i + 1) + phase)) - 1,  frac(v) = v - floor(v)
    column(i)       = scale * (0.25 + 1.5 * (i % width) / width)
    first[i]        = column(i) * noise(i, 0) + 0.5 * scale
    second[i]       = column(i) * (0.6 * noise(i, 0) + 0.8 * noise(i, 1)) - 0.25 * scale

The gradient is with respect to all of them, every `stride`-th element from element 0. For BYOL and SimSiam `first` are
predictions and `second` targets without gradient.

The others write NAME.json: twenty steps of the method from weights and views by formula (see formula.py), written from the
papers. Where a paper and its authors' code differ, a comment says which is taken; Passer takes the same.
"""

import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import formula
from formula import FIXTURES, Mlp
from moco import resnet

# ---------------------------------------------------------------------------------------------------- losses


def nt_xent(first, second, temperature):
    """SimCLR, eq. 1, of un-normalised embeddings; the mean over all 2 N anchors, as in the paper's algorithm 1.

    (The authors' code adds the means of the two views: twice that. lightly: the mean.)
    """
    z = F.normalize(torch.cat([first, second]), dim=1)
    similarity = z @ z.T / temperature
    total, images = 0.0, len(first)
    for i in range(2 * images):
        others = [k for k in range(2 * images) if k != i]
        total = total - similarity[i, (i + images) % (2 * images)] + torch.logsumexp(similarity[i, others], 0)
    return total / (2 * images)


def regression(prediction, target):
    """BYOL, eq. 2: the squared distance of the two at length 1, the mean over rows."""
    return (F.normalize(prediction, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean()


def negative_cosine(prediction, target):
    """SimSiam, eq. 1, the mean over rows."""
    return -((prediction / prediction.norm(dim=1, keepdim=True)) * (target / target.norm(dim=1, keepdim=True))).sum(1).mean()


def barlow_twins(first, second, redundancy_weight):
    """Barlow Twins, eq. 1 and 2, with the 1e-5 that batch norm adds to variances in the authors' code and in lightly.

    The paper's algorithm 1 divides by an unbiased deviation, which leaves (N - 1) / N on the diagonal of identical views;
    eq. 2, the code and lightly have 1 there.
    """
    first, second = ((z - z.mean(0)) / torch.sqrt(z.var(0, correction=0) + 1e-5) for z in (first, second))
    correlation = torch.einsum("bi,bj->ij", first, second) / len(first)
    diagonal = torch.diagonal(correlation)
    return (1 - diagonal).square().sum() + redundancy_weight * (correlation.square().sum() - diagonal.square().sum())


def vicreg(first, second, invariance_weight, variance_weight, covariance_weight):
    """VICReg, eq. 1 to 6, with two factors of the authors' code and lightly that the equations lack: the invariance is also
    a mean over components, and the variance term is the mean of both views'. The published weights belong to these.
    """

    def variance(z):
        return torch.clamp(1 - torch.sqrt(z.var(0) + 1e-4), min=0).mean()

    def covariance(z):
        matrix = torch.cov(z.T)
        return (matrix.square().sum() - torch.diagonal(matrix).square().sum()) / z.shape[1]

    return (
        invariance_weight * (first - second).square().mean()
        + variance_weight * (variance(first) + variance(second)) / 2
        + covariance_weight * (covariance(first) + covariance(second))
    )


def lightly_losses():
    from lightly.loss import BarlowTwinsLoss, NegativeCosineSimilarity, NTXentLoss, VICRegLoss

    return {
        "nt_xent": lambda a, b, temperature: NTXentLoss(temperature)(a, b),
        # lightly's BYOL uses the same class; 2 - 2 cos is 2 + 2 * (- cos).
        "byol": lambda a, b: 2 + 2 * NegativeCosineSimilarity()(a, b),
        "simsiam": lambda a, b: NegativeCosineSimilarity()(a, b),
        "barlow_twins": lambda a, b, redundancy_weight: BarlowTwinsLoss(redundancy_weight)(a, b),
        "vicreg": lambda a, b, **weights: VICRegLoss(
            weights["invariance_weight"], weights["variance_weight"], weights["covariance_weight"]
        )(a, b),
    }


LOSSES = {"nt_xent": nt_xent, "byol": regression, "simsiam": negative_cosine, "barlow_twins": barlow_twins, "vicreg": vicreg}
SHAPES = [(4, 3), (16, 8), (16, 64), (64, 16), (256, 128)]
PAPER = {"invariance_weight": 25.0, "variance_weight": 25.0, "covariance_weight": 1.0}
# Parameters of a loss and the scale of its inputs.
PARAMETERS = {
    "nt_xent": [({"temperature": t}, 1.0) for t in (0.05, 0.1, 0.5, 1.0)],
    "byol": [({}, scale) for scale in (1e-3, 1.0, 1e3)],
    "simsiam": [({}, scale) for scale in (1e-3, 1.0, 1e3)],
    "barlow_twins": [({"redundancy_weight": w}, scale) for w, scale in ((0.0051, 1.0), (0.005, 20.0), (0.1, 0.05))],
    # Scales with all components below a deviation of 1, with some, and with none.
    "vicreg": [(PAPER, 0.1), (PAPER, 1.5), (PAPER, 10.0), ({**PAPER, "variance_weight": 50.0}, 1.0)],
}
SAMPLED = 48


def grid_inputs(images, width, scale):
    index = np.arange(images * width, dtype=np.float64)

    def noise(phase):
        value = 43758.5453 * np.sin(12.9898 * (index + 1) + phase)
        return 2 * (value - np.floor(value)) - 1

    column = scale * (0.25 + 1.5 * (index % width) / width)
    first = column * noise(0.0) + 0.5 * scale
    second = column * (0.6 * noise(0.0) + 0.8 * noise(1.0)) - 0.25 * scale
    return torch.from_numpy(np.stack([first, second]).astype(np.float32)).reshape(2 * images, width)


def evaluated(name, function, inputs, parameters):
    inputs = inputs.clone().requires_grad_()
    first, second = inputs.chunk(2)
    loss = function(first, second.detach() if name in ("byol", "simsiam") else second, **parameters)
    loss.backward()
    return loss.item(), inputs.grad.double()


def far(ours, reference):
    return float((ours - reference).norm() / reference.norm())


def loss_case(name, witness, images, width, parameters, scale):
    inputs = grid_inputs(images, width, scale)
    value, gradient = evaluated(name, LOSSES[name], inputs.double(), parameters)
    other, other_gradient = evaluated(name, witness, inputs.double(), parameters)
    apart = max(abs(other - value) / abs(value), far(other_gradient, gradient))
    if apart > 1e-9:
        raise SystemExit(f"{name} {images}x{width} {parameters}: lightly differs by {apart:.1e}")
    value32, gradient32 = evaluated(name, LOSSES[name], inputs, parameters)
    stride = max(1, gradient.numel() // SAMPLED)
    return {
        "loss": name,
        "images": images,
        "width": width,
        "parameters": parameters,
        "scale": scale,
        "value": value,
        "stride": stride,
        "gradient": [float(f"{v:.9e}") for v in gradient.flatten()[::stride].tolist()],
        "torch_float32_error": {
            "value": float(f"{abs(value32 - value) / abs(value):.1e}"),
            "gradient": float(f"{far(gradient32, gradient):.1e}"),
        },
    }


def losses():
    witnesses = lightly_losses()
    cases = []
    for name, grid in PARAMETERS.items():
        for index, (images, width) in enumerate(SHAPES):
            # Every shape with two of the parameters, every parameter with at least two shapes.
            for parameters, scale in {0: grid[:2], 1: grid[-2:]}[index % 2]:
                cases.append(loss_case(name, witnesses[name], images, width, parameters, scale))
    generator = "scripts/parity/siamese.py; the formula for the inputs is at its top"
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    text = f'{{"generator":"{generator}","torch":"{torch.__version__}","tolerance":1e-5,"cases":[\n{lines}\n]}}\n'
    path = FIXTURES / "siamese_losses.json"
    path.write_text(text)
    for name in PARAMETERS:
        errors = [case["torch_float32_error"] for case in cases if case["loss"] == name]
        worst = {of: max(error[of] for error in errors) for of in ("value", "gradient")}
        print(f"{path.name}: {len(errors)} cases of {name}, PyTorch's own float32 error {worst}")
    print(f"{path.name}: {len(text)} bytes")


# ---------------------------------------------------------------------------------------------------- training

IMAGES = 16
SETTINGS = {
    "backbone": {"resnet": {"depth": 18, "width": 4, "stem": "small"}},
    "views": [[2, 16]],
    "images": IMAGES,
    "steps": 20,
    "steps_per_epoch": 5,
    "batch_norm_images": None,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}


def backbone():
    return resnet(18, 4, "small").train()


def filled(dtype, **modules):
    """The modules in the type, and their parameters by path."""
    for module in modules.values():
        module.train()
    parameters = formula.fill(modules)
    for module in modules.values():
        module.to(dtype)
    return parameters


def view_by_view(network, views):
    """Each view by itself, so that each has batch statistics of its own."""
    return torch.cat([network(view) for view in views.split(IMAGES)])


def nothing(_):
    return []


def simclr(settings):
    """Both views as one batch, as in the authors' code: batch statistics are over 2 N images."""
    objective = settings["objective"]

    def build(dtype):
        norm = objective["projector_norm"] != "none"
        last = objective["projector_norm"] == "hidden_and_output"
        hidden = [objective["projector_width"]] * (objective["projector_layers"] - 1)
        net = backbone()
        projector = Mlp(net.features, hidden, objective["embedding_width"], norm, not norm, not last, "affine" if last else None)
        parameters = filled(dtype, backbone=net, projector=projector)

        def loss(views, _):
            return nt_xent(*projector(net(views[0])).chunk(2), objective["temperature"])

        return parameters, loss, nothing, nothing

    return build


def byol(settings):
    objective = settings["objective"]

    def build(dtype):
        width = objective["embedding_width"]
        net, target_net = backbone(), backbone()
        projector, target_projector = (Mlp(net.features, [objective["projector_width"]], width, True, False, False) for _ in "ot")
        predictor = Mlp(width, [objective["predictor_width"]], width, True, False, False)
        parameters = filled(dtype, backbone=net, projector=projector, predictor=predictor)
        filled(dtype, backbone=target_net, projector=target_projector)
        online, target = nn.Sequential(net, projector), nn.Sequential(target_net, target_projector).requires_grad_(False)

        def loss(views, _):
            first, second = views[0].split(IMAGES)
            with torch.no_grad():
                targets = [target(second), target(first)]
            predictions = [predictor(online(first)), predictor(online(second))]
            return regression(predictions[0], targets[0]) + regression(predictions[1], targets[1])

        def after(step):
            start, end = objective["momentum"], objective["momentum_end"]
            # The paper: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2.
            tau = end - (end - start) * (math.cos(math.pi * step / settings["steps"]) + 1) / 2
            for t, o in zip(target.parameters(), online.parameters(), strict=True):
                t.mul_(tau).add_(o, alpha=1 - tau)

        return parameters, loss, after, nothing

    return build


def simsiam(settings):
    objective = settings["objective"]

    def build(dtype):
        width = objective["embedding_width"]
        net = backbone()
        hidden = [objective["projector_width"]] * (objective["projector_layers"] - 1)
        projector = Mlp(net.features, hidden, width, True, False, False, "plain")
        predictor = Mlp(width, [objective["predictor_width"]], width, True, False, True)
        parameters = filled(dtype, backbone=net, projector=projector, predictor=predictor)

        def loss(views, _):
            z1, z2 = (projector(net(view)) for view in views[0].split(IMAGES))
            p1, p2 = predictor(z1), predictor(z2)
            return negative_cosine(p1, z2.detach()) / 2 + negative_cosine(p2, z1.detach()) / 2

        return parameters, loss, nothing, nothing

    return build


def without_negatives(function, names):
    """Barlow Twins and VICReg: three layers, and a loss of both views' embeddings."""

    def method(settings):
        objective = settings["objective"]

        def build(dtype):
            net = backbone()
            hidden = [objective["projector_width"]] * (objective["projector_layers"] - 1)
            projector = Mlp(net.features, hidden, objective["embedding_width"], True, False, False)
            parameters = filled(dtype, backbone=net, projector=projector)

            def loss(views, _):
                embeddings = view_by_view(nn.Sequential(net, projector), views[0])
                return function(*embeddings.chunk(2), *(objective[name] for name in names))

            return parameters, loss, nothing, nothing

        return build

    return method


# Method, config, learning rate: small enough for PyTorch's own float32 to stay near its float64 for twenty steps.
METHODS = {
    "simclr": (
        simclr,
        {
            "projector_layers": 3,
            "projector_width": 16,
            "projector_norm": "hidden",
            "embedding_width": 8,
            "temperature": 0.5,
        },
        0.003,
    ),
    "byol": (
        byol,
        {"projector_width": 32, "embedding_width": 16, "predictor_width": 24, "momentum": 0.9, "momentum_end": 1.0},
        0.003,
    ),
    "simsiam": (
        simsiam,
        {
            "projector_layers": 3,
            "projector_width": 32,
            "embedding_width": 32,
            "predictor_width": 8,
            "predictor_rate_at_peak": True,
        },
        3e-5,
    ),
    "barlow_twins": (
        without_negatives(barlow_twins, ["redundancy_weight"]),
        {"projector_layers": 3, "projector_width": 32, "embedding_width": 16, "redundancy_weight": 0.0051},
        0.001,
    ),
    "vicreg": (
        without_negatives(vicreg, list(PAPER)),
        {"projector_layers": 3, "projector_width": 32, "embedding_width": 16, **PAPER},
        0.0003,
    ),
}


def main():
    torch.set_num_threads(1)
    for name in sys.argv[1:] or ["losses", *METHODS]:
        if name == "losses":
            losses()
            continue
        method, objective, learning_rate = METHODS[name]
        settings = {"objective": objective, "learning_rate": learning_rate, **SETTINGS}
        if name == "simsiam":
            settings["loss_range"] = 1.0  # from -1 to 1, and near 0 here
        formula.record(name, settings, method(settings), "siamese")


if __name__ == "__main__":
    main()
