"""Fixture of crates/detection: Cascade Mask R-CNN with detectron2's numbers on a narrow ResNet-50 whose bottlenecks stride in
their first 1x1 convolution.

    python scripts/parity/cascade.py          # writes crates/detection/fixtures/rcnn_cascade.json, and a file as detectron2 writes it,
                                              # detectron2_cascade.pkl, with the detections of its network
    python scripts/parity/cascade.py search   # the first seeds of images whose decisions are far apart

Needs torch, torchvision, Pillow. torchvision has no cascade, and detectron2 is not imported: anchors, proposals, matching, the
three stages, their losses and the scores are written here from Cai & Vasconcelos, *Cascade R-CNN*, 2018, and from detectron2's
documented numbers; convolutions, `nms` and `roi_align` are PyTorch's and torchvision's. Everything is computed in float64, from
inputs and weights by the formula of rcnn.py; only outputs are stored.
"""

import math
import pickle
import re
import sys

import numpy as np
import rcnn
import torch
from PIL import Image
from rcnn import CHANNELS, CLASSES, SIZES, WIDTH, apart, relative, significant, stored
from torch import nn
from torch.nn import functional as F
from torchvision import ops
from torchvision.models import resnet
from torchvision.models.detection import faster_rcnn, mask_rcnn, rpn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

SEED = 0  # of the images, from `search`
STRIDES = [4, 8, 16, 32, 64]
SIDES = [32.0, 64.0, 128.0, 256.0, 512.0]
IOUS = [0.5, 0.6, 0.7]
WEIGHTS = [(10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)]
RPN_SAMPLES, SAMPLES = 64, 48
BEFORE, AFTER = {True: 40, False: 30}, {True: 80, False: 40}
GROWTH = math.log(1000 / 16)


class Stage(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.box_head = faster_rcnn.TwoMLPHead(channels * 49, width)
        self.box_predictor = nn.Module()
        self.box_predictor.cls_score = nn.Linear(width, CLASSES + 1)
        self.box_predictor.bbox_pred = nn.Linear(width, 4)

    def forward(self, x):
        x = self.box_head(x)
        return self.box_predictor.cls_score(x), self.box_predictor.bbox_pred(x)


class Cascade(nn.Module):
    """Names as Passer's: the first stage is the box head, the others lie in `cascade`."""

    def __init__(self, base=8, channels=CHANNELS, width=WIDTH):
        super().__init__()
        body = rcnn.NarrowResNet(resnet.Bottleneck, [3, 4, 6, 3], base, ops.FrozenBatchNorm2d)
        for part in body.modules():
            if isinstance(part, resnet.Bottleneck):
                part.conv1.stride, part.conv2.stride = part.conv2.stride, part.conv1.stride
        for name, parameter in body.named_parameters():
            if name.startswith(("conv1", "bn1", "layer1")):
                parameter.requires_grad_(False)
        inputs = [base * 4 * times for times in (1, 2, 4, 8)]
        self.backbone = BackboneWithFPN(body, {f"layer{i + 1}": str(i) for i in range(4)}, inputs, channels)
        self.rpn = nn.Module()
        self.rpn.head = rpn.RPNHead(channels, 3)
        self.roi_heads = Stage(channels, width)
        self.roi_heads.cascade = nn.ModuleList([Stage(channels, width), Stage(channels, width)])
        self.roi_heads.mask_head = mask_rcnn.MaskRCNNHeads(channels, [channels] * 4, 1)
        self.roi_heads.mask_predictor = mask_rcnn.MaskRCNNPredictor(channels, channels, CLASSES)
        with torch.no_grad():
            for name, held in self.state_dict().items():
                held.copy_(rcnn.value(name, tuple(held.shape), "bn3.weight"))

    def stages(self):
        return [self.roi_heads, *self.roi_heads.cascade]


class ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, x, factor):
        context.factor = factor
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * context.factor, None


def centred(boxes):
    sides = boxes[:, 2:] - boxes[:, :2]
    return boxes[:, :2] + 0.5 * sides, sides


def encode(boxes, truth, weights):
    (centre, sides), (true_centre, true_sides) = centred(boxes), centred(truth)
    return torch.cat([(true_centre - centre) / sides, (true_sides / sides).log()], 1) * boxes.new_tensor(weights)


