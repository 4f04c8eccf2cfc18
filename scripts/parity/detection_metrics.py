"""COCO's and VOC's average precision by pycocotools and a plain re-implementation: the reference of crates/detection/src/metrics.

    python scripts/parity/detection_metrics.py crates/detection/fixtures/metrics.json.gz [RUNS]
    python scripts/parity/detection_metrics.py speed FOLDER
    python scripts/parity/detection_metrics.py coverage

The fixture holds random sets of truth and results with pycocotools' numbers for them; RUNS (1) makes each kind of set so
many times, for a longer comparison than the committed one. `speed` writes a set of the size of COCO's validation split to
FOLDER and prints pycocotools' times; crates/detection/examples/metrics_speed.rs reads it. `coverage` draws data sets from known
distributions and prints how often three intervals of resampled images hold the mean AP of such data sets, 0.95 being nominal.

Each kind of set aims at some rules:
- `crowds`: boxes on eighths of a pixel, crowds, scores of one decimal (ties within and between images), areas of exactly
  32 x 32 and 96 x 96, classes without truth, without results and without both, images without either, numbers of images
  that have gaps and are not in order;
- `grid`: boxes with corners on a grid of 4 x 4, so that overlaps are often equal, and often exactly a threshold;
- `many`: up to 250 results of a class in an image;
- `masks`: polygons and run lengths as truth, run lengths as results, crowds.

Numbers of boxes are exact in f32. Besides numpy and pycocotools this needs nothing.
"""

import contextlib
import gzip
import io
import json
import sys
import time

import numpy as np
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

THRESHOLDS = range(50, 100, 5)


def category(classes, number):
    """Numbers of categories have gaps, as COCO's."""
    return number * 3 + 5


def shaken(rng, edges, width, height, far):
    """A box near another one, on eighths of a pixel."""
    left, top, right, bottom = (edge + rng.integers(-far, far + 1) / 8 for edge in edges)
    left, right = sorted((float(np.clip(left, 0, width)), float(np.clip(right, 0, width))))
    top, bottom = sorted((float(np.clip(top, 0, height)), float(np.clip(bottom, 0, height))))
    return [left, top, right, bottom]


def crowds(rng):
    classes = 6
    images, truth, results = [], [], []
    for number in rng.permutation(18):
        images.append([int(number) * 7 + 3, 320, 240])
    for image_id, width, height in images:
        # Class 4 has results alone, 5 neither, 3 truth alone; some images lack truth, others results.
        mine = []
        for _ in range(0 if image_id % 6 == 3 else rng.integers(2, 14)):
            name = int(rng.integers(0, 4))
            if mine and rng.random() < 0.5:
                # Crowded: of the class of another object, and over it.
                name, before = mine[rng.integers(len(mine))]
                edges = shaken(rng, before, width, height, 40)
            else:
                side = [(32, 32), (96, 96), None, None, None][rng.integers(5)]
                if side is None:
                    side = rng.integers(4, 1000, 2) / 8
                left, top = rng.integers(0, 8 * 180) / 8, rng.integers(0, 8 * 100) / 8
                edges = [left, top, min(left + side[0], width), min(top + side[1], height)]
                edges = [float(edge) for edge in edges]
            area = (edges[2] - edges[0]) * (edges[3] - edges[1])
            if area == 0:
                continue
            # The stated area decides the size, not the box.
            area = float(rng.choice([area, area, 1024, 1023.5, 9216, 9216.5]))
            crowd = bool(rng.random() < 0.15)
            mine.append((name, edges))
            truth.append([image_id, name, *edges, area, crowd, bool(rng.random() < 0.15), None])
            if name == 3 or image_id % 6 == 1:
                continue
            for _ in range(rng.integers(0, 4 if not crowd else 7)):
                far = int(rng.choice([0, 8, 40, 160]))
                found = shaken(rng, edges, width, height, far)
                other = name if rng.random() < 0.9 else int(rng.choice([0, 1, 2, 4]))
                results.append([image_id, other, round(float(rng.random()), 1), *found, None])
        if image_id % 6 != 1 and rng.random() < 0.5:
            found = shaken(rng, [0, 0, width, height], width, height, 1500)
            results.append([image_id, int(rng.choice([0, 1, 2, 4])), round(float(rng.random()), 1), *found, None])
    order = rng.permutation(len(results))
    return classes, images, truth, [results[at] for at in order]


