"""Makes the fixtures of crates/objectives/src/ibot.rs: iBOT's loss of hidden patches, its masks, first gradients, twenty steps.

    python scripts/parity/ibot.py

Written from Zhou et al. 2021 (arXiv 2111.07832); masks from Bao et al. 2021 (arXiv 2106.08254), algorithm 1, with the numbers of
iBOT's program. What is DINO's is dino.py's.

ibot_patches.json: `loss`: the patches' loss over a grid, after several steps that moved their center. In step n the teacher's scores of
all patches are `u(10 n + 1)`, `[2 images * patches, prototypes]`, the student's `u(10 n + 2)`; patch i is hidden where u(7, i) > 0.3, but
none in the last view. lightly's IBOTPatchLoss must agree when it gets the same center (its own is of hidden patches alone).
`masks`: what 20,000 draws of the paper's algorithm hide on average.

ibot_shared.json, ibot_separate.json: formula.py's record of a small timm VisionTransformer with DINO's positions. Which patches are
hidden are Passer's own draws: they lie in the fixtures already (a test in crates/objectives/src/ibot/tests.rs holds them) and are
read from there.
"""

import itertools
import json
import math
import random

import numpy as np
import torch
import torch.nn.functional as F

from dino import (
    COMMON, HEAD, VIT, Answers, Head, agree, backbone_of, copy_weights, cross_view, errors, koleo, momentum_of, move_teacher,
    teacher_temperature,
)  # fmt: skip
from formula import FIXTURES, fill, record, sample, u, value


def patch_loss(student, teacher, mask, student_temperature):
    """L_MIM: `student` and `teacher` are `[views, patches, prototypes]`, scores and answers; `mask` is `[views, patches]`."""
    each = -(teacher * F.log_softmax(student / student_temperature, -1)).sum(-1)
    of_view = (each * mask).sum(1) / mask.sum(1).clamp_min(1)
    return of_view.mean()


