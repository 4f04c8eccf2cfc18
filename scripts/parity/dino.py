"""Makes the fixtures of crates/objectives/src/dino.rs: DINO's loss, first gradients, and twenty steps.

    python scripts/parity/dino.py

Written from Caron et al. 2021 (arXiv 2104.14294), eq. 1 to 4, and, for the two options, Oquab et al. 2023 (arXiv 2304.07193) and
Sablayrolles et al. 2019 (arXiv 1806.03198).

dino_loss.json: `loss`: the loss over a grid, after several steps that moved the center. In step n the teacher's scores are
`scale * u(10 n + 1)`, `[2 * images, prototypes]`, the student's `scale * u(10 n + 2)`, `[views * images, prototypes]`, with u(t, i) of
formula.py; the last step's loss and its gradient by the student's scores, sampled, are stored. lightly's DINOLoss must agree, center
and temperatures included. `sinkhorn`: the same with Sinkhorn-Knopp instead of the center; lightly's function must agree. `koleo`: on
features u(3), `[images, width]`; lightly's KoLeoLoss must agree.

dino_resnet.json, dino_vit.json, dino_sinkhorn.json: formula.py's record of a narrow ResNet-18 with batch norm in the head, and of a
small timm VisionTransformer with DINO's positions: with a center and trained lengths of the prototypes, and with Sinkhorn-Knopp and
KoLeo.
"""

import itertools
import json
import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from formula import FIXTURES, fill, record, relative, sample, u
from moco import resnet
from swav import sinkhorn
from timm.models.vision_transformer import VisionTransformer
from vit import OffsetViT


def teacher_temperature(end, warmup, epochs):
    """The temperature of every epoch, as the paper's code lists them."""
    if warmup is None:
        return np.full(epochs, end)
    return np.concatenate([np.linspace(warmup["start"], end, warmup["epochs"]), np.full(max(0, epochs - warmup["epochs"]), end)])


def cross_view(student, teacher, student_temperature):
    """Eq. 3, pair by pair. `student`: scores of each view; `teacher`: answers to the global ones."""
    terms = []
    for i, q in enumerate(teacher):
        for v, scores in enumerate(student):
            if v != i:
                terms.append(-(q * F.log_softmax(scores / student_temperature, 1)).sum(1).mean())
    return sum(terms) / len(terms)


def koleo(features):
    x = F.normalize(features, dim=1)
    with torch.no_grad():
        distances = torch.cdist(x, x).fill_diagonal_(torch.inf)
        nearest = distances.argmin(1)
    return -(F.pairwise_distance(x, x[nearest], eps=1e-8) + 1e-8).log().mean()