def grid(rng):
    classes = 2
    images = [[number + 1, 64, 64] for number in range(25)]
    truth, results = [], []

    def box():
        left, right = sorted(rng.choice(5, 2, replace=False))
        top, bottom = sorted(rng.choice(5, 2, replace=False))
        return [float(edge) * 8 for edge in (left, top, right, bottom)]

    for image_id, _, _ in images:
        for _ in range(rng.integers(2, 11)):
            edges = box()
            area = (edges[2] - edges[0]) * (edges[3] - edges[1])
            crowd, difficult = bool(rng.random() < 0.1), bool(rng.random() < 0.2)
            truth.append([image_id, int(rng.integers(classes)), *edges, area, crowd, difficult, None])
        for _ in range(rng.integers(2, 12)):
            name, edges = int(rng.integers(classes)), box()
            if rng.random() < 0.6:
                # Near an object: at most one edge moved by a step.
                near = [line for line in truth if line[0] == image_id]
                _, name, *edges = near[rng.integers(len(near))][:6]
                side = rng.integers(8)
                if side < 4:
                    edges[side] += (-8.0, -8.0, 8.0, 8.0)[side]
            results.append([image_id, name, round(float(rng.random()), 2), *edges, None])
    return classes, images, truth, results


def many(rng):
    classes = 2
    images = [[1, 640, 480], [2, 640, 480]]
    truth, results = [], []
    for image_id, width, height in images:
        for _ in range(12):
            left, top = rng.integers(0, 4800) / 8, rng.integers(0, 3600) / 8
            side = rng.integers(80, 800, 2) / 8
            edges = [float(left), float(top), float(min(left + side[0], width)), float(min(top + side[1], height))]
            area = (edges[2] - edges[0]) * (edges[3] - edges[1])
            truth.append([image_id, 0, *edges, area, bool(rng.random() < 0.1), False, None])
        boxes = [line[2:6] for line in truth if line[0] == image_id]
        for _ in range(250 if image_id == 1 else 101):
            far = int(rng.choice([8, 40, 100, 300]))
            edges = shaken(rng, boxes[rng.integers(len(boxes))], width, height, far)
            score = float(np.float32(rng.random()))
            results.append([image_id, int(rng.random() < 0.03), score, *edges, None])
    return classes, images, truth, results


def star(rng, width, height, center, size):
    corners = rng.integers(3, 9)
    angles = np.sort(rng.random(corners)) * 2 * np.pi
    far = size * (0.5 + 0.5 * rng.random(corners))
    xy = np.stack([center[0] + far * np.cos(angles), center[1] + far * np.sin(angles)], 1)
    return [float(number) for number in np.round(xy, 2).reshape(-1)]


def counts(rle):
    return rle["counts"].decode()


def box_of(rle):
    left, top, width, height = (float(side) for side in masks.toBbox(rle))
    return [left, top, left + width, top + height]


def masks_set(rng):
    classes = 3
    images = [[number + 1, 64 + 8 * number, 72] for number in range(12)]
    truth, results = [], []
    for image_id, width, height in images:
        for _ in range(rng.integers(0, 6)):
            name, size = int(rng.integers(0, classes)), rng.integers(3, 40)
            center = rng.integers(0, width), rng.integers(0, height)
            polygons = [star(rng, width, height, center, size)]
            if rng.random() < 0.3:
                polygons.append(star(rng, width, height, (center[0] + 8, center[1]), size))
            rle = masks.merge(masks.frPyObjects(polygons, height, width))
            if masks.area(rle) == 0:
                continue
            crowd = bool(rng.random() < 0.2)
            kept = counts(rle) if crowd or rng.random() < 0.2 else polygons
            area = float(masks.area(rle)) * float(rng.choice([1, 1, 3.5]))
            truth.append([image_id, name, *box_of(rle), area, crowd, False, kept])
            pixels = masks.decode(rle)
            for _ in range(rng.integers(0, 4)):
                moved = np.roll(pixels, (int(rng.integers(-2, 3)), int(rng.integers(-2, 3))), (0, 1))
                if rng.random() < 0.3:
                    moved = moved * (rng.random(moved.shape) < 0.8)
                found = masks.encode(np.asfortranarray(moved.astype(np.uint8)))
                score = round(float(rng.random()), 1)
                results.append([image_id, name, score, *box_of(found), counts(found)])
        if rng.random() < 0.2:
            empty = masks.encode(np.asfortranarray(np.zeros((height, width), np.uint8)))
            results.append([image_id, 0, 0.5, 0.0, 0.0, 0.0, 0.0, counts(empty)])
    return classes, images, truth, results


