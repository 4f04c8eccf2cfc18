"""The same fine-tuning of a narrow Faster R-CNN by torchvision and by Passer: AP after the last step, several seeds.

    python scripts/parity/detection_curve.py VOC_FOLDER PASSER OUT [--steps 500] [--seeds 0 1 2]

VOC_FOLDER has JPEGImages, Annotations and ImageSets/Main/{train,test}.txt of one class, `raccoon`. For each seed both sides start
from the same initial weights, drawn here, with the same sizes, flips, schedule and optimizer; orders and draws are each side's own.
Needs torch, torchvision, pillow, pycocotools. torchvision's results are scored by pycocotools, Passer's by Passer.
"""

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from torchvision.models import resnet
from torchvision.models.detection import anchor_utils, faster_rcnn, rpn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import MultiScaleRoIAlign

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rcnn import NarrowResNet  # noqa: E402

BATCH, LR, MOMENTUM, DECAY, WARMUP = 4, 0.01, 0.9, 1e-4, 50
WIDTH, CHANNELS, HEAD = 16, 64, 128
SHORTER = (160, 176, 192, 208, 224)
LONGEST = 373
SETS = [
    f"detection.network.backbone.width={WIDTH}",
    f"detection.network.neck.pyramid.channels={CHANNELS}",
    f"detection.network.boxes.width={HEAD}",
    f"detection.views.shorter_px={list(SHORTER)}",
    f"detection.network.input.short_side_px={SHORTER[-1]}",
    f"detection.network.input.long_side_px={LONGEST}",
]


def network():
    body = NarrowResNet(resnet.BasicBlock, [2, 2, 2, 2], WIDTH, nn.BatchNorm2d)
    layers = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(body, layers, [WIDTH, 2 * WIDTH, 4 * WIDTH, 8 * WIDTH], CHANNELS)
    sizes = tuple((size,) for size in (16, 32, 64, 128, 256))
    return faster_rcnn.FasterRCNN(
        backbone,
        min_size=SHORTER,
        max_size=LONGEST,
        rpn_anchor_generator=anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5),
        rpn_head=rpn.RPNHead(CHANNELS, 3),
        rpn_pre_nms_top_n_train=1000,
        rpn_post_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_test=250,
        box_batch_size_per_image=128,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=112),
        box_head=faster_rcnn.TwoMLPHead(CHANNELS * 49, HEAD),
        box_predictor=faster_rcnn.FastRCNNPredictor(HEAD, 2),
    )


def read(folder, split):
    records = []
    for key in (folder / f"ImageSets/Main/{split}.txt").read_text().split():
        image = np.asarray(Image.open(folder / f"JPEGImages/{key}.jpg").convert("RGB"))
        boxes = []
        for box in ElementTree.parse(folder / f"Annotations/{key}.xml").iter("bndbox"):
            x0, y0, x1, y1 = (float(box.find(name).text) for name in ("xmin", "ymin", "xmax", "ymax"))
            height, width = image.shape[:2]
            box = [max(x0 - 1, 0.0), max(y0 - 1, 0.0), min(x1, float(width)), min(y1, float(height))]
            if box[2] > box[0] and box[3] > box[1]:
                boxes.append(box)
        records.append((image, boxes))
    return records


def tensor(image):
    return torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255.0


def train(model, records, steps, seed):
    draws = np.random.default_rng(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.001, total_iters=WARMUP)
    milestones = torch.optim.lr_scheduler.MultiStepLR(optimizer, [steps * 4 // 5], 0.1)
    model.train()
    order, losses = [], []
    for _ in range(steps):
        if len(order) < BATCH:
            order = list(draws.permutation(len(records)))
        images, targets = [], []
        for index in [order.pop() for _ in range(BATCH)]:
            image, boxes = records[index]
            boxes = torch.tensor(boxes)
            if draws.random() < 0.5:
                image = image[:, ::-1]
                width = image.shape[1]
                boxes = torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
            images.append(tensor(image))
            targets.append({"boxes": boxes, "labels": torch.ones(len(boxes), dtype=torch.int64)})
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        warmup.step()
        milestones.step()
        losses.append(loss.item())
    return losses


def score(model, records):
    model.eval()
    truth, results = {"images": [], "annotations": [], "categories": [{"id": 1}]}, []
    for index, (image, boxes) in enumerate(records, 1):
        truth["images"].append({"id": index})
        for x0, y0, x1, y1 in boxes:
            box = [x0, y0, x1 - x0, y1 - y0]
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": index, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
        with torch.inference_mode():
            found = model([tensor(image)])[0]
        for (x0, y0, x1, y1), value in zip(found["boxes"].tolist(), found["scores"].tolist()):
            results.append({"image_id": index, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": value})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"box_ap": evaluation.stats[0], "box_ap50": evaluation.stats[1]}


def passer(program, folder, out, init, steps, seed):
    config = Path(__file__).resolve().parents[2] / "configs/evaluate/detection-small.toml"
    command = [program, "evaluate", "finetune", str(config), "--detector", str(init), "--device", "flex", "--out", str(out)]
    for split in ("train", "test"):
        description = out.parent / f"{split}.toml"
        description.write_text(f'kind = "voc"\npath = {json.dumps(str(folder))}\nlist = "{split}"\nclasses = ["raccoon"]\n')
        command += [f"--{split}", str(description)]
    sets = [*SETS, f"seed={seed}", f"training.steps={steps}", f"schedule.milestones.milestones_steps=[{steps * 4 // 5}]"]
    for value in [*sets, f"detection.evaluate_every_steps={steps}", f"training.checkpoint_every_steps={steps}"]:
        command += ["--set", value]
    subprocess.run(command, check=True, capture_output=True)
    results = json.loads((out / "result.json").read_text())
    return {one["metric"]: one["value"] for one in results if one["metric"] in ("box_ap", "box_ap50")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("program")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    a.out.mkdir(parents=True, exist_ok=True)
    records = {split: read(a.folder, split) for split in ("train", "test")}
    rows = {"torchvision": [], "passer": []}
    for seed in a.seeds:
        torch.manual_seed(seed)
        model = network()
        init = a.out / f"init-{seed}.pth"
        torch.save(model.state_dict(), init)
        rows["passer"].append(passer(a.program, a.folder.resolve(), a.out / f"passer-{seed}", init, a.steps, seed))
        print(json.dumps({"seed": seed, "passer": rows["passer"][-1]}), flush=True)
        train(model, records["train"], a.steps, seed)
        rows["torchvision"].append(score(model, records["test"]))
        print(json.dumps({"seed": seed, "torchvision": rows["torchvision"][-1]}), flush=True)
    for metric in ("box_ap", "box_ap50"):
        of = {side: [100 * row[metric] for row in all_] for side, all_ in rows.items()}
        line = {side: f"{statistics.mean(values):.1f} ({', '.join(f'{value:.1f}' for value in values)})" for side, values in of.items()}
        if len(a.seeds) > 1:
            error = sum(statistics.variance(values) / len(values) for values in of.values()) ** 0.5
            line["standard_error_of_the_difference"] = round(error, 1)
        print(json.dumps({"metric": metric, **line}), flush=True)


if __name__ == "__main__":
    main()
