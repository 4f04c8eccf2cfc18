"""What the parity scripts of objectives share: weights and views by formula, and the record of twenty training steps.

Both sides make weights and pictures from formulas, so a fixture holds settings, losses and gradients alone. The Rust side is
crates/objectives/src/formula.rs.

    number   of a parameter: sum of (position + 1) * byte over its path in Passer, modulo 997; the path is taken without the
             parts `student`, `teacher`, `encoder` and the network's kind: `backbone.layer1.0.conv1.weight`
    u(t, i)  2 * frac(43758.5453 * sin(12.9898 i + 78.233 t)) - 1
    weight   of two or more dimensions: sqrt(6 / fan-in) * u, fan-in being the product of all dimensions but the first;
             of one dimension: 1 + 0.1 u where the name ends in `weight` or `gamma`, else 0.1 u
    pixel    (x (image % 7 + 3) + y (image % 5 + 2) + 40 channel + 17 image + 31 view + 13 step) mod 256, each view shifting x
             by 3 view; views are counted through all sizes; normalised with ImageNet's statistics
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from moco import SplitBatchNorm2d, normalise

FIXTURES = Path(__file__).resolve().parents[2] / "crates/objectives/fixtures"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def number(path):
    return sum((position + 1) * byte for position, byte in enumerate(path.encode())) % 997


def u(tensor, shape):
    wave = 43758.5453 * np.sin(12.9898 * np.arange(math.prod(shape), dtype=np.float64) + 78.233 * tensor)
    return torch.from_numpy(2.0 * (wave - np.floor(wave)) - 1.0).reshape(shape).float()


def value(path, shape):
    made = u(number(path), shape)
    if len(shape) > 1:
        return made * np.float32(math.sqrt(6.0 / math.prod(shape[1:])))
    return 1 + np.float32(0.1) * made if path.endswith(("weight", "gamma")) else np.float32(0.1) * made


@torch.no_grad()
def fill(modules):
    """{path prefix: module}: gives every trained parameter its value; returns {path: parameter}."""
    found = {}
    for prefix, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                path = f"{prefix}.{name}"
                parameter.copy_(value(path, tuple(parameter.shape)))
                found[path] = parameter
    return found


def views(step, groups, images, dtype):
    """[(count, px)] to normalised tensors `[count * images, 3, px, px]`, all images of view 0 first."""
    made, first = [], 0
    for count, px in groups:
        view, image, channel, y, x = np.ix_(range(first, first + count), range(images), range(3), range(px), range(px))
        x = x + 3 * view
        pixels = x * (image % 7 + 3) + y * (image % 5 + 2) + 40 * channel + 17 * image + 31 * view + 13 * step
        pixels = torch.from_numpy((pixels % 256).astype(np.uint8)).reshape(count * images, 3, px, px)
        made.append(normalise(pixels, MEAN, STD, dtype))
        first += count
    return made


class SplitBatchNorm1d(SplitBatchNorm2d):
    def _check_input_dim(self, x):
        assert x.dim() == 2

    def __init__(self, features, group_images=None, affine=True):
        super().__init__(features, group_images)
        if not affine:
            self.weight = self.bias = None


class Mlp(nn.Module):
    """crates/objectives/src/head.rs, with its names."""

    def __init__(self, inputs, hidden, outputs, norm, hidden_bias, output_bias, output_norm=None, group_images=None):
        super().__init__()
        widths = [inputs, *hidden, outputs]
        biases = [hidden_bias] * len(hidden) + [output_bias]
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=c) for a, b, c in zip(widths, widths[1:], biases, strict=False))
        self.norms = nn.ModuleList(SplitBatchNorm1d(w, group_images) for w in hidden) if norm else []
        affine = output_norm == "affine"
        self.output_norm = SplitBatchNorm1d(outputs, group_images, affine) if output_norm else nn.Identity()

    def forward(self, x):
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index + 1 < len(self.layers):
                x = torch.relu(self.norms[index](x) if self.norms else x)
        return self.output_norm(x)


def sample(tensor, count=16):
    """`count` values at equal distances, the first one first."""
    flat = tensor.detach().flatten().double()
    return flat[:: max(1, len(flat) // count)][:count].tolist()


def relative(ours, reference):
    ours, reference = torch.tensor(ours, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64)
    return float((ours - reference).norm() / reference.norm().clamp_min(1e-300))


def train(settings, build, dtype):
    """Losses and first gradients of a method.

    `build(dtype)` gives the parameters by path, `loss(views, step)`, `after(step)` (called without gradients once the
    optimizer has moved), and `frozen(step)`: prefixes of paths whose gradients are dropped.
    """
    parameters, loss_of, after, frozen = build(dtype)
    optimizer = torch.optim.SGD(
        parameters.values(), lr=settings["learning_rate"], momentum=settings["momentum"], weight_decay=settings["weight_decay"]
    )
    losses, gradients = [], {}
    for step in range(settings["steps"]):
        loss = loss_of(views(step, settings["views"], settings["images"], dtype), step)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            gradients = {path: sample(p.grad) for path, p in parameters.items() if p.grad is not None}
        for path, p in parameters.items():
            if any(path == f or path.startswith(f + ".") for f in frozen(step)):
                p.grad = None
        optimizer.step()
        with torch.no_grad():
            after(step)
        losses.append(loss.item())
    return losses, gradients


def record(name, settings, build, script=None):
    """Writes fixtures/NAME.json: settings, losses and first gradients in float64, and what PyTorch's float32 loses.

    `script` names the generator where it makes more than one fixture.
    """
    torch.set_num_threads(1)
    reference, gradients = train(settings, build, torch.float64)
    single, of_single = train(settings, build, torch.float32)
    size = settings.get("loss_range", 0.0)  # of a loss that passes through 0
    error = max(abs(a - b) / max(abs(b), size) for a, b in zip(single, reference, strict=True))
    by_gradient = {path: relative(of_single[path], values) for path, values in gradients.items()}
    fixture = {
        "generator": f"scripts/parity/{script or name}.py",
        "torch": torch.__version__,
        "settings": settings,
        "torch_float32_error": float(f"{error:.1e}"),
        "torch_float32_gradient_errors": {path: float(f"{e:.1e}") for path, e in by_gradient.items()},
        "losses": reference,
        "gradients": gradients,
    }
    path = FIXTURES / f"{name}.json"
    path.write_text(json.dumps(fixture, separators=(",", ": ")).replace('], "', '],\n "') + "\n")
    print(
        f"{path.name}: losses {reference[0]:.4f} to {reference[-1]:.4f}, float32 error {error:.1e}, "
        f"gradients {max(by_gradient.values()):.1e}, {path.stat().st_size} bytes"
    )