def dataset(classes, images, truth):
    sizes = {image_id: (height, width) for image_id, width, height in images}
    annotations = []
    for number, (image_id, name, left, top, right, bottom, area, crowd, _, mask) in enumerate(truth):
        annotation = {
            "id": number + 1,
            "image_id": image_id,
            "category_id": category(classes, name),
            "bbox": [left, top, right - left, bottom - top],
            "area": area,
            "iscrowd": int(crowd),
        }
        if mask is not None:
            annotation["segmentation"] = mask if isinstance(mask, list) else {"size": list(sizes[image_id]), "counts": mask}
        annotations.append(annotation)
    return {
        "info": {},
        "images": [{"id": image_id, "width": width, "height": height} for image_id, width, height in images],
        "categories": [{"id": category(classes, name), "name": str(name)} for name in range(classes)],
        "annotations": annotations,
    }


def lines(classes, images, results, kind):
    sizes = {image_id: (height, width) for image_id, width, height in images}
    made = []
    for image_id, name, score, left, top, right, bottom, mask in results:
        line = {"image_id": image_id, "category_id": category(classes, name), "score": score}
        if kind == "bbox":
            line["bbox"] = [left, top, right - left, bottom - top]
        else:
            line["segmentation"] = {"size": list(sizes[image_id]), "counts": mask}
        made.append(line)
    return made


def quietly(action):
    with contextlib.redirect_stdout(io.StringIO()):
        return action()


def evaluated(classes, images, truth, results, kind):
    def run():
        coco = COCO()
        coco.dataset = dataset(classes, images, truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(lines(classes, images, results, kind)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation

    return quietly(run)


def known(value):
    return None if value == -1 else float(value)


def mean(values):
    kept = values[values > -1]
    return float(np.mean(kept)) if kept.size else None


def coco_numbers(classes, images, truth, results, kind):
    evaluation = evaluated(classes, images, truth, results, kind)
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    per_class = []
    for name in range(classes):
        curve = precision[0, :, name, 0, 2]
        per_class.append(
            {
                "numbers": [
                    mean(precision[:, :, name, 0, 2]),
                    mean(precision[0, :, name, 0, 2]),
                    mean(precision[5, :, name, 0, 2]),
                    *(mean(precision[:, :, name, area, 2]) for area in (1, 2, 3)),
                    mean(recall[:, name, 0, 2]),
                ],
                "curve": [] if (curve < 0).any() else [float(point) for point in curve],
            }
        )
    return {"stats": [known(value) for value in evaluation.stats], "classes": per_class}


def voc_class(name, truth, results, threshold, year):
    """Average precision of one class: recall and precision result by result."""
    objects = {}
    for image_id, other, left, top, right, bottom, _, crowd, difficult, _ in truth:
        if other == name:
            objects.setdefault(image_id, []).append(([left + 1, top + 1, right, bottom], difficult or crowd))
    total = sum(not ignored for of_image in objects.values() for _, ignored in of_image)
    if total == 0:
        return None
    # Of equal scores, the image of the lower number first.
    mine = sorted((line for line in results if line[1] == name), key=lambda line: line[0])
    mine.sort(key=lambda line: -line[2])
    used, right_ones, wrong_ones, curve = set(), 0, 0, []
    for image_id, _, _, *edges in mine:
        best, chosen = -1.0, None
        for place, (box, ignored) in enumerate(objects.get(image_id, [])):
            wide = max(min(edges[2], box[2]) - max(edges[0], box[0]) + 1, 0)
            high = max(min(edges[3], box[3]) - max(edges[1], box[1]) + 1, 0)
            sides = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (edges, box)]
            overlap = wide * high / (sum(sides) - wide * high)
            if overlap > best:
                best, chosen = overlap, (image_id, place, ignored)
        if best > threshold:
            if not chosen[2]:
                if chosen in used:
                    wrong_ones += 1
                else:
                    used.add(chosen)
                    right_ones += 1
        else:
            wrong_ones += 1
        curve.append((right_ones / total, right_ones / max(right_ones + wrong_ones, 1e-300)))
    if year == 2007:
        tops = [max((p for r, p in curve if r >= point), default=0) for point in np.arange(0, 1.1, 0.1)]
        return sum(tops) / 11
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[place:])
        before = recall
    return area


