"""torchvision's Faster and Mask R-CNN, whole, through `passer detect objects` and `passer weights convert`.

    python scripts/parity/detect_objects.py check PASSER PHOTOS.tar FOLDER   # four networks, ten photos
    python scripts/parity/detect_objects.py speed PASSER PHOTOS.tar FOLDER [--count 10]

Needs torch, torchvision, safetensors, pillow. The networks have random weights from a seed. Their norms get the statistics
of the photos, and their last layers are scaled until logits and deltas spread; so no weights have to be downloaded. The
first versions are saved as torchvision's released files are: frozen norms with the epsilon 0, and the older names.

`check`: boxes within 0.1 px, scores within 1e-3, masks as pixels, in the order of scores; a converted file loads with
`strict=True`. Every detection of torchvision (in float64) is looked for among ours. One whose partner is missing counts,
and is listed with torchvision's own float32 beside it, because float32 may decide a suppression or rank otherwise.
Both sides read the same PNG files. `speed`: processor seconds a photo on one thread, in turn (also set RAYON_NUM_THREADS=1),
which other work on the machine disturbs less than wall-clock time.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models import detection as models
from torchvision.ops.misc import FrozenBatchNorm2d

SHORTER, LONGER = 320, 400  # px, on both sides, because at torchvision's 800 and 1333 a photo takes ten seconds
NETWORKS = ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn_v2"]


def photos(tar, folder, count):
    """Photos of many sizes as PNG, the same pixels for both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    with tarfile.open(tar) as archive:
        members = [member for member in archive if member.name.lower().endswith((".jpg", ".jpeg"))]
        for member in members[:: max(1, len(members) // count)][:count]:
            image = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB")
            key = Path(member.name).stem
            image.save(folder / f"{key}.png")
            made[key] = np.asarray(image)
    return made


def tensor(image, dtype=torch.float32):
    return torch.from_numpy(image.copy()).permute(2, 0, 1).to(dtype) / 255.0


def older(name):
    """The names of torchvision's released files of the first versions."""
    name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
    for i in range(4):
        name = name.replace(f"_blocks.{i}.0.", f"_blocks.{i}.").replace(f"mask_head.{i}.0.", f"mask_head.mask_fcn{i + 1}.")
    return name


def frozen(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = FrozenBatchNorm2d(child.num_features, eps=0.0)
            norm.load_state_dict(child.state_dict(), strict=False)
            setattr(module, name, norm)
        else:
            frozen(child)


def network(kind, images, seed=0):
    torch.manual_seed(seed)
    model = getattr(models, kind)(weights=None, weights_backbone=None, num_classes=91)
    model.transform.min_size, model.transform.max_size = (SHORTER,), LONGER
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.6, 1.4)
        nn.init.uniform_(norm.bias, -0.3, 0.3)
    model.eval()
    # Statistics of these photos, layer by layer in one pass each.
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
        norm.train()
    threshold, model.roi_heads.score_thresh = model.roi_heads.score_thresh, 0.0  # so that the mask head sees regions
    with torch.no_grad():
        model(images[:1])
    model.eval()
    model.roi_heads.score_thresh = threshold
    heads = {model.rpn.head.cls_logits: 2.0, model.rpn.head.bbox_pred: 0.3}
    heads[model.roi_heads.box_predictor.cls_score] = 2.5
    heads[model.roi_heads.box_predictor.bbox_pred] = 1.0
    if "mask" in kind:
        heads[model.roi_heads.mask_predictor.mask_fcn_logits] = 3.0
    # From the first head to the last, because each changes what the next ones see.
    for head, wanted in heads.items():
        seen = []
        hook = head.register_forward_hook(lambda _m, _i, output: seen.append(output.flatten()))
        with torch.no_grad():
            model(images[:1])
            hook.remove()
            head.weight *= wanted / torch.cat(seen).std()
            head.bias.zero_()
    if not kind.endswith("_v2"):
        frozen(model.backbone.body)
    return model


def save(model, kind, path):
    state = {(name if kind.endswith("_v2") else older(name)): value for name, value in model.state_dict().items()}
    torch.save(state, path)


def kept(kind, images, path):
    """The network in the file of an earlier call, or a new one, which is saved there."""
    if not path.exists():
        model = network(kind, images)
        save(model, kind, path)
        return model
    model = getattr(models, kind)(weights=None, weights_backbone=None, num_classes=91)
    model.transform.min_size, model.transform.max_size = (SHORTER,), LONGER
    if not kind.endswith("_v2"):
        frozen(model.backbone.body)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def passer(program, *arguments):
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stderr


def pixels(segmentation):
    """COCO's compressed run lengths as [height, width]."""
    runs, text, at = [], segmentation["counts"].encode(), 0
    while at < len(text):
        value, shift = 0, 0
        while True:
            group = text[at] - 48
            value |= (group & 31) << shift
            at, shift = at + 1, shift + 5
            if not group & 32:
                break
        if group & 16:
            value -= 1 << shift
        if len(runs) > 2:
            value += runs[-2]
        runs.append(value)
    height, width = segmentation["size"]
    flat = np.repeat(np.arange(len(runs)) % 2, runs)
    return flat.reshape(width, height).T.astype(bool)


def pasted_at(box):
    """The whole pixels between which torchvision pastes a mask of 28 x 28: a box that differs by a hundredth of a pixel may
    differ by a pixel here."""
    left, top, right, bottom = np.asarray(box, np.float32)
    edges = []
    for low, high in ((left, right), (top, bottom)):
        half, center = (high - low) * np.float32(0.5) * np.float32(30 / 28), (high + low) * np.float32(0.5)
        edges += [int(center - half), int(center + half)]
    return edges


def found_by_torchvision(model, image, dtype):
    with torch.no_grad():
        (result,) = model([tensor(image, dtype)])
    masks = [mask[0] > 0.5 for mask in result.get("masks", [])]
    return [
        {"box": box, "class": label - 1, "score": score, "mask": masks[i].numpy() if masks else None}
        for i, (box, label, score) in enumerate(
            zip(result["boxes"].tolist(), result["labels"].tolist(), result["scores"].tolist())
        )
    ]


def partners(ours, theirs):
    """Of each of theirs the index of ours of its class with the nearest box, each once; None beyond a pixel."""
    free, pairs = set(range(len(ours))), []
    for one in theirs:
        apart = lambda i: max(abs(a - b) for a, b in zip(ours[i]["box"], one["box"]))
        candidates = [i for i in free if ours[i]["class"] == one["class"] and apart(i) < 1]
        best = min(candidates, key=apart, default=None)
        free.discard(best)
        pairs.append(best)
    return pairs


def check(arguments):
    folder = Path(arguments.folder)
    images = photos(arguments.photos, folder / "photos", 10)
    failed = False
    for kind in arguments.networks or NETWORKS:
        path = folder / f"{kind}.pth"
        model = kept(kind, [tensor(image) for image in images.values()], path)
        lines = folder / f"{kind}.jsonl"
        passer(arguments.passer, "detect", "objects", "--device", "flex", "--weights", path, "--data", folder / "photos",
               "--out", lines, "--candidate-score", 0.05, "--shorter-px", SHORTER, "--longer-px", LONGER, "--sheet", folder / f"{kind}.png")
        ours = {line["key"]: line["detections"] for line in map(json.loads, lines.read_text().splitlines())}
        narrow = {key: found_by_torchvision(model, image, torch.float32) for key, image in images.items()}
        if not arguments.float32:
            model.double()
        count, box, score, mask, moved, lost, lost_by_float32, extra = 0, 0.0, 0.0, 0.0, 0, 0, 0, 0
        for key, image in images.items():
            theirs = narrow[key] if arguments.float32 else found_by_torchvision(model, image, torch.float64)
            pairs = partners(ours[key], theirs)
            lost_by_float32 += partners(narrow[key], theirs).count(None)
            extra += len(ours[key]) - sum(pair is not None for pair in pairs)
            for pair, one in zip(pairs, theirs):
                if pair is None:
                    lost += 1
                    continue
                own = ours[key][pair]
                count += 1
                box = max(box, *(abs(a - b) for a, b in zip(own["box"], one["box"])))
                score = max(score, abs(own["score"] - one["score"]))
                if one["mask"] is not None and pasted_at(own["box"]) != pasted_at(one["box"]):
                    moved += 1
                elif one["mask"] is not None:
                    mask = max(mask, float((pixels(own["segmentation"]) != one["mask"]).sum()) / max(1, one["mask"].sum()))
        spread = [one["score"] for found in ours.values() for one in found]
        print(f"{kind}: {count} detections of {len(images)} photos, scores {min(spread):.3f} to {max(spread):.3f}; boxes within "
              f"{box:.4f} px, scores within {score:.1e}, masks differ in at most {100 * mask:.2f} % of their pixels, but for {moved} that start or end a pixel away; without "
              f"partner {lost} of torchvision's and {extra} of ours; torchvision's own float32 lacks {lost_by_float32}")
        failed |= box > 0.1 or score > 1e-3 or lost > max(2, 2 * lost_by_float32) or mask > 0.02
        model.float()
        print(f"{kind}: the reference is torchvision in {'float32' if arguments.float32 else 'float64'}")
        out = folder / f"{kind}.safetensors"
        out.unlink(missing_ok=True)
        passer(arguments.passer, "weights", "convert", path, out, "--to", "torchvision")
        from safetensors.torch import load_file

        again = getattr(models, kind)(weights=None, weights_backbone=None, num_classes=91)
        if not kind.endswith("_v2"):
            frozen(again.backbone.body)
        again.load_state_dict(load_file(out), strict=True)
        same = all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items()
                   if not name.endswith("num_batches_tracked"))
        print(f"{kind}: the converted file loads with strict=True; its tensors are {'the same' if same else 'OTHERS'}")
        failed |= not same
    sys.exit(failed)


def speed(arguments):
    torch.set_num_threads(1)
    folder = Path(arguments.folder)
    images = photos(arguments.photos, folder / "speed", arguments.count)
    key, image = next(iter(images.items()))
    (folder / "one").mkdir(exist_ok=True)
    Image.fromarray(image).save(folder / "one" / f"{key}.png")
    tensors = [tensor(image) for image in images.values()]

    def ours(data, path):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        passer(arguments.passer, "detect", "objects", "--device", "flex", "--weights", path, "--data", data, "--out",
               folder / "speed.jsonl", "--candidate-score", 0.05, "--shorter-px", SHORTER, "--longer-px", LONGER)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    for kind in arguments.networks or ["maskrcnn_resnet50_fpn"]:
        path = folder / f"{kind}.pth"
        model = kept(kind, tensors, path)
        for _ in range(2):
            said = []
            for layout in (torch.contiguous_format, torch.channels_last):
                model.to(memory_format=layout)
                with torch.inference_mode():
                    model(tensors[:1])
                    started = time.process_time()
                    for one in tensors:
                        model([one])
                    said.append(f"torchvision, {layout}: {(time.process_time() - started) / len(tensors):.2f} s")
            # Without the start of the program, which reads the weights.
            seconds = (ours(folder / "speed", path) - ours(folder / "one", path)) / (len(tensors) - 1)
            print(f"{kind}, processor seconds a photo: {'; '.join(said)}; Passer: {seconds:.2f} s; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["check", "speed"])
    parser.add_argument("passer")
    parser.add_argument("photos")
    parser.add_argument("folder")
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--float32", action="store_true", help="compare with torchvision's float32 alone, which is faster")
    parser.add_argument("--count", type=int, default=10)
    arguments = parser.parse_args()
    {"check": check, "speed": speed}[arguments.what](arguments)