def decode(boxes, deltas, weights):
    centre, sides = centred(boxes)
    deltas = deltas / deltas.new_tensor(weights)
    centre, sides = deltas[:, :2] * sides + centre, deltas[:, 2:].clamp(max=GROWTH).exp() * sides
    return torch.cat([centre - 0.5 * sides, centre + 0.5 * sides], 1)


def clip(boxes, size):
    high, wide = size
    return torch.stack([boxes[:, 0].clamp(0, wide), boxes[:, 1].clamp(0, high), boxes[:, 2].clamp(0, wide), boxes[:, 3].clamp(0, high)], 1)


def anchors(maps, dtype):
    levels = []
    for x, stride, side in zip(maps, STRIDES, SIDES):
        cell = []
        for ratio in (0.5, 1.0, 2.0):  # height / width
            wide, high = side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2
            cell.append([-wide, -high, wide, high])
        y, x = torch.meshgrid(torch.arange(x.shape[2]) * stride, torch.arange(x.shape[3]) * stride, indexing="ij")
        shifts = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4).to(dtype)
        levels.append((shifts + torch.tensor(cell, dtype=dtype)).reshape(-1, 4))
    return levels


def by_position(x, values):
    images, channels, height, width = x.shape
    return x.view(images, channels // values, values, height, width).permute(0, 3, 4, 1, 2).reshape(images, -1, values)


def match(truth, boxes, low, high, low_quality=False):
    """The true box of each box, -1 background, -2 neither."""
    overlap = ops.box_iou(truth, boxes)
    best, index = overlap.max(0)
    for threshold in {low, high}:
        apart("overlaps at a threshold of a matcher", best - threshold, 1e-6)
    found = index.clone()
    found[best < high] = -2
    found[best < low] = -1
    if low_quality:
        again = (overlap == overlap.max(1, keepdim=True).values).any(0)
        found[again] = index[again]
    return found


def sample(matched, per_image, fraction):
    positive, negative = torch.where(matched >= 0)[0], torch.where(matched == -1)[0]
    count = min(int(per_image * fraction), len(positive))
    rest = min(per_image - count, len(negative))
    pick = lambda of, n: of[torch.arange(n) * len(of) // max(n, 1)]
    return torch.cat([pick(positive, count), pick(negative, rest)]).sort().values


def suppressed(boxes, scores, threshold):
    kept = ops.nms(boxes, scores, threshold)
    overlap = ops.box_iou(boxes, boxes)
    apart("overlaps at the threshold of NMS", overlap - threshold, 1e-6)
    rivals = torch.triu(overlap > threshold, 1)
    if rivals.any():
        apart("scores of overlapping boxes", (scores[:, None] - scores)[rivals], 5e-7)
    return kept


def propose(logits, deltas, levels, size, training):
    boxes, scores = [], []
    for level_logits, level_deltas, level in zip(logits, deltas, levels):
        order = level_logits.argsort(descending=True, stable=True)
        if len(order) > BEFORE[training]:
            apart("logits at the cut of a level", level_logits[order[BEFORE[training] - 1]] - level_logits[order[BEFORE[training]]], 1e-7)
        order = order[: BEFORE[training]]
        decoded = clip(decode(level[order], level_deltas[order], (1.0,) * 4), size)
        nonempty = ((decoded[:, 2] - decoded[:, 0]) > 0) & ((decoded[:, 3] - decoded[:, 1]) > 0)
        decoded, own = decoded[nonempty], level_logits[order][nonempty]
        kept = suppressed(decoded, own, 0.7)
        boxes.append(decoded[kept])
        scores.append(own[kept])
    boxes, scores = torch.cat(boxes), torch.cat(scores)
    order = scores.argsort(descending=True, stable=True)[: AFTER[training] + 1]
    apart("kept scores", scores[order][:-1] - scores[order][1:], 1e-6)
    return boxes[order[: AFTER[training]]]


def pool(maps, boxes, output):
    """Regions of all images, in their order."""
    rois = torch.cat([F.pad(of_image, (1, 0), value=float(image)) for image, of_image in enumerate(boxes)])
    size = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    exact = 4 + torch.log2(size / 224 + 1e-8)
    apart("levels", (exact - exact.round())[exact > 1.9], 1e-6)
    levels = exact.floor().clamp(2, 5) - 2
    result = rois.new_zeros(len(rois), maps[0].shape[1], output, output)
    for level in range(4):
        own = torch.where(levels == level)[0]
        if len(own):
            grid = (rois[own, 3:] - rois[own, 1:3]) / STRIDES[level] / output
            off = (grid - grid.round())[grid != grid.round()]
            apart("grids of samples", off, 2e-6)
            result = result.index_copy(0, own, ops.roi_align(maps[level], rois[own], output, 1 / STRIDES[level], 0, True))
    return result


def smooth(difference):
    return difference.abs().sum()


def train(dtype):
    model = Cascade().to(dtype).train()
    images, targets = inputs(dtype)
    maps = list(model.backbone(images.tensors).values())
    logits, deltas = model.rpn.head(maps)
    logits = [by_position(x, 1)[..., 0] for x in logits]
    deltas = [by_position(x, 4) for x in deltas]
    levels = anchors(maps, dtype)
    every, losses = torch.cat(levels), {"loss_objectness": 0, "loss_rpn_box_reg": 0}
    regions = []
    for image, target in enumerate(targets):
        matched = match(target["boxes"], every, 0.3, 0.7, True)
        chosen = sample(matched, RPN_SAMPLES, 0.5)
        own_logits = torch.cat([x[image] for x in logits])[chosen]
        labels = (matched[chosen] >= 0).to(dtype)
        losses["loss_objectness"] += F.binary_cross_entropy_with_logits(own_logits, labels, reduction="sum")
        positive = chosen[matched[chosen] >= 0]
        wanted = encode(every[positive], target["boxes"][matched[positive]], (1.0,) * 4)
        losses["loss_rpn_box_reg"] += smooth(torch.cat([x[image] for x in deltas])[positive] - wanted)
        proposed = propose([x[image].detach() for x in logits], [x[image].detach() for x in deltas], levels, SIZES[image], True)
        candidates = torch.cat([proposed, target["boxes"]])
        matched = match(target["boxes"], candidates, 0.5, 0.5)
        chosen = sample(matched, SAMPLES, 0.25)
        regions.append((candidates[chosen], matched[chosen]))
    counts = [AFTER[True] for _ in targets]
    for name in losses:
        losses[name] = losses[name] / (RPN_SAMPLES * len(targets))
    first, moves, foreground = regions, [], []
    for number, (stage, weights) in enumerate(zip(model.stages(), WEIGHTS)):
        if number > 0:
            moved = []
            for image, boxes in enumerate(next_boxes):
                boxes = clip(boxes.detach(), SIZES[image])
                boxes = boxes[((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))]
                moved.append((boxes, match(targets[image]["boxes"], boxes, IOUS[number], IOUS[number])))
            regions = moved
        boxes = [of_image for of_image, _ in regions]
        features = ScaledGradient.apply(pool(maps, boxes, 7), 1 / 3)
        scores, predicted = stage(features)
        classes, wanted, positive = [], [], []
        for (of_image, matched), target in zip(regions, targets):
            classes.append(torch.where(matched >= 0, target["labels"][matched.clamp(min=0)] - 1, CLASSES))  # background last
            wanted.append(encode(of_image[matched >= 0], target["boxes"][matched[matched >= 0]], weights))
            positive.append(matched >= 0)
        positive = torch.cat(positive)
        end = f"_stage{number + 1}" if number else ""
        losses["loss_classifier" + end] = F.cross_entropy(scores, torch.cat(classes))
        losses["loss_box_reg" + end] = smooth(predicted[positive] - torch.cat(wanted)) / len(positive)
        foreground.append(int(positive.sum()))
        next_boxes = decode(torch.cat(boxes), predicted, weights).split([len(of_image) for of_image in boxes])
        moves.append(float((torch.cat(next_boxes) - torch.cat(boxes)).detach().abs().mean()))
    boxes = [of_image[matched >= 0] for of_image, matched in first]
    masks = model.roi_heads.mask_predictor(model.roi_heads.mask_head(pool(maps, boxes, 14)))
    wanted, classes = [], []
    for (of_image, matched), target in zip(first, targets):
        own = matched[matched >= 0]
        rois = torch.cat([torch.arange(len(own), dtype=dtype)[:, None], of_image[matched >= 0]], 1)
        cut = ops.roi_align(target["masks"][own][:, None].to(dtype), rois, 28, 1.0, 0, True)[:, 0]
        apart("pixels of masks at one half", (cut - 0.5)[cut != 0.5], 1e-6)
        wanted.append((cut >= 0.5).to(dtype))
        classes.append(target["labels"][own] - 1)
    classes = torch.cat(classes)
    losses["loss_mask"] = F.binary_cross_entropy_with_logits(masks[torch.arange(len(classes)), classes], torch.cat(wanted))
    sum(losses.values()).backward()
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients, counts, (moves, foreground)


def evaluate(dtype):
    return detect(Cascade().to(dtype).eval(), inputs(dtype)[0].tensors, SIZES)


@torch.no_grad()
def detect(model, images, sizes):
    dtype = images.dtype
    maps = list(model.backbone(images).values())
    logits, deltas = model.rpn.head(maps)
    logits = [by_position(x, 1)[..., 0] for x in logits]
    deltas = [by_position(x, 4) for x in deltas]
    levels = anchors(maps, dtype)
    proposals = [propose([x[i] for x in logits], [x[i] for x in deltas], levels, size, False) for i, size in enumerate(sizes)]
    boxes, scores = proposals, 0
    for number, (stage, weights) in enumerate(zip(model.stages(), WEIGHTS)):
        if number > 0:
            boxes = [clip(of_image, size) for of_image, size in zip(boxes, sizes)]
        outputs, moved = stage(pool(maps, boxes, 7))
        scores = scores + outputs.softmax(1) / 3
        boxes = decode(torch.cat(boxes), moved, weights).split([len(of_image) for of_image in boxes])
    found = []
    for of_image, own, size in zip(boxes, scores.split([len(of_image) for of_image in boxes]), sizes):
        of_image = clip(of_image, size)
        all_boxes, all_scores, all_classes = [], [], []
        for label in range(CLASSES):
            apart("scores at the threshold", own[:, label] - 0.05, 1e-6)
            above = own[:, label] > 0.05
            kept = suppressed(of_image[above], own[above, label], 0.5)
            all_boxes.append(of_image[above][kept])
            all_scores.append(own[above, label][kept])
            all_classes.append(torch.full((len(kept),), label))
        all_boxes, all_scores, all_classes = torch.cat(all_boxes), torch.cat(all_scores), torch.cat(all_classes)
        order = all_scores.argsort(descending=True, stable=True)[:101]
        apart("kept scores", all_scores[order][:-1] - all_scores[order][1:], 1e-6)
        order = order[:100]
        found.append({"boxes": all_boxes[order], "scores": all_scores[order], "labels": all_classes[order]})
    masks = model.roi_heads.mask_predictor(model.roi_heads.mask_head(pool(maps, [f["boxes"] for f in found], 14)))
    labels = torch.cat([f["labels"] for f in found])
    masks = masks[torch.arange(len(labels)), labels].sigmoid().split([len(f["labels"]) for f in found])
    for of_image, own in zip(found, masks):
        of_image["masks"] = own
    return proposals, found


def inputs(dtype):
    rcnn.SEEDS["cascade"] = SEED
    return rcnn.image_inputs("cascade", dtype)


def search():
    global SEED
    for SEED in range(100):
        rcnn.GAPS.clear()
        try:
            _, gradients, _, _ = train(torch.float64)
            evaluate(torch.float64)
            _, single, _, _ = train(torch.float32)
        except AssertionError as close:
            print(SEED, close, flush=True)
            continue
        worst = max(relative(single[name], gradient) for name, gradient in gradients.items())
        print(SEED, f"float32's worst gradient {worst:.1e}", rcnn.GAPS, flush=True)
        if worst < 1e-4:
            return


def theirs(name):
    """detectron2's name of a parameter of `Cascade`."""
    name = name.replace("backbone.body.conv1.", "backbone.bottom_up.stem.conv1.").replace("backbone.body.bn1.", "backbone.bottom_up.stem.conv1.norm.")
    name = re.sub(r"backbone\.body\.layer(\d)", lambda found: f"backbone.bottom_up.res{int(found[1]) + 1}", name)
    name = re.sub(r"(res\d\.\d+)\.bn(\d)\.", r"\1.conv\2.norm.", name)
    name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    for ours, blocks in (("inner_blocks", "fpn_lateral"), ("layer_blocks", "fpn_output")):
        name = re.sub(rf"fpn\.{ours}\.(\d)\.0\.", lambda found: f"{blocks}{int(found[1]) + 2}.", name)
    name = name.replace("rpn.head.conv.0.0.", "proposal_generator.rpn_head.conv.")
    name = name.replace("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits")
    name = name.replace("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas")
    name = re.sub(r"roi_heads\.(box_\w+)\.", r"roi_heads.\1.0.", name)
    name = re.sub(r"roi_heads\.cascade\.(\d)\.(box_\w+)\.", lambda found: f"roi_heads.{found[2]}.{int(found[1]) + 1}.", name)
    name = name.replace(".fc6.", ".fc1.").replace(".fc7.", ".fc2.")
    name = re.sub(r"mask_head\.(\d)\.0\.", lambda found: f"mask_head.mask_fcn{int(found[1]) + 1}.", name)
    return name.replace("mask_predictor.conv5_mask", "mask_head.deconv").replace("mask_predictor.mask_fcn_logits", "mask_head.predictor")


def pickled():
    """A network whose first stage has one channel, as detectron2's model zoo has it, and what it finds in a photo by formula: Pillow resizes it, its
    channels are blue, green, red, less their means."""
    model = Cascade(1, 6, 8).double().eval()
    with torch.no_grad():
        model.backbone.body.conv1.weight /= 64  # of pixels that no deviation divides
    weights = {theirs(name): held.numpy().astype(np.float32) for name, held in model.state_dict().items()}
    assert len(weights) == len(model.state_dict())
    mean = np.array([103.53, 116.28, 123.675], np.float32)
    weights["pixel_mean"], weights["pixel_std"] = mean.reshape(3, 1, 1), np.ones((3, 1, 1), np.float32)
    for level, side in enumerate(SIDES):
        cell = [[-side / math.sqrt(r) / 2, -side * math.sqrt(r) / 2, side / math.sqrt(r) / 2, side * math.sqrt(r) / 2] for r in (0.5, 1.0, 2.0)]
        weights[f"proposal_generator.anchor_generator.cell_anchors.{level}"] = np.array(cell, np.float32)
    path = rcnn.FIXTURES / "detectron2_cascade.pkl"
    path.write_bytes(pickle.dumps({"model": weights, "__author__": "scripts/parity/cascade.py"}, protocol=4))
    print(path.name, path.stat().st_size, "bytes")
    photo = np.floor(128 + 127 * rcnn.u("photo.0", [48 * 64 * 3])).astype(np.uint8).reshape(48, 64, 3)
    resized = np.asarray(Image.fromarray(photo).resize((128, 96), Image.Resampling.BILINEAR))
    image = resized[:, :, ::-1].astype(np.float64) - mean.astype(np.float64)
    image = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    _, [found] = detect(model, image, [[96, 128]])
    print("gaps", {what: f"{gap:.1e}" for what, gap in rcnn.GAPS.items()})
    print("found", len(found["scores"]), found["labels"].bincount().tolist(), significant(found["scores"][:5]))
    boxes = clip(found["boxes"] / 2, [48, 64])
    rcnn.write("detectron2_cascade.json", {
        "made_by": "scripts/parity/cascade.py",
        "tolerance": "1e-4",
        "detections": [[int(label), significant(score.item()), *significant(box)] for label, score, box in zip(found["labels"], found["scores"], boxes)],
        "masks": [stored(mask) for mask in found["masks"]],
    })  # fmt: skip


def main():
    losses, gradients, counts, (moves, foreground) = train(torch.float64)
    proposals, found = evaluate(torch.float64)
    print("gaps", {what: f"{gap:.1e}" for what, gap in rcnn.GAPS.items()})
    single, of_single, _, _ = train(torch.float32)
    errors = {name: relative(of_single[name], gradient) for name, gradient in gradients.items()}
    worst = max(errors, key=errors.get)
    print("losses", losses, "detections", [len(f["scores"]) for f in found])
    print("boxes move by px", moves, "foreground", foreground, "labels", [f["labels"].bincount().tolist() for f in found])
    print("float32: losses", max(abs(single[k] - v) / v for k, v in losses.items()), "gradients", errors[worst], worst)
    content = rcnn.of_network("cascade.py", losses, counts, gradients, errors, proposals, found)
    rcnn.write("rcnn_cascade.json", content)
    rcnn.GAPS.clear()
    pickled()


if __name__ == "__main__":
    torch.set_num_threads(1)
    search() if sys.argv[1:] == ["search"] else main()