def voc_numbers(classes, truth, results, year, rounded):
    def read(line):
        image_id, name, score, left, top, right, bottom, _ = line
        # Written with a few decimals, as numbers of f32, and read again.
        numbers = [np.float32(score), np.float32(left) + 1, np.float32(top) + 1, np.float32(right), np.float32(bottom)]
        if rounded:
            numbers = [f"{numbers[0]:.3f}", *(f"{number:.1f}" for number in numbers[1:])]
        else:
            numbers = [score, left + 1, top + 1, right, bottom]
        return [image_id, name, *(float(number) for number in numbers)]

    results = [read(line) for line in results]
    table = [[voc_class(name, truth, results, step / 100, year) for step in THRESHOLDS] for name in range(classes)]
    known = [row for row in table if row[0] is not None]
    means = [float(np.mean([row[at] for row in known])) for at in range(10)] if known else None
    return {
        "numbers": [float(np.mean(means)), means[0], means[5]] if known else [None] * 3,
        "classes": [[None] * 3 if row[0] is None else [float(np.mean(row)), row[0], row[5]] for row in table],
    }


def case(name, seed):
    make = {"crowds": crowds, "grid": grid, "many": many, "masks": masks_set}[name]
    classes, images, truth, results = make(np.random.default_rng(seed))
    made = {"name": name, "classes": classes, "images": images, "truth": truth, "results": results}
    made["boxes"] = coco_numbers(classes, images, truth, results, "bbox")
    if name == "masks":
        made["masks"] = coco_numbers(classes, images, truth, results, "segm")
    made["voc"] = [
        voc_numbers(classes, truth, results, year, rounded) for year in (2007, 2012) for rounded in (False, True)
    ]
    return made


def validation_sized(rng):
    """5,000 images, 36,000 objects, 200,000 results, 80 classes; a third of the objects small, as COCO's."""
    images = [[number + 1, 640, 480] for number in range(5000)]
    truth, results = [], []
    by_image = {}
    for _ in range(36_000):
        image_id = int(rng.integers(1, 5001))
        side = np.exp(rng.normal(4.0, 1.0, 2)).clip(4, 470)
        left, top = rng.random(2) * (np.array([640, 480]) - side)
        edges = np.float32([left, top, left + side[0], top + side[1]])
        # Half of the objects are of a few classes, as COCO's.
        name = int(80 * rng.random() ** 2)
        area = float(side[0] * side[1] * 0.6)
        truth.append([image_id, name, *(float(edge) for edge in edges), area, bool(rng.random() < 0.01), False, None])
        by_image.setdefault(image_id, []).append(truth[-1])
    while len(results) < 200_000:
        image_id = int(rng.integers(1, 5001))
        if image_id not in by_image:
            continue
        line = by_image[image_id][rng.integers(len(by_image[image_id]))]
        sides = np.array([line[4] - line[2], line[5] - line[3]])
        edges = np.array(line[2:6]) + rng.normal(0, rng.choice([0.03, 0.1, 0.4]), 4) * np.tile(sides, 2)
        edges = np.float32([min(edges[0], edges[2]), min(edges[1], edges[3]), max(edges[0], edges[2]), max(edges[1], edges[3])])
        name = line[1] if rng.random() < 0.6 else int(rng.integers(80))
        results.append([image_id, name, float(np.float32(rng.random())), *(float(edge) for edge in edges), None])
    return 80, images, truth, results


