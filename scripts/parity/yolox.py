"""YOLOX in PyTorch: the reference of crates/detection/src/yolox.

    python scripts/parity/yolox.py            crates/detection/fixtures/yolox_formula.json

Two networks of YOLOX's form (Ge et al., YOLOX: Exceeding YOLO series in 2021), a depthwise one as nano and a plain one as s, with
a stem of 8 channels, run in float64 and under the names of the published state dicts. No weights are stored: both sides make them
by the formula of detection.py (a prediction's weights a tenth of it), and the picture, [3, 64, 64] in blue, green and red, by
((7 x + 5 y + 40 channel + x y mod 11) mod 256) / 16.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from formula import number, u

FIXTURES = Path(__file__).resolve().parents[2] / "crates/detection/fixtures"


class Base(nn.Module):
    def __init__(self, inputs, outputs, kernel=1, stride=1, groups=1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x):
        return F.silu(self.bn(self.conv(x)))


class Depthwise(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.dconv = Base(inputs, inputs, 3, stride, inputs)
        self.pconv = Base(inputs, outputs)

    def forward(self, x):
        return self.pconv(self.dconv(x))


def window(depthwise, inputs, outputs, stride=1):
    return Depthwise(inputs, outputs, stride) if depthwise else Base(inputs, outputs, 3, stride)


class Block(nn.Module):
    def __init__(self, channels, shortcut, depthwise):
        super().__init__()
        self.conv1, self.conv2 = Base(channels, channels), window(depthwise, channels, channels)
        self.shortcut = shortcut

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class Stage(nn.Module):
    def __init__(self, inputs, outputs, blocks, shortcut, depthwise):
        super().__init__()
        half = outputs // 2
        self.conv1, self.conv2, self.conv3 = Base(inputs, half), Base(inputs, half), Base(2 * half, outputs)
        self.m = nn.Sequential(*(Block(half, shortcut, depthwise) for _ in range(blocks)))

    def forward(self, x):
        return self.conv3(torch.cat([self.m(self.conv1(x)), self.conv2(x)], 1))


class Pooling(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1, self.conv2 = Base(channels, channels // 2), Base(2 * channels, channels)

    def forward(self, x):
        x = self.conv1(x)
        return self.conv2(torch.cat([x] + [F.max_pool2d(x, k, 1, k // 2) for k in (5, 9, 13)], 1))


class Stem(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = Base(12, width, 3)

    def forward(self, x):
        parts = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(parts, 1))


class Darknet(nn.Module):
    def __init__(self, w, depth, dw):
        super().__init__()
        self.stem = Stem(w)
        self.dark2 = nn.Sequential(window(dw, w, 2 * w, 2), Stage(2 * w, 2 * w, depth, True, dw))
        self.dark3 = nn.Sequential(window(dw, 2 * w, 4 * w, 2), Stage(4 * w, 4 * w, 3 * depth, True, dw))
        self.dark4 = nn.Sequential(window(dw, 4 * w, 8 * w, 2), Stage(8 * w, 8 * w, 3 * depth, True, dw))
        self.dark5 = nn.Sequential(
            window(dw, 8 * w, 16 * w, 2), Pooling(16 * w), Stage(16 * w, 16 * w, depth, False, dw)
        )

    def forward(self, x):
        fine = self.dark3(self.dark2(self.stem(x)))
        middle = self.dark4(fine)
        return fine, middle, self.dark5(middle)


class Pyramid(nn.Module):
    def __init__(self, w, depth, dw):
        super().__init__()
        self.backbone = Darknet(w, depth, dw)
        self.lateral_conv0, self.reduce_conv1 = Base(16 * w, 8 * w), Base(8 * w, 4 * w)
        self.C3_p4, self.C3_p3 = Stage(16 * w, 8 * w, depth, False, dw), Stage(8 * w, 4 * w, depth, False, dw)
        self.bu_conv2, self.bu_conv1 = window(dw, 4 * w, 4 * w, 2), window(dw, 8 * w, 8 * w, 2)
        self.C3_n3, self.C3_n4 = Stage(8 * w, 8 * w, depth, False, dw), Stage(16 * w, 16 * w, depth, False, dw)

    def forward(self, x):
        fine, middle, coarse = self.backbone(x)
        double = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
        side_0 = self.lateral_conv0(coarse)
        side_1 = self.reduce_conv1(self.C3_p4(torch.cat([double(side_0), middle], 1)))
        fine = self.C3_p3(torch.cat([double(side_1), fine], 1))
        middle = self.C3_n3(torch.cat([self.bu_conv2(fine), side_1], 1))
        return fine, middle, self.C3_n4(torch.cat([self.bu_conv1(middle), side_0], 1))


class Head(nn.Module):
    def __init__(self, w, classes, dw):
        super().__init__()
        branch = lambda: nn.Sequential(window(dw, 4 * w, 4 * w), window(dw, 4 * w, 4 * w))
        self.stems = nn.ModuleList(Base(inputs * w, 4 * w) for inputs in (4, 8, 16))
        self.cls_convs, self.reg_convs = (nn.ModuleList(branch() for _ in range(3)) for _ in range(2))
        self.cls_preds, self.reg_preds, self.obj_preds = (
            nn.ModuleList(nn.Conv2d(4 * w, outputs, 1) for _ in range(3)) for outputs in (classes, 4, 1)
        )

    def forward(self, maps):
        levels = []
        for level, x in enumerate(maps):
            x = self.stems[level](x)
            of_class, of_box = self.cls_convs[level](x), self.reg_convs[level](x)
            parts = [
                self.reg_preds[level](of_box),
                self.obj_preds[level](of_box).sigmoid(),
                self.cls_preds[level](of_class).sigmoid(),
            ]
            levels.append(torch.cat(parts, 1).flatten(2))
        return torch.cat(levels, 2).transpose(1, 2)


class Yolox(nn.Module):
    def __init__(self, w, depth, classes, depthwise):
        super().__init__()
        self.backbone, self.head = Pyramid(w, depth, depthwise), Head(w, classes, depthwise)

    def forward(self, x):
        return self.head(self.backbone(x))


@torch.no_grad()
def main():
    y, x = np.mgrid[:64, :64]
    planes = np.stack([(7 * x + 5 * y + 40 * channel + x * y % 11) % 256 for channel in range(3)])
    made = {"made_by": "scripts/parity/yolox.py"}
    for what, depth, depthwise in (("depthwise", 1, True), ("plain", 2, False)):
        network = Yolox(8, depth, 3, depthwise).double().eval()
        state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
        for name, tensor in state.items():
            values, norm = u(number(name), tuple(tensor.shape)), "running_var" in name
            if tensor.dim() > 1:
                gain = 0.1 if "_preds" in name else 1.0
                values = values * np.float32(math.sqrt(6.0 / math.prod(tensor.shape[1:])) * gain)
            elif norm or name.endswith("weight"):
                values = 1 + np.float32(0.5 if norm else 0.1) * values
            else:
                values = np.float32(0.1) * values
            tensor.copy_(torch.as_tensor(values))
        images = torch.from_numpy(planes)[None].double() / 16
        output = network(images)
        single = network.float()(images.float()).double()
        error = float((single - output).norm() / output.norm())
        spread = [float(output[0, :, column].std()) for column in range(output.shape[2])]
        print(f"{what}: PyTorch's own error in float32 {error:.1e}; spread of the columns", np.round(spread, 4))
        made[what] = {
            "shapes": {name: list(tensor.shape) for name, tensor in state.items()},
            "output": [float(f"{value:.7g}") for value in output.flatten().tolist()],
        }
    FIXTURES.joinpath("yolox_formula.json").write_text(json.dumps(made, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
