"""Makes the losses in crates/objectives/fixtures/moco_training.json: 20 steps of MoCo-v2, from weights and views by formula.

    python scripts/parity/moco_training.py

The orders in which keys are shuffled are Passer's own draws: they lie in the fixture already (a test in
crates/objectives/src/moco.rs holds them) and are read from there. Everything else both sides make:

    weight   tensor number t of the sorted names, element i: sqrt(6 / fan-in) * u(t, i), with
             u(t, i) = 2 * frac(43758.5453 * sin(12.9898 i + 78.233 t)) - 1; norms start at 1 and 0, biases of linear layers at 0
    queue    u(1000, i), rows then to length 1
    pixel    (x (image % 7 + 3) + y (image % 5 + 2) + 40 channel + 17 image + 31 view + 13 step) mod 256, each view
             shifting x by 3 view

A ResNet-18 of width 4 at 16 px, 16 images a step in groups of 8, queue 64, embedding 16, m 0.99, T 0.2, learning rate 0.001,
momentum 0.9, weight decay 1e-4. The losses are float64's; beside them stands PyTorch's own float32 error.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from moco import Branch, Moco, normalise, resnet

FIXTURE = Path(__file__).resolve().parents[2] / "crates/objectives/fixtures/moco_training.json"
STEPS, IMAGES, GROUP, PIXELS, WIDTH, QUEUE, EMBEDDING = 20, 16, 8, 16, 4, 64, 16


def u(tensor, shape):
    wave = 43758.5453 * np.sin(12.9898 * np.arange(math.prod(shape), dtype=np.float64) + 78.233 * tensor)
    return torch.from_numpy(2.0 * (wave - np.floor(wave)) - 1.0).reshape(shape).float()


def branch():
    made = Branch(resnet(18, WIDTH, "small", GROUP), EMBEDDING)
    state = {name: value for name, value in made.state_dict().items() if not name.endswith("num_batches_tracked")}
    for number, name in enumerate(sorted(state)):
        value = state[name]
        if value.dim() > 1:
            value.copy_(u(number, value.shape) * math.sqrt(6.0 / math.prod(value.shape[1:])))
        elif name.startswith("head"):
            value.zero_()
    return made


def views(step):
    image, view, channel, y, x = np.ix_(range(IMAGES), range(2), range(3), range(PIXELS), range(PIXELS))
    x = x + 3 * view
    pixels = x * (image % 7 + 3) + y * (image % 5 + 2) + 40 * channel + 17 * image + 31 * view + 13 * step
    return torch.from_numpy((pixels % 256).astype(np.uint8)).transpose(0, 1)


def run(orders, dtype):
    query, key = branch().to(dtype), branch().to(dtype)
    optimizer = torch.optim.SGD(query.parameters(), lr=0.001, momentum=0.9, weight_decay=1e-4)
    queue = F.normalize(u(1000, (QUEUE, EMBEDDING)), dim=1).to(dtype)
    moco = Moco(query, key, queue, 0.99, 0.2, optimizer)
    losses = []
    for step in range(STEPS):
        q, k = (normalise(v, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], dtype) for v in views(step))
        losses.append(moco.step(q, k, torch.tensor(orders[step])))
    return losses


def main():
    orders = json.loads(FIXTURE.read_text())["orders"]
    torch.set_num_threads(1)
    reference, single = run(orders, torch.float64), run(orders, torch.float32)
    error = max(abs(a - b) / b for a, b in zip(single, reference))
    fixture = {
        "generator": "scripts/parity/moco_training.py",
        "torch": torch.__version__,
        "torch_float32_error": float(f"{error:.1e}"),
        "losses": reference,
        "orders": orders,
    }
    FIXTURE.write_text(json.dumps(fixture, indent=1, separators=(",", ": ")).replace(",\n   ", ", ") + "\n")
    print(f"{FIXTURE.name}: losses {reference[0]:.4f} to {reference[-1]:.4f}, float32 error {error:.1e}")


if __name__ == "__main__":
    main()
