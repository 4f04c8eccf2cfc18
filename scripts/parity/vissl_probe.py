"""Fixture of crates/evaluation: a ResNet's stages pooled as VISSL does, and its classifier's training, by torchvision and PyTorch.

    python scripts/parity/vissl_probe.py       # writes crates/evaluation/fixtures/vissl_probe.safetensors

Needs torch, torchvision, safetensors. Weights and images are not stored: both sides make them by `resnet.py`'s formula. All is
computed in float64 from float32 weights; PyTorch's own float32 error is printed beside.
"""

import math
from pathlib import Path

import numpy as np
import torch
from resnet import NarrowResNet, fill, formula
from safetensors.numpy import save_file
from torch import nn
from torchvision.models import resnet

FIXTURE = Path(__file__).resolve().parents[2] / "crates/evaluation/fixtures/vissl_probe.safetensors"
SAMPLES = 96
STAGES = {"conv1": "relu", "res2": "layer1", "res3": "layer2", "res4": "layer3", "res5": "layer4"}
# facebookresearch/vissl, configs/config/benchmark/linear_image_classification: ResNet-50 at 224 px.
WINDOWS = {"conv1": (10, 10, 4), "res2": (16, 8, 0), "res3": (13, 5, 0), "res4": (8, 3, 0), "res5": (6, 1, 0)}


def stages(make, images, dtype, pool):
    """The pooled map of each stage, flattened, and the network's pooled output."""
    model = make()
    model.fc = nn.Identity()
    with torch.no_grad():
        fill(model)
    model.to(dtype).eval()
    maps = {}
    for stage, module in STAGES.items():
        getattr(model, module).register_forward_hook(lambda _, __, out, stage=stage: maps.__setitem__(stage, out.clone()))
    with torch.no_grad():
        pooled = model(images.to(dtype))
        found = {stage: pool(stage, maps[stage]).flatten(1).double() for stage in STAGES}
    return found | {"pooled": pooled.double()}


def vissl(stage, x):
    return nn.AvgPool2d(*WINDOWS[stage])(x)


def rule(_, x):
    side = math.isqrt(9216 // x.shape[1])
    return nn.AdaptiveAvgPool2d((min(side, x.shape[2]), min(side, x.shape[3])))(x)


def networks():
    stored = {}
    narrow = lambda: NarrowResNet(resnet.BasicBlock, [2, 2, 2, 2], width=16)
    for name, make, size, pool in [
        ("resnet50", resnet.resnet50, (224, 224), vissl),
        ("resnet18", resnet.resnet18, (96, 64), rule),
        ("resnet18_w16_small", narrow, (32, 32), rule),
    ]:
        images = formula(1000, (2, 3, *size)).float()
        exact = stages(make, images, torch.float64, pool)
        float32 = stages(make, images, torch.float32, pool)
        for stage, features in exact.items():
            error = float((float32[stage] - features).norm() / features.norm())
            print(f"{name} {stage}: {features.shape[1]} features, norm {features.norm():.4g}, float32 off by {error:.1e}")
            flat = features.flatten()
            index = torch.arange(SAMPLES) * len(flat) // SAMPLES
            stored[f"{name}.{stage}"] = flat[index].numpy()
            stored[f"{name}.{stage}.about"] = np.array([features.shape[1], float(features.norm())])
    return stored


def training():
    """BatchNorm2d and Linear by SGD with Nesterov's momentum; the normalisation does not decay."""
    generator = torch.Generator().manual_seed(0)
    channels, classes, rows = 3, 5, 80
    truth = torch.arange(rows) % classes
    centres = torch.randn(classes, channels * 4, generator=generator)
    x = centres[truth] + torch.randn(rows, channels * 4, generator=generator)
    # Channels of very different size, as stages have them.
    scales = torch.tensor([50.0, 1.0, 0.02]).repeat_interleave(4)
    x = (x * scales + scales).float()
    norm, layer = nn.BatchNorm2d(channels).double(), nn.Linear(channels * 4, classes).double()
    with torch.no_grad():
        layer.weight.copy_(layer.weight.float())
        layer.bias.copy_(layer.bias.float())
    stored = {
        "head.rows": x.numpy(),
        "head.rows_labels": truth.numpy(),
        "head.start_weight": layer.weight.detach().numpy().copy(),
        "head.start_bias": layer.bias.detach().numpy().copy(),
    }
    decay = 0.05
    groups = [{"params": norm.parameters(), "weight_decay": 0.0}, {"params": layer.parameters(), "weight_decay": decay}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    order = torch.stack([torch.randperm(rows, generator=generator) for _ in range(6)])
    for epoch, places in enumerate(order):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.1 ** sum(epoch >= milestone for milestone in (2, 4))
        for part in places.split(16):
            optimizer.zero_grad()
            logits = layer(norm(x[part].double().reshape(-1, channels, 2, 2)).flatten(1))
            nn.functional.cross_entropy(logits, truth[part]).backward()
            optimizer.step()
    norm.eval()
    with torch.no_grad():
        predicted = layer(norm(x.double().reshape(-1, channels, 2, 2)).flatten(1)).argmax(1)
    print("head: top-1", float((predicted == truth).double().mean()), "scale", norm.weight.tolist())
    return stored | {
        "head.order": order.numpy(),
        "head.weight": layer.weight.detach().numpy(),
        "head.bias": layer.bias.detach().numpy(),
        "head.norm_weight": norm.weight.detach().numpy(),
        "head.norm_bias": norm.bias.detach().numpy(),
        "head.running_mean": norm.running_mean.numpy(),
        "head.running_var": norm.running_var.numpy(),
        "head.predicted": predicted.numpy(),
    }


if __name__ == "__main__":
    torch.set_num_threads(2)
    stored = networks() | training()
    stored = {k: v.astype(np.int16 if v.dtype == np.int64 else np.float32) for k, v in stored.items()}
    save_file({k: np.ascontiguousarray(v) for k, v in stored.items()}, FIXTURE)