class Head(nn.Module):
    """Section 3.1, with the names of crates/objectives/src/dino.rs and PyTorch's own weight normalisation."""

    def __init__(self, features, config):
        super().__init__()
        hidden, bottleneck = config["hidden_width"], config["bottleneck_width"]
        widths = [features, hidden, hidden, bottleneck]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(2)) if config["batch_norm"] else []
        last = nn.Linear(bottleneck, config["prototypes"], bias=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the new one has other names
            self.last_layer = nn.utils.weight_norm(last)
        with torch.no_grad():
            self.last_layer.weight_g.fill_(1)
        self.last_layer.weight_g.requires_grad_(not config["norm_last_layer"])

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index < 2:
                x = F.gelu(self.norms[index](x) if self.norms else x)
        return self.last_layer(F.normalize(x, dim=1))


class DinoViT(OffsetViT):
    """The same, but at the size for which the positions are kept they stay as they are."""

    def _pos_embed(self, x):
        if x.shape[1:3] == self.patch_embed.grid_size:
            self.dynamic_img_size = False
            x = VisionTransformer._pos_embed(self, x.flatten(1, 2))
            self.dynamic_img_size = True
            return x
        return super()._pos_embed(x)


def backbone_of(settings):
    (kind, shape), *_ = settings["backbone"].items()
    if kind == "resnet":
        return resnet(shape["depth"], shape["width"], shape["stem"])
    made = DinoViT(
        shape["image_px"], shape["patch_px"], num_classes=0, embed_dim=shape["width"], depth=shape["depth"],
        num_heads=shape["heads"], dynamic_img_size=True,
    )  # fmt: skip
    made.features = shape["width"]
    return made


def copy_weights(teacher, student):
    for t, s in zip(teacher, student, strict=True):
        t.load_state_dict(s.state_dict())
        t.requires_grad_(False)


def momentum_of(config, step, steps):
    start, end = config["momentum"], config.get("momentum_end", config["momentum"])
    return end + 0.5 * (start - end) * (1 + np.cos(np.pi * step / steps))


@torch.no_grad()
def move_teacher(teacher, student, momentum):
    for t, s in zip(teacher, student, strict=True):
        for a, b in zip(t.parameters(), s.parameters(), strict=True):
            a.mul_(momentum).add_(b, alpha=1 - momentum)


class Answers:
    """The teacher's targets, and the center if there is one."""

    def __init__(self, centering, prototypes, dtype):
        self.centering, self.center = centering, torch.zeros(1, prototypes, dtype=dtype)

    @torch.no_grad()
    def __call__(self, scores, temperature):
        if "sinkhorn" in self.centering:
            return sinkhorn(scores, temperature, self.centering["sinkhorn"]["iterations"])
        return F.softmax((scores - self.center) / temperature, 1)

    @torch.no_grad()
    def move(self, scores):
        if "mean" in self.centering:
            momentum = self.centering["mean"]["momentum"]
            self.center = momentum * self.center + (1 - momentum) * scores.mean(0, keepdim=True)


def build(settings):
    config = settings["objective"]

    def make(dtype):
        student = [backbone_of(settings)]
        student.append(Head(student[0].features, config["head"]))
        teacher = [backbone_of(settings)]
        teacher.append(Head(teacher[0].features, config["head"]))
        for module in student + teacher:
            module.to(dtype).train()
        parameters = fill({"backbone": student[0], "head": student[1]})
        copy_weights(teacher, student)
        answers = Answers(config["centering"], config["head"]["prototypes"], dtype)
        epochs = settings["steps"] // settings["steps_per_epoch"]
        temperatures = teacher_temperature(config["teacher_temperature"], config.get("teacher_temperature_warmup"), epochs)
        newest = []

        def loss(views, step):
            features = [student[0](group) for group in views]
            scores = student[1](torch.cat(features)).split(settings["images"])
            with torch.no_grad():
                of_teacher = teacher[1](teacher[0](views[0]))
            newest[:] = [of_teacher]
            q = answers(of_teacher, temperatures[step // settings["steps_per_epoch"]])
            value = cross_view(scores, q.chunk(2), config["student_temperature"])
            if "koleo_weight" in config:
                value = value + config["koleo_weight"] * sum(koleo(view) for view in features[0].chunk(2))
            return value

        def after(step):
            move_teacher(teacher, student, momentum_of(config, step, settings["steps"]))
            answers.move(newest[0])

        def frozen(step):
            return ["head.last_layer"] if step // settings["steps_per_epoch"] < config["freeze_last_layer_epochs"] else []

        return parameters, loss, after, frozen

    return make


# (images, local views, prototypes, scale of the scores)
SHAPES = [(2, 0, 5, 1.0), (4, 3, 33, 1.0), (3, 8, 200, 2.0)]
WARMUPS = [(0.04, None), (0.07, {"start": 0.04, "epochs": 4})]


def loss_case(shape, temperatures, epoch, steps, centering, dtype, witness=False):
    """Value and gradient of the last of some steps."""
    images, local, prototypes, scale = shape
    student_temperature, (end, warmup) = temperatures
    temperature = teacher_temperature(end, warmup, epoch + 1)[epoch]
    answers = Answers(centering, prototypes, dtype)
    if witness:
        from lightly.loss import DINOLoss

        warmup = warmup or {"start": end, "epochs": 1}
        theirs = DINOLoss(
            prototypes, warmup["start"], end, warmup["epochs"], student_temperature, answers.centering["mean"]["momentum"]
        )
    for step in range(steps):
        teacher = (scale * u(10 * step + 1, (2 * images, prototypes))).to(dtype)
        student = (scale * u(10 * step + 2, ((2 + local) * images, prototypes))).to(dtype).requires_grad_()
        if witness:
            loss = theirs(list(teacher.chunk(2)), list(student.chunk(2 + local)), epoch=epoch)
        else:
            loss = cross_view(student.chunk(2 + local), answers(teacher, temperature).chunk(2), student_temperature)
            answers.move(teacher)
    loss.backward()
    return loss.item(), sample(student.grad, 32)


def errors(single, double):
    made = {"loss": relative([single[0]], [double[0]]), "gradient": relative(single[1], double[1])}
    return {name: float(f"{error:.1e}") for name, error in made.items()}


def agree(ours, theirs, what):
    assert relative([theirs[0]], [ours[0]]) < 1e-9 and relative(theirs[1], ours[1]) < 1e-9, (what, ours[0], theirs[0])


def loss_grid():
    cases = []
    mean = {"mean": {"momentum": 0.9}}
    temperatures = list(itertools.product([0.1, 0.2], WARMUPS))
    for shape, (n, temps) in itertools.product(SHAPES, enumerate(temperatures)):
        for epoch, steps in ((0, 1), (2, 4)) if n % 2 else ((3, 1), (5, 3)):
            inputs = (shape, temps, epoch, steps, mean)
            double = loss_case(*inputs, torch.float64)
            torch.set_default_dtype(torch.float64)  # lightly keeps its temperatures in it
            agree(double, loss_case(*inputs, torch.float64, witness=True), inputs)
            torch.set_default_dtype(torch.float32)
            images, local, prototypes, scale = shape
            cases.append({
                "images": images, "local": local, "prototypes": prototypes, "scale": scale,
                "student_temperature": temps[0], "teacher_temperature": temps[1][0], "warmup": temps[1][1], "epoch": epoch,
                "steps": steps, "torch_float32_error": errors(loss_case(*inputs, torch.float32), double),
                "loss": double[0], "gradient": double[1],
            })  # fmt: skip
    return cases


def sinkhorn_grid():
    from lightly.loss.swav_loss import sinkhorn as theirs

    cases = []
    for shape, temperature, iterations in itertools.product(SHAPES, (0.04, 0.07), (1, 3)):
        images, local, prototypes, scale = shape
        scores = (scale * u(1, (2 * images, prototypes))).double()
        ours = sinkhorn(scores, temperature, iterations)
        assert relative(theirs(scores, iterations, temperature).flatten(), ours.flatten()) < 1e-9
        inputs = (shape, (0.1, (temperature, None)), 0, 1, {"sinkhorn": {"iterations": iterations}})
        double = loss_case(*inputs, torch.float64)
        cases.append({
            "images": images, "local": local, "prototypes": prototypes, "scale": scale, "student_temperature": 0.1,
            "teacher_temperature": temperature, "iterations": iterations,
            "torch_float32_error": errors(loss_case(*inputs, torch.float32), double), "loss": double[0], "gradient": double[1],
        })  # fmt: skip
    return cases


def koleo_grid():
    from lightly.loss import KoLeoLoss

    def case(images, width, dtype, loss_of):
        features = u(3, (images, width)).to(dtype).requires_grad_()
        loss = loss_of(features)
        loss.backward()
        return loss.item(), sample(features.grad, 32)

    cases = []
    for images, width in ((2, 4), (5, 3), (16, 32), (64, 384)):
        double = case(images, width, torch.float64, koleo)
        agree(double, case(images, width, torch.float64, KoLeoLoss()), (images, width))
        single = errors(case(images, width, torch.float32, koleo), double)
        cases.append({"images": images, "width": width, "torch_float32_error": single, "loss": double[0], "gradient": double[1]})
    return cases


COMMON = {"steps": 20, "steps_per_epoch": 5, "images": 12, "views": [[2, 16], [2, 8]], "batch_norm_images": None, "momentum": 0.9, "weight_decay": 1e-4}  # fmt: skip
HEAD = {"hidden_width": 24, "bottleneck_width": 12, "prototypes": 30, "batch_norm": True, "norm_last_layer": True}
RESNET = {
    "backbone": {"resnet": {"depth": 18, "width": 4, "stem": "small"}},
    "objective": {
        "student_temperature": 0.1,
        "teacher_temperature": 0.07,
        "teacher_temperature_warmup": {"start": 0.04, "epochs": 3},
        "centering": {"mean": {"momentum": 0.9}},
        "freeze_last_layer_epochs": 1,
        "momentum": 0.9,
        "momentum_end": 1.0,
        "head": HEAD,
    },
    "learning_rate": 5e-5,
    **COMMON,
}
VIT = {
    **RESNET,
    "backbone": {
        "vit": {
            "width": 16,
            "depth": 2,
            "heads": 4,
            "patch_px": 4,
            "image_px": 16,
            "position": "learned",
            "interpolation": "offset",
            "registers": 0,
            "drop_path": 0.0,
            "pooling": "class_token",
            "initialization": "truncated_normal",
        }
    },
    "objective": {**RESNET["objective"], "head": {**HEAD, "batch_norm": False, "norm_last_layer": False}},
    "learning_rate": 0.002,
}
SINKHORN = {
    **VIT,
    "objective": {
        **{key: value for key, value in RESNET["objective"].items() if key != "teacher_temperature_warmup"},
        "centering": {"sinkhorn": {"iterations": 3}},
        "koleo_weight": 0.1,
        "head": {**HEAD, "batch_norm": False},
    },
}


def main():
    torch.set_num_threads(1)
    grids = {"loss": loss_grid(), "sinkhorn": sinkhorn_grid(), "koleo": koleo_grid()}
    fixture = {"generator": "scripts/parity/dino.py", "torch": torch.__version__, **grids}
    path = FIXTURES / "dino_loss.json"
    path.write_text(json.dumps(fixture).replace('{"images"', '\n{"images"') + "\n")
    worst = max(max(case["torch_float32_error"].values()) for cases in grids.values() for case in cases)
    print(path.name, {name: len(cases) for name, cases in grids.items()}, path.stat().st_size, f"bytes; float32 {worst:.1e}")
    for name, settings in (("dino_resnet", RESNET), ("dino_vit", VIT), ("dino_sinkhorn", SINKHORN)):
        record(name, settings, build(settings), script="dino")


if __name__ == "__main__":
    main()