def speed(folder):
    classes, images, truth, results = validation_sized(np.random.default_rng(0))
    with open(f"{folder}/speed.json", "w") as file:
        json.dump({"classes": classes, "images": images, "truth": truth, "results": results}, file)
    coco = COCO()
    coco.dataset = dataset(classes, images, truth)
    found = lines(classes, images, results, "bbox")
    with open(f"{folder}/truth.json", "w") as file:
        json.dump(coco.dataset, file)
    with open(f"{folder}/results.json", "w") as file:
        json.dump(found, file)
    quietly(coco.createIndex)
    # Processor time, because other work on the machine would be counted otherwise. pycocotools uses one thread.
    begun = time.process_time()
    loaded = quietly(lambda: coco.loadRes(found))
    evaluation = COCOeval(coco, loaded, "bbox")
    times = [begun, time.process_time()]
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        quietly(step)
        times.append(time.process_time())
    print("pycocotools, s: loadRes, evaluate, accumulate, summarize", *(round(float(step), 3) for step in np.diff(times)))
    print("AP, AP50, AP75", *(repr(float(value)) for value in evaluation.stats[:3]))


def precision(scores, hits, times, truths):
    """AP at one overlap; scores descend."""
    right = hits * times
    kept = right > 0
    recalls = np.cumsum(right)[kept] / truths
    precisions = (np.cumsum(right) / np.maximum(np.cumsum(times), 1))[kept]
    if not len(recalls):
        return 0.0
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    at = np.searchsorted(recalls, np.arange(101) * 0.01)
    return np.where(at < len(recalls), precisions[np.minimum(at, len(recalls) - 1)], 0).mean()


def coverage(samples=250, resamples=150):
    for count, apart in ((40, 1.5), (200, 1.5), (200, 0.0), (40, 3.0)):
        rng = np.random.default_rng(0)

        def drawn():
            """Images of 1 to 3 objects, of which 4 in 5 are found, and 3 false alarms; scores of both are normal, some apart."""
            truths = rng.integers(1, 4, count)
            hits, alarms = rng.binomial(truths, 0.8), rng.poisson(3, count)
            scores = np.concatenate([rng.normal(apart, 1, hits.sum()), rng.normal(0, 1, alarms.sum())])
            is_hit = np.arange(len(scores)) < hits.sum()
            image = np.concatenate([np.repeat(np.arange(count), hits), np.repeat(np.arange(count), alarms)])
            order = np.argsort(-scores)
            return scores[order], is_hit[order].astype(int), image[order], truths

        def whole(scores, hits, _, truths):
            return precision(scores, hits, np.ones(len(scores), int), truths.sum())

        expected = np.mean([whole(*drawn()) for _ in range(600)])
        held, lifts = np.zeros(3), []
        for _ in range(samples):
            scores, hits, image, truths = drawn()
            score = whole(scores, hits, image, truths)
            values = []
            for _ in range(resamples):
                times = np.bincount(rng.integers(0, count, count), minlength=count)
                values.append(precision(scores, hits, times[image], (times * truths).sum()))
            low, high = np.percentile(values, [2.5, 97.5])
            lift = np.mean(values) - score
            lifts.append(lift)
            intervals = [(low, high), (low - lift, high - lift), (2 * score - high, 2 * score - low)]
            held += [low <= expected <= high for low, high in intervals]
        print(f"{count} images, scores {apart} apart: mean AP {expected:.3f}, resamples lift it by {np.mean(lifts):.4f};")
        print("   held by percentiles, moved to the score, mirrored:", *(held / samples).round(3))


def main(path, runs):
    cases = [case(name, 100 * run + at) for run in range(runs) for at, name in enumerate(["crowds", "grid", "many", "masks"])]
    for made in cases[:4]:
        print(made["name"], len(made["truth"]), "objects", len(made["results"]), "results", made["boxes"]["stats"][:3])
    with open(path, "wb") as file:
        # Without a time, so that the same sets give the same bytes.
        with gzip.GzipFile(fileobj=file, mode="wb", mtime=0, filename="") as packed:
            packed.write(json.dumps(cases, separators=(",", ":")).encode())


if __name__ == "__main__":
    if sys.argv[1] == "speed":
        speed(sys.argv[2])
    elif sys.argv[1] == "coverage":
        coverage()
    else:
        main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1)