def block_mask(rows, columns, ratio, rng):
    wanted, count = ratio * rows * columns, 0
    mask = np.zeros((rows, columns), dtype=bool)
    while count < wanted:
        for _ in range(10):
            area = rng.uniform((min(rows, columns) // 3) ** 2, wanted - count)
            aspect = math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if height >= rows or width >= columns:
                continue
            top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)
            part = mask[top : top + height, left : left + width]
            new = part.size - part.sum()
            if 0 < new <= wanted - count:
                part[:] = True
                count += new
                break
        else:
            break
    return mask


def mask_statistics():
    """Mean and spread of the share that is hidden, and how often each patch of the grid is."""
    rng, made = random.Random(0), []
    for rows, columns, least, most in ((14, 14, 0.1, 0.5), (8, 8, 0.1, 0.5), (4, 4, 0.1, 0.5), (6, 10, 0.3, 0.3)):
        masks = np.stack([block_mask(rows, columns, rng.uniform(least, most), rng) for _ in range(20_000)])
        shares = masks.mean((1, 2))
        made.append({
            "grid": [rows, columns], "ratio": [least, most], "share": shares.mean(), "share_std": shares.std(),
            "by_patch": np.round(masks.mean(0), 5).flatten().tolist(),
        })  # fmt: skip
    return made


# (images, patches, prototypes)
SHAPES = [(1, 4, 5), (2, 9, 33), (4, 16, 64)]


def loss_case(shape, temperatures, steps, dtype, witness=False):
    images, patches, prototypes = shape
    student_temperature, temperature = temperatures
    mask = u(7, (2 * images, patches)) > 0.3
    mask[-1] = False
    answers = Answers({"mean": {"momentum": 0.9}}, prototypes, dtype)
    size = (2 * images, patches, prototypes)
    for step in range(steps):
        teacher = u(10 * step + 1, size).to(dtype)
        student = u(10 * step + 2, size).to(dtype).requires_grad_()
        if witness:
            from lightly.loss import IBOTPatchLoss

            theirs = IBOTPatchLoss(prototypes, temperature, student_temperature)
            theirs.center.center = answers.center.clone()
            loss = theirs(teacher[mask], student[mask], mask[:, None])
        else:
            q = answers(teacher.flatten(0, 1), temperature).reshape(size)
            loss = patch_loss(student, q, mask, student_temperature)
        answers.move(teacher.flatten(0, 1))
    loss.backward()
    return loss.item(), sample(student.grad[mask], 32)


def loss_grid():
    cases = []
    for shape, temperatures, steps in itertools.product(SHAPES, ((0.1, 0.04), (0.1, 0.07), (0.2, 0.05)), (1, 3)):
        inputs = (shape, temperatures, steps)
        double = loss_case(*inputs, torch.float64)
        torch.set_default_dtype(torch.float64)  # lightly keeps its temperature in it
        agree(double, loss_case(*inputs, torch.float64, witness=True), inputs)
        torch.set_default_dtype(torch.float32)
        cases.append({
            "images": shape[0], "patches": shape[1], "prototypes": shape[2], "steps": steps,
            "student_temperature": temperatures[0], "teacher_temperature": temperatures[1],
            "torch_float32_error": errors(loss_case(*inputs, torch.float32), double), "loss": double[0], "gradient": double[1],
        })  # fmt: skip
    return cases


def tokens(network, images, mask=None, token=None):
    """Class token and patches of timm's network; hidden patches are replaced before positions are added."""
    x = network.patch_embed(images)
    if mask is not None:
        x = torch.where(mask.reshape(*x.shape[:3], 1), token.reshape(1, 1, 1, -1), x)
    x = network.norm(network.blocks(network._pos_embed(x)))
    return x[:, 0], x[:, 1:]


def build(settings):
    config = settings["objective"]

    def make(dtype):
        def networks():
            backbone = backbone_of(settings)
            heads = [Head(backbone.features, config["head"])]
            if "patch_head" in config:
                heads.append(Head(backbone.features, config["patch_head"]))
            return [module.to(dtype).train() for module in (backbone, *heads)]

        student, teacher = networks(), networks()
        token = torch.nn.Parameter(value("mask_token", (1, student[0].features)).to(dtype))
        parameters = {**fill(dict(zip(("backbone", "head", "patch_head"), student, strict=False))), "mask_token": token}
        copy_weights(teacher, student)
        patch_prototypes = config.get("patch_head", config["head"])["prototypes"]
        answers = Answers(config["centering"], config["head"]["prototypes"], dtype)
        patch_answers = Answers(config["centering"], patch_prototypes, dtype)
        epochs, start = settings["steps"] // settings["steps_per_epoch"], config["mask"]["from_epoch"]
        temperatures = teacher_temperature(config["teacher_temperature"], config.get("teacher_temperature_warmup"), epochs)
        warmup = config.get("patch_teacher_temperature_warmup")
        of_patches = teacher_temperature(config["patch_teacher_temperature"], warmup, epochs - start)
        of_patches = np.concatenate([np.full(start, of_patches[0]), of_patches])
        newest = []

        def loss(views, step):
            epoch = step // settings["steps_per_epoch"]
            masks = torch.tensor([[c == "1" for c in view] for view in settings["masks"][step]])
            class_token, patches = tokens(student[0], views[0], masks, token)
            features = [class_token] + [tokens(student[0], group)[0] for group in views[1:]]
            scores = student[1](torch.cat(features)).split(settings["images"])
            patch_scores = student[-1](patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
            with torch.no_grad():
                their_class, their_patches = tokens(teacher[0], views[0])
                their_scores = teacher[1](their_class)
                their_patch_scores = teacher[-1](their_patches.flatten(0, 1))
                newest[:] = [their_scores, their_patch_scores]
                q = answers(their_scores, temperatures[epoch])
                size = (*masks.shape, patch_prototypes)
                if "sinkhorn" in config["centering"]:  # DINOv2's: over hidden patches alone
                    q_patches = torch.zeros(size, dtype=dtype)
                    q_patches[masks] = patch_answers(their_patch_scores.reshape(size)[masks], of_patches[epoch])
                else:
                    q_patches = patch_answers(their_patch_scores, of_patches[epoch]).reshape(size)
            total = cross_view(scores, q.chunk(2), config["student_temperature"])
            total = total + config["patch_weight"] * patch_loss(patch_scores, q_patches, masks, config["student_temperature"])
            if "koleo_weight" in config:
                total = total + config["koleo_weight"] * sum(koleo(view) for view in class_token.chunk(2))
            return total

        def after(step):
            move_teacher(teacher, student, momentum_of(config, step, settings["steps"]))
            answers.move(newest[0])
            patch_answers.move(newest[1])

        def frozen(step):
            first = step // settings["steps_per_epoch"] < config["freeze_last_layer_epochs"]
            return ["head.last_layer", "patch_head.last_layer"] if first else []

        return parameters, loss, after, frozen

    return make


SHARED = {
    "backbone": VIT["backbone"],
    "objective": {
        "student_temperature": 0.1,
        "teacher_temperature": 0.05,
        "patch_teacher_temperature": 0.07,
        "patch_teacher_temperature_warmup": {"start": 0.04, "epochs": 3},
        "centering": {"mean": {"momentum": 0.9}},
        "freeze_last_layer_epochs": 1,
        "momentum": 0.9,
        "momentum_end": 1.0,
        "patch_weight": 1.0,
        "mask": {"shape": "block", "probability": 0.5, "ratio": [0.1, 0.5], "from_epoch": 1},
        "head": {**HEAD, "batch_norm": False},
    },
    "learning_rate": 0.002,
    **COMMON,
}
SEPARATE = {
    **SHARED,
    "objective": {
        **SHARED["objective"],
        "teacher_temperature": 0.07,
        "teacher_temperature_warmup": {"start": 0.04, "epochs": 3},
        "centering": {"sinkhorn": {"iterations": 3}},
        "koleo_weight": 0.1,
        "patch_weight": 0.5,
        "mask": {"shape": "random", "probability": 0.75, "ratio": [0.1, 0.6], "from_epoch": 0},
        "patch_head": {**HEAD, "prototypes": 20, "hidden_width": 16, "batch_norm": False, "norm_last_layer": False},
    },
}


def main():
    torch.set_num_threads(1)
    grid, masks = loss_grid(), mask_statistics()
    fixture = {"generator": "scripts/parity/ibot.py", "torch": torch.__version__, "loss": grid, "masks": masks}
    path = FIXTURES / "ibot_patches.json"
    path.write_text(json.dumps(fixture).replace('{"images"', '\n{"images"').replace('{"grid"', '\n{"grid"') + "\n")
    worst = max(max(case["torch_float32_error"].values()) for case in grid)
    print(path.name, len(grid), "cases,", path.stat().st_size, f"bytes; float32 {worst:.1e}")
    for name, settings in (("ibot_shared", SHARED), ("ibot_separate", SEPARATE)):
        path = FIXTURES / f"{name}.json"
        stored = json.loads(path.read_text())["settings"]["masks"] if path.exists() else [["0" * 16] * 24] * 20
        made = {**settings, "masks": stored}
        record(name, made, build(made), script="ibot")


if __name__ == "__main__":
    main()
