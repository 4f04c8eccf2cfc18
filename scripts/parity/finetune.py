"""Fixtures of fine-tuning in `crates/evaluation`: mixup and CutMix, the loss with soft targets, the average's decay, rates by
depth, and twenty training steps, from timm and PyTorch.

    python scripts/parity/finetune.py

Writes crates/evaluation/fixtures/finetune.json and finetune_training.json, read by crates/evaluation/src/finetune/parity.rs.
The mixes of the twenty steps (lambda and rectangle) are Passer's own draws, held by a test there: they lie in
finetune_training.json already and are read from there. Weights, views and logits are made by formula (see formula.py):

    logits   3 * frac-noise u(case, i) of formula.py
    labels   (3 image + step) mod classes
"""

import contextlib
import json
import unittest.mock
from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import mixup as timm_mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from timm.optim import param_groups_layer_decay
from timm.utils.model_ema import ModelEmaV3
from torch import nn

import formula
from moco import resnet

FIXTURES = Path(__file__).resolve().parents[2] / "crates/evaluation/fixtures"
TRAINING = {
    "backbone": {"resnet": {"depth": 18, "width": 4, "stem": "small"}},
    "classes": 5,
    "label_smoothing": 0.1,
    "mixing_images": 8,
    "views": [[1, 16]],
    "images": 16,
    "steps": 20,
    "steps_per_epoch": 10,
    "learning_rate": 0.005,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}


def boxes():
    """CutMix's rectangle and corrected lambda for given draws."""
    for height, width, lam, y, x in [
        (32, 32, 0.5, 16, 16),
        (32, 32, 0.3, 0, 31),
        (31, 17, 0.71, 30, 3),
        (224, 224, 0.013, 100, 200),
        (224, 192, 0.999, 5, 5),
        (8, 8, 1e-4, 4, 1),
    ]:
        with unittest.mock.patch.object(np.random, "randint", side_effect=[y, x]):
            (top, bottom, left, right), corrected = timm_mixup.cutmix_bbox_and_lam((2, 3, height, width), lam)
        yield {"size": [height, width], "lambda": lam, "middle": [y, x], "box": [int(v) for v in (top, bottom, left, right)], "corrected": float(corrected)}


def losses():
    for case, (images, classes, smoothing, lam) in enumerate([(4, 3, 0.0, 1.0), (6, 10, 0.1, 1.0), (8, 5, 0.1, 0.37), (2, 1000, 0.3, 0.8)]):
        labels = torch.tensor([3 * image % classes for image in range(images)])
        targets = timm_mixup.mixup_target(labels, classes, lam, smoothing).double()
        logits = (3 * formula.u(case, (images, classes))).double().requires_grad_()
        loss = SoftTargetCrossEntropy()(logits, targets)
        loss.backward()
        if lam == 1.0:
            other = LabelSmoothingCrossEntropy(smoothing)(logits.detach(), labels)
            assert abs(other - loss.detach()) < 1e-6 * loss.detach(), (other, loss)
        yield {
            "images": images, "classes": classes, "smoothing": smoothing, "lambda": lam,
            "targets": formula.sample(targets, 24), "loss": loss.item(), "gradient": formula.sample(logits.grad, 24),
        }


def decays():
    model = nn.Linear(1, 1)
    for decay, gamma, power in [(0.9, None, None), (0.9998, 1.0, 2 / 3), (0.5, 4.0, 0.75)]:
        average = ModelEmaV3(model, decay=decay, use_warmup=gamma is not None, warmup_gamma=gamma or 1.0, warmup_power=power or 2 / 3)
        steps = [1, 2, 3, 10, 1000, 100_000]
        yield {"decay": decay, "gamma": gamma, "power": power, "steps": steps, "decays": [average.get_decay(step) for step in steps]}


def average():
    """A batch norm that moves by hand through five steps, and timm's average of it."""
    norm = nn.BatchNorm1d(3)
    average = ModelEmaV3(norm, decay=0.8)
    for step in range(1, 6):
        with torch.no_grad():
            for number, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
                tensor.copy_(formula.u(10 * step + number, (3,)))
        average.update(norm, step=step)
    names = ("weight", "bias", "running_mean", "running_var")
    return {"decay": 0.8, "steps": 5, **{name: average.module.state_dict()[name].tolist() for name in names}}


def layer_rates():
    """timm's rates and weight decay by parameter."""
    vit = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 3, "num_heads": 2, "num_classes": 5}
    models = {
        "vit_class_token": VisionTransformer(**vit),
        "vit_mean_then_norm": VisionTransformer(**vit, global_pool="avg"),
        "resnet18": timm.create_model("resnet18", num_classes=5),
        "resnet50": timm.create_model("resnet50", num_classes=5),
    }
    for name, model in models.items():
        without = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        names = {id(p): n for n, p in model.named_parameters()}
        groups = param_groups_layer_decay(model, weight_decay=0.05, no_weight_decay_list=without, layer_decay=0.65)
        yield {
            "network": name,
            "layer_decay": 0.65,
            "weight_decay": 0.05,
            "parameters": {names[id(p)]: [group["lr_scale"], group["weight_decay"]] for group in groups for p in group["params"]},
        }


def mixed(images, mix):
    other = images.flip(0)
    if mix["cut"] is None:
        return images * mix["lambda"] + other * (1 - mix["lambda"])
    top, bottom, left, right = mix["cut"]
    images = images.clone()
    images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
    return images


def training():
    path = FIXTURES / "finetune_training.json"
    mixes = json.loads(path.read_text())["settings"]["mixes"]
    settings = {**TRAINING, "mixes": mixes}
    classes, together = settings["classes"], settings["mixing_images"]

    def build(dtype):
        backbone = resnet(18, settings["backbone"]["resnet"]["width"], "small", None)
        head = nn.Linear(8 * settings["backbone"]["resnet"]["width"], classes)
        parameters = formula.fill({"backbone": backbone, "head": head})
        for module in (backbone, head):
            module.to(dtype).train()

        def loss_of(views, step):
            labels = torch.tensor([(3 * image + step) % classes for image in range(settings["images"])])
            images, targets = [], []
            for group, (part, of) in enumerate(zip(views[0].split(together), labels.split(together))):
                mix = mixes[step][group]
                images.append(mixed(part, mix))
                targets.append(timm_mixup.mixup_target(of, classes, mix["lambda"], settings["label_smoothing"]).to(dtype))
            return SoftTargetCrossEntropy()(head(backbone(torch.cat(images)).flatten(1)), torch.cat(targets))

        return parameters, loss_of, lambda step: None, lambda step: []

    formula.FIXTURES = FIXTURES
    formula.record("finetune_training", settings, build, script="finetune")


def main():
    torch.set_num_threads(1)
    fixture = {
        "generator": "scripts/parity/finetune.py",
        "made_with": f"timm {timm.__version__}, torch {torch.__version__}",
        "boxes": list(boxes()),
        "losses": list(losses()),
        "decays": list(decays()),
        "average": average(),
        "layer_rates": list(layer_rates()),
    }
    path = FIXTURES / "finetune.json"
    path.write_text(json.dumps(fixture, separators=(",", ":")).replace('},{"', '},\n {"') + "\n")
    print(path.name, path.stat().st_size, "bytes")
    with contextlib.suppress(FileNotFoundError):
        training()


if __name__ == "__main__":
    main()
