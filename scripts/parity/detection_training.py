"""Fixture of crates/evaluation: twenty steps of a narrow Mask R-CNN of torchvision's, losses of each step.

    python scripts/parity/detection_training.py   # writes crates/evaluation/fixtures/detection_training.json

Needs torch, torchvision. Weights, images and objects come from formulas (`rcnn.py`), and only losses are stored, of
float64 and of float32. All candidates are sampled, so nothing is drawn: the samplers take more than there are. SGD with
momentum and weight decay that spares norms, under a warmup and a milestone, as detectron2 trains.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection import anchor_utils, faster_rcnn, image_list, mask_rcnn, rpn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rcnn import NarrowResNet, u, value  # noqa: E402

FIXTURE = Path(__file__).resolve().parents[2] / "crates/evaluation/fixtures/detection_training.json"
STEPS, CHANNELS, WIDTH, CLASSES = 20, 16, 32, 2
PADDED = [96, 96]
SIZES = [[64, 96], [96, 64]]
ALL = 100_000
LR, MOMENTUM, DECAY = 0.003, 0.9, 1e-2
WARMUP, MILESTONE = 5, 15


def network():
    body = NarrowResNet(resnet.BasicBlock, [2, 2, 2, 2], 8, nn.BatchNorm2d)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(body, layers, [8, 16, 32, 64], CHANNELS)
    sizes = tuple((size,) for size in (8, 16, 32, 64, 128))
    anchors = anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    model = mask_rcnn.MaskRCNN(
        backbone,
        None,
        rpn_anchor_generator=anchors,
        rpn_head=rpn.RPNHead(CHANNELS, 3),
        rpn_pre_nms_top_n_train=ALL,
        rpn_post_nms_top_n_train=ALL,
        rpn_batch_size_per_image=ALL,
        box_batch_size_per_image=ALL,
        box_positive_fraction=0.5,
        box_head=faster_rcnn.TwoMLPHead(CHANNELS * 49, WIDTH),
        box_predictor=faster_rcnn.FastRCNNPredictor(WIDTH, CLASSES + 1),
        mask_head=mask_rcnn.MaskRCNNHeads(CHANNELS, [CHANNELS], 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(CHANNELS, CHANNELS, CLASSES + 1),
    )
    state = model.state_dict()
    for name, old in state.items():
        if not name.endswith("num_batches_tracked"):
            state[name] = value(name, list(old.shape), "bn2.weight")
    model.load_state_dict(state)
    return model.train()


def images(step, dtype):
    padded = torch.zeros(2, 3, *PADDED, dtype=dtype)
    for index, (height, width) in enumerate(SIZES):
        made = 2.0 * u(f"image.{step}.{index}", [3, height, width])
        padded[index, :, :height, :width] = torch.from_numpy(made.reshape(3, height, width)).float().to(dtype)
    return image_list.ImageList(padded, [tuple(size) for size in SIZES])


def targets(step, dtype):
    found = []
    for index, (height, width) in enumerate(SIZES):
        left, top = 4 + (5 * step + 3 * index) % 20, 6 + (7 * step + 2 * index) % 16
        boxes = [[left, top, left + 30, top + 22], [left + 10, top + 12, left + 24, top + 40]]
        masks = torch.zeros(2, height, width, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes):
            mask[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] = 1
        found.append({"boxes": torch.tensor(boxes, dtype=dtype), "labels": torch.tensor([1, 2]), "masks": masks})
    return found


def train(dtype):
    torch.manual_seed(0)
    model = network().to(dtype)
    norms, others = [], []
    for module in model.modules():
        own = list(module.parameters(recurse=False))
        (norms if isinstance(module, nn.BatchNorm2d) else others).extend(own)
    groups = [{"params": others, "weight_decay": DECAY}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=WARMUP)
    steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [MILESTONE], 0.1)
    lines = []
    for step in range(STEPS):
        batch, truth = images(step, dtype), targets(step, dtype)
        features = model.backbone(batch.tensors)
        proposals, of_proposals = model.rpn(batch, features, truth)
        _, of_regions = model.roi_heads(features, proposals, batch.image_sizes, truth)
        losses = {**of_proposals, **of_regions}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        warmup.step()
        steps.step()
        lines.append({name: loss.item() for name, loss in losses.items()})
    return lines


def main():
    reference, single = train(torch.float64), train(torch.float32)
    error = max(abs(a[name] - b[name]) / abs(a[name]) for a, b in zip(reference, single) for name in a)
    print(f"float32 differs by {error:.1e} at most; total {sum(reference[0].values()):.4f} to {sum(reference[-1].values()):.4f}")
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text(json.dumps({"losses": reference, "float32_error": error}, indent=0) + "\n")


if __name__ == "__main__":
    main()
