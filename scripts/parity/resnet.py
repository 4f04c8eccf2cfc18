"""Fixtures of crates/backbones: what torchvision's ResNets and PyTorch's batch norm give for weights made by formula.

    python scripts/parity/resnet.py            # writes crates/backbones/fixtures/*.safetensors

Needs torch, torchvision, safetensors. Weights and inputs are not stored: both sides make them from `formula`, in the
order of the sorted parameter names. Everything is computed in float64 from weights rounded to float32; beside each
value lies PyTorch's own float32 error, which is the bound where the stated one is out of float32's reach.
"""

import math
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn
from torchvision.models import resnet

FIXTURES = Path(__file__).resolve().parents[2] / "crates/backbones/fixtures"
SAMPLES = 16  # stored elements of a statistic or gradient


def formula(tensor: int, shape) -> torch.Tensor:
    """Uniform-looking numbers in [-1, 1) from the sine of the index; `tensor` tells tensors apart."""
    count = math.prod(shape)
    wave = np.sin(12.9898 * np.arange(count, dtype=np.float64) + 78.233 * tensor) * 43758.5453
    return torch.from_numpy(2.0 * (wave - np.floor(wave)) - 1.0).reshape(shape)


def fill(model: nn.Module) -> None:
    """Gives each parameter and statistic the values that `parity.rs` gives it."""
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    for number, name in enumerate(sorted(state)):
        tensor = state[name]
        values = formula(number, tensor.shape)
        if tensor.dim() > 1:  # variance 2 / fan-in
            values *= math.sqrt(6.0 / math.prod(tensor.shape[1:]))
        elif name.endswith(("weight", "running_var")):  # around 1
            values = 1.0 + 0.5 * values
        else:
            values *= 0.2
        tensor.copy_(values.float())


class NarrowResNet(resnet.ResNet):
    """torchvision's ResNet with another base width, and the stem for small images."""

    def __init__(self, block, layers, width):
        self.base = width
        super().__init__(block, layers)
        self.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.Identity()

    def _make_layer(self, block, planes, blocks, stride=1, dilate=False):
        if planes == 64:
            self.inplanes = self.base
        return super()._make_layer(block, planes * self.base // 64, blocks, stride, dilate)


class NarrowImagenet(NarrowResNet):
    """The same with the stem for large images; in a bottleneck the stride is in the first convolution, as in the paper."""

    def __init__(self, block, layers, width):
        super().__init__(block, layers, width)
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for part in self.modules():
            if isinstance(part, resnet.Bottleneck):
                part.conv1.stride, part.conv2.stride = part.conv2.stride, part.conv1.stride


def samples(tensor: torch.Tensor) -> np.ndarray:
    """`SAMPLES` elements, evenly spread."""
    flat = tensor.detach().double().flatten()
    index = torch.arange(SAMPLES) * len(flat) // SAMPLES
    return flat[index].numpy()


def run(make, images: torch.Tensor, dtype, gradients: bool) -> dict[str, torch.Tensor]:
    """Features in both modes, statistics after one training forward, gradients of a fixed loss."""
    model = make()
    model.fc = nn.Identity()
    with torch.no_grad():
        fill(model)
    model.to(dtype)
    out = {}
    with torch.no_grad():
        out["evaluation"] = model.eval()(images.to(dtype))
    features = model.train()(images.to(dtype))
    out["training"] = features
    # One product a feature, so that no part of the gradient cancels.
    (features * formula(2000, features.shape).to(dtype)).sum().backward()
    if gradients:
        out |= {f"gradient.{k}": v.grad for k, v in model.named_parameters()}
    out |= {k: v for k, v in model.state_dict().items() if "running_" in k}
    return {k: v.detach().double() for k, v in out.items()}


def network(name: str, make, images: torch.Tensor, gradients=False) -> None:
    exact = run(make, images, torch.float64, gradients)
    float32 = run(make, images, torch.float32, gradients)
    stored, errors = {}, {}
    for key, value in exact.items():
        errors[key] = float((float32[key] - value).norm() / value.norm())
        whole = key in ("evaluation", "training")
        stored[key] = (value.numpy() if whole else samples(value)).astype(np.float32)
        if not whole:
            stored[f"norm.{key}"] = np.array([value.norm()], dtype=np.float32)
    # float32 errors of the gradients, in the order of the sorted names.
    names = sorted(k for k in errors if k.startswith("gradient."))
    if names:
        stored["float32_errors"] = np.array([errors[k] for k in names], dtype=np.float32)
    save_file(stored, FIXTURES / f"{name}.safetensors")
    worst = max(errors, key=errors.get)
    print(f"{name}: |features| {exact['evaluation'].std():.3g} {exact['training'].std():.3g}, "
          f"float32's worst error {errors[worst]:.1e} ({worst})")


def batch_norm_groups() -> None:
    """Groups of 2 images, each normalised by a layer of its own; running statistics of all groups averaged."""
    x = (formula(1, (8, 6, 5, 3)) * 2 + 0.5).float().double().requires_grad_()
    weight, bias = (1 + 0.5 * formula(2, (6,))).float().double(), (0.2 * formula(3, (6,))).float().double()
    layers = []
    outputs = []
    for part in x.split(2):
        layer = nn.BatchNorm2d(6, momentum=1.0).double()  # statistics = this batch's
        layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
        outputs.append(layer(part))
        layers.append(layer)
    output = torch.cat(outputs)
    (output * formula(4, output.shape)).sum().backward()

    def running(start, name):
        mean = torch.stack([getattr(layer, name) for layer in layers]).mean(0)
        return 0.9 * start + 0.1 * mean

    stored = {
        "output": output,
        "gradient.x": x.grad,
        "gradient.weight": sum(layer.weight.grad for layer in layers),
        "gradient.bias": sum(layer.bias.grad for layer in layers),
        "running_mean": running(0.0, "running_mean"),
        "running_var": running(1.0, "running_var"),
    }
    arrays = {k: v.detach().numpy().astype(np.float32) for k, v in stored.items()}
    save_file(arrays, FIXTURES / "batch_norm_groups.safetensors")


if __name__ == "__main__":
    torch.manual_seed(0)
    FIXTURES.mkdir(exist_ok=True)
    large = formula(1000, (4, 3, 64, 64)).float()
    small = formula(1000, (4, 3, 32, 32)).float()
    network("resnet18", resnet.resnet18, large, gradients=True)
    network("resnet50", resnet.resnet50, large)
    narrow = lambda: NarrowResNet(resnet.BasicBlock, [2, 2, 2, 2], width=16)
    network("resnet18_w16_small", narrow, small, gradients=True)
    caffe = lambda: NarrowImagenet(resnet.Bottleneck, [3, 4, 6, 3], width=8)
    network("resnet50_w8_caffe", caffe, large, gradients=True)
    batch_norm_groups()
