"""Makes crates/objectives/fixtures/dino_loss.json, dino_resnet.json and dino_vit.json: DINO from the paper's formulas.

    python scripts/parity/dino.py

Written from arXiv:2104.14294: eq. 1 to 4, algorithm 1, section 3 (head, multi-crop, centre) and its appendix. lightly's DINOLoss is
the second witness of the loss. Scores of the loss's cases are u(seed, i), u(300 + seed, i) and a tenth of u(600 + seed, i) of
scripts/parity/formula.py. The networks are a narrow ResNet-18 and a small timm VisionTransformer at its own image size.
"""

import copy
import itertools
import json

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from formula import FIXTURES, SplitBatchNorm1d, fill, record, sample, u
from moco import resnet


def dino_loss(student, teacher, centre, student_temperature, teacher_temperature):
    """`student` are scores `[B, K]` of all views, `teacher` of the global ones."""
    terms = []
    for t, target in enumerate(teacher):
        q = F.softmax((target - centre) / teacher_temperature, 1)
        for s, scores in enumerate(student):
            if s != t:
                terms.append(-(q * F.log_softmax(scores / student_temperature, 1)).sum(1).mean())
    return sum(terms) / len(terms)


def loss_cases():
    from lightly.loss import DINOLoss

    cases = []
    grid = itertools.product([(8, 2, 6), (5, 8, 11), (16, 4, 40)], [0.1, 0.5], [0.04, 0.07])
    for seed, ((images, views, prototypes), student_temperature, teacher_temperature) in enumerate(grid):
        scores = u(seed, (views * images, prototypes)).double().requires_grad_()
        targets = u(300 + seed, (2 * images, prototypes)).double().chunk(2)
        centre = (u(600 + seed, (1, prototypes)) * np.float32(0.1)).double()
        parts = scores.chunk(views)
        loss = dino_loss(parts, targets, centre, student_temperature, teacher_temperature)
        theirs = DINOLoss(prototypes, student_temp=student_temperature).double()
        theirs.center.copy_(centre.reshape(theirs.center.shape))
        witness = theirs(list(targets), list(parts), teacher_temp=teacher_temperature)
        assert abs(loss - witness) < 1e-6 * loss, (loss, witness)
        (gradient,) = torch.autograd.grad(loss, scores)
        cases.append(
            {
                "seed": seed,
                "images": images,
                "views": views,
                "prototypes": prototypes,
                "student_temperature": student_temperature,
                "teacher_temperature": teacher_temperature,
                "loss": loss.item(),
                "gradient": sample(gradient, 32),
            }
        )
    path = FIXTURES / "dino_loss.json"
    text = {"generator": "scripts/parity/dino.py", "torch": torch.__version__, "cases": cases}
    path.write_text(json.dumps(text) + "\n")
    print(path.name, len(cases), "cases,", path.stat().st_size, "bytes")


class Last(nn.Module):
    def __init__(self, inputs, outputs, fixed):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(outputs, 1), requires_grad=not fixed)
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x):
        return x @ (self.weight_g * F.normalize(self.weight_v, dim=1)).T


class Head(nn.Module):
    def __init__(self, inputs, o):
        super().__init__()
        widths = [inputs, o["hidden_width"], o["hidden_width"], o["bottleneck_width"]]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.norms = nn.ModuleList(SplitBatchNorm1d(w) for w in widths[1:3]) if o["head_norm"] else []
        self.last_layer = Last(widths[3], o["prototypes"], o["norm_last_layer"])

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < 2:
                x = F.gelu(self.norms[index](x) if self.norms else x)
        return self.last_layer(F.normalize(x, dim=1))


OBJECTIVE = {
    "hidden_width": 24,
    "bottleneck_width": 12,
    "prototypes": 30,
    "head_norm": True,
    "norm_last_layer": True,
    "student_temperature": 0.1,
    "teacher_temperature": 0.07,
    "teacher_temperature_start": 0.04,
    "teacher_temperature_epochs": 3,
    "centre_momentum": 0.9,
    "momentum": 0.9,
    "momentum_end": 1.0,
    "freeze_last_layer_epochs": 1,
}
COMMON = {
    "images": 16,
    "batch_norm_images": None,
    "steps": 20,
    "steps_per_epoch": 5,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}
RESNET = {
    # No norm in this head: with one, PyTorch's own float32 is 4e-4 off after twenty steps at a tenth of the rate.
    "objective": OBJECTIVE | {"head_norm": False},
    "backbone": {"resnet": {"depth": 18, "width": 4, "stem": "small"}},
    "views": [(2, 16), (2, 8)],
    "learning_rate": 1e-4,
    **COMMON,
}
VIT = {
    "objective": OBJECTIVE | {"norm_last_layer": False, "momentum_end": None},
    "backbone": {
        "vit": {
            "width": 8,
            "depth": 2,
            "heads": 2,
            "patch_px": 4,
            "image_px": 16,
            "position": "learned",
            "interpolation": "antialiased",
            "registers": 0,
            "drop_path": 0.0,
            "pooling": "class_token",
            "initialization": "truncated_normal",
        }
    },
    "views": [(2, 16)],
    "learning_rate": 3e-4,
    **COMMON,
}


def network(settings):
    ((kind, options),) = settings["backbone"].items()
    if kind == "resnet":
        return resnet(options["depth"], options["width"], options["stem"])
    made = VisionTransformer(
        options["image_px"],
        options["patch_px"],
        num_classes=0,
        embed_dim=options["width"],
        depth=options["depth"],
        num_heads=options["heads"],
    )
    made.features = options["width"]
    return made


def method(settings):
    o, images, per_epoch = settings["objective"], settings["images"], settings["steps_per_epoch"]

    def build(dtype):
        backbone = network(settings)
        head = Head(backbone.features, o)
        student = nn.ModuleDict({"backbone": backbone, "head": head}).to(dtype).train()
        parameters = fill(student)
        teacher = copy.deepcopy(student)
        centre = torch.zeros(1, o["prototypes"], dtype=dtype)
        newest = []
        rise = np.linspace(o["teacher_temperature_start"], o["teacher_temperature"], o["teacher_temperature_epochs"])

        def forward(net, groups):
            return net["head"](torch.cat([net["backbone"](group) for group in groups])).split(images)

        def loss(views, step):
            with torch.no_grad():
                targets = forward(teacher, views[:1])
            newest[:] = [torch.cat(targets)]
            epoch = step // per_epoch
            temperature = float(rise[epoch]) if epoch < len(rise) else o["teacher_temperature"]
            return dino_loss(forward(student, views), targets, centre, o["student_temperature"], temperature)

        def after(step):
            mean = newest[0].mean(0, keepdim=True)
            centre.mul_(o["centre_momentum"]).add_(mean, alpha=1 - o["centre_momentum"])
            end = o["momentum"] if o["momentum_end"] is None else o["momentum_end"]
            m = end + 0.5 * (o["momentum"] - end) * (1 + np.cos(np.pi * step / settings["steps"]))
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.mul_(m).add_(s, alpha=1 - m)

        def frozen(step):
            return ["head.last_layer"] if step // per_epoch < o["freeze_last_layer_epochs"] else []

        return parameters, loss, after, frozen

    return build


if __name__ == "__main__":
    loss_cases()
    for name, settings in (("dino_resnet", RESNET), ("dino_vit", VIT)):
        record(name, settings, method(settings), "dino")
