"""RetinaFace (MobileNet x0.25) in PyTorch and YOLOX in onnxruntime: the reference of crates/detection.

    python scripts/parity/detection.py formula                       crates/detection/fixtures/retinaface_formula.json
    python scripts/parity/detection.py photos DATA RAW               crates/detection/fixtures/{faces,persons}.json
    python scripts/parity/detection.py speed DATA FOLDER [THREADS]   photos a second over a folder of JPEGs
    python scripts/parity/detection.py decisions DATA FOLDER         faces.jsonl and persons.jsonl as `passer detect` writes them

DATA is the folder that PASSER_TEST_DATA names. RAW is what `cargo run --release -p data --example decode_raw` printed for the ten
photos below: both sides must see the same pixels, and decoders of JPEG differ by a level here and there.

The network is built from the paper (Deng et al., RetinaFace, CVPR 2020) and the names of the published state dict, and run in
float64. Where the package `batch-face` is installed, its network must agree. Besides PyTorch this needs onnxruntime and
opencv-python-headless.

Formula of the weights, with the numbers of formula.py: a weight of two or more dimensions sqrt(6 / fan-in) u (a head's a hundredth of
that), a norm's weight 1 + 0.1 u, its variance 1 + 0.5 u, everything else 0.1 u. Formula of the picture: (7 x + 5 y + 40 channel + x y mod 11) mod 256, in red,
green and blue.
"""

import io
import json
import math
import struct
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

FIXTURES = Path(__file__).resolve().parents[2] / "crates/detection/fixtures"

# Ten photos of `photos-250.tar`, no two of one size, with faces large and small, one and many, of a doll, and on a web page.
PHOTOS = [
    "n01494475_hammerhead", "n02107908_Appenzeller", "n02777292_balance_beam", "n03325584_feather_boa", "n02879718_bow",
    "n04493381_tub", "n02869837_bonnet", "n03763968_military_uniform", "n03347037_fire_screen", "n06359193_web_site",
]  # fmt: skip


def conv(inputs, outputs, kernel=3, stride=1, groups=1, leaky=True):
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return layers + ([nn.LeakyReLU(0.1)] if leaky else [])


def block(inputs, outputs, stride):
    return nn.Sequential(*conv(inputs, inputs, stride=stride, groups=inputs), *conv(inputs, outputs, kernel=1))


class Context(nn.Module):
    """Windows of 3, 5 and 7 over a pyramid map, the larger ones as rows of small ones."""

    def __init__(self, channels):
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3X3 = nn.Sequential(*conv(channels, half, leaky=False))
        self.conv5X5_1 = nn.Sequential(*conv(channels, quarter))
        self.conv5X5_2 = nn.Sequential(*conv(quarter, quarter, leaky=False))
        self.conv7X7_2 = nn.Sequential(*conv(quarter, quarter))
        self.conv7x7_3 = nn.Sequential(*conv(quarter, quarter, leaky=False))

    def forward(self, x):
        shared = self.conv5X5_1(x)
        parts = [self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))]
        return torch.cat(parts, 1).relu()


class Head(nn.Module):
    def __init__(self, channels, numbers):
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, 2 * numbers, 1)
        self.numbers = numbers

    def forward(self, x):
        return self.conv1x1(x).movedim(1, 3).reshape(x.shape[0], -1, self.numbers)


class RetinaFace(nn.Module):
    def __init__(self, channels=64):
        super().__init__()
        stages = [
            [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)],
            [(64, 128, 2)] + [(128, 128, 1)] * 5,
            [(128, 256, 2), (256, 256, 1)],
        ]
        made = [[block(*numbers) for numbers in stage] for stage in stages]
        made[0].insert(0, nn.Sequential(*conv(3, 8, stride=2)))
        self.body = nn.ModuleDict({f"stage{i + 1}": nn.Sequential(*stage) for i, stage in enumerate(made)})
        self.fpn = nn.ModuleDict(
            {f"output{i + 1}": nn.Sequential(*conv(inputs, channels, kernel=1)) for i, inputs in enumerate((64, 128, 256))}
        )
        self.fpn.update({f"merge{i}": nn.Sequential(*conv(channels, channels)) for i in (1, 2)})
        self.ssh1, self.ssh2, self.ssh3 = (Context(channels) for _ in range(3))
        self.ClassHead, self.BboxHead, self.LandmarkHead = (
            nn.ModuleList(Head(channels, numbers) for _ in range(3)) for numbers in (2, 4, 10)
        )

    def forward(self, x):
        maps = []
        for i in (1, 2, 3):
            x = self.body[f"stage{i}"](x)
            maps.append(self.fpn[f"output{i}"](x))
        for finer in (1, 0):
            up = F.interpolate(maps[finer + 1], size=maps[finer].shape[2:], mode="nearest")
            maps[finer] = self.fpn[f"merge{finer + 1}"](maps[finer] + up)
        maps = [context(m) for context, m in zip((self.ssh1, self.ssh2, self.ssh3), maps)]
        heads = [torch.cat([head(m) for head, m in zip(heads, maps)], 1) for heads in (self.ClassHead, self.BboxHead, self.LandmarkHead)]
        return heads[0].softmax(-1)[..., 1], heads[1], heads[2]


def read_network(data, dtype):
    state = torch.load(Path(data) / "models/retinaface_mobilenet025.pth", map_location="cpu", weights_only=True)
    network = RetinaFace()
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()}, strict=True)
    return network.to(dtype).eval(), state


def priors_of(width, height):
    """[priors, 4]: centre and size in shares of the picture."""
    found = []
    for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        rows, columns = np.mgrid[: math.ceil(height / stride), : math.ceil(width / stride)]
        places = np.stack([(columns.ravel() + 0.5) * stride / width, (rows.ravel() + 0.5) * stride / height], 1)
        sizes = np.array([[side / width, side / height] for side in sides])
        pairs = np.concatenate([places.repeat(len(sides), 0), np.tile(sizes, (len(places), 1))], 1)
        found.append(pairs)
    return torch.from_numpy(np.concatenate(found))


def decoded(box, points, priors):
    centre = priors[:, :2] + box[:, :2] * 0.1 * priors[:, 2:]
    size = priors[:, 2:] * (box[:, 2:] * 0.2).exp()
    points = priors[:, None, :2] + points.reshape(-1, 5, 2) * 0.1 * priors[:, None, 2:]
    return torch.cat([centre - size / 2, centre + size / 2], 1), points


def nms(boxes, scores, threshold, extra):
    """Greedy, `extra` pixels added to each length; written out, for torchvision's adds none."""
    boxes, kept = np.asarray(boxes, np.float64), []
    order = list(np.argsort(-np.asarray(scores), kind="stable"))
    area = (boxes[:, 2] - boxes[:, 0] + extra) * (boxes[:, 3] - boxes[:, 1] + extra)
    while order:
        best = order.pop(0)
        kept.append(int(best))
        low, high = np.maximum(boxes[order, :2], boxes[best, :2]), np.minimum(boxes[order, 2:], boxes[best, 2:])
        shared = np.clip(high - low + extra, 0, None).prod(1)
        order = [o for o, i in zip(order, shared / (area[order] + area[best] - shared)) if i <= threshold]
    return kept


def normalised(rgb, dtype):
    bgr = torch.from_numpy(np.ascontiguousarray(rgb[..., ::-1])).to(dtype) - torch.tensor([104.0, 117.0, 123.0], dtype=dtype)
    return bgr.permute(2, 0, 1)[None].contiguous()


@torch.no_grad()
def faces(network, rgb, dtype):
    """[(left, top, right, bottom), score, points] in shares of the picture, by falling score."""
    height, width = rgb.shape[:2]
    scores, box, points = (out[0].double() for out in network(normalised(rgb, dtype)))
    boxes, points = decoded(box, points, priors_of(width, height))
    chosen = scores > 0.02
    boxes, points, scores = boxes[chosen], points[chosen], scores[chosen]
    pixels = boxes * torch.tensor([width, height, width, height])
    return [(boxes[i].tolist(), scores[i].item(), points[i].tolist()) for i in nms(pixels, scores, 0.4, 1.0)]


def letterboxed(rgb, width, height):
    import cv2

    ratio = min(height / rgb.shape[0], width / rgb.shape[1])
    size = (int(rgb.shape[1] * ratio), int(rgb.shape[0] * ratio))
    box = np.full((height, width, 3), 114, np.uint8)
    box[: size[1], : size[0]] = cv2.resize(np.ascontiguousarray(rgb[..., ::-1]), size, interpolation=cv2.INTER_LINEAR)
    return box.transpose(2, 0, 1)[None].astype(np.float32), ratio


def session_of(data, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(
        str(Path(data) / "models/yolox_nano.onnx"), options, providers=["CPUExecutionProvider"]
    )


def persons(session, rgb):
    """[(left, top, right, bottom), score] in shares of the picture, by falling score."""
    batch, ratio = letterboxed(rgb, 416, 416)
    out = session.run(None, {session.get_inputs()[0].name: batch})[0][0].astype(np.float64)
    grid, strides = [], []
    for stride in (8, 16, 32):
        rows, columns = np.mgrid[: 416 // stride, : 416 // stride]
        grid.append(np.stack([columns.ravel(), rows.ravel()], 1))
        strides.append(np.full((grid[-1].shape[0], 1), stride))
    grid, strides = np.concatenate(grid), np.concatenate(strides)
    centre, size = (out[:, :2] + grid) * strides, np.exp(out[:, 2:4]) * strides
    boxes, scores = np.concatenate([centre - size / 2, centre + size / 2], 1) / ratio, out[:, 4] * out[:, 5]
    chosen = scores > 0.02
    boxes, scores = boxes[chosen], scores[chosen]
    sides = np.array([rgb.shape[1], rgb.shape[0]] * 2)
    return [((boxes[i] / sides).tolist(), float(scores[i])) for i in nms(boxes, scores, 0.45, 0.0)] if len(scores) else []


def rounded(value):
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else round(value, 6)


def write(name, content):
    FIXTURES.mkdir(exist_ok=True)
    path = FIXTURES / name
    path.write_text(json.dumps(content, separators=(",", ":")).replace('{"key"', '\n{"key"') + "\n")
    print(path, path.stat().st_size, "bytes")


@torch.no_grad()
def formula():
    from formula import number, u

    network = RetinaFace().double().eval()
    state = network.state_dict()
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        made, norm = u(number(name), tuple(tensor.shape)), "running_var" in name
        if tensor.dim() > 1:
            made = made * np.float32(math.sqrt(6.0 / math.prod(tensor.shape[1:])) * (0.01 if "Head" in name else 1.0))
        elif norm or name.endswith("weight"):
            made = 1 + np.float32(0.5 if norm else 0.1) * made
        else:
            made = np.float32(0.1) * made
        tensor.copy_(made)
    y, x, channel = np.mgrid[:37, :50, :3]
    rgb = ((7 * x + 5 * y + 40 * channel + x * y % 11) % 256).astype(np.uint8)
    scores, box, points = network(normalised(rgb, torch.float64))
    single = [out.double() for out in network.float()(normalised(rgb, torch.float32))]
    for exact, out in zip((scores, box, points), single):
        print("PyTorch's own error in float32:", float((exact - out).norm() / exact.norm()))
    shapes = {name: list(tensor.shape) for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    significant = lambda tensor: [float(f"{value:.7g}") for value in tensor.flatten().tolist()]
    write(
        "retinaface_formula.json",
        {"made_by": "scripts/parity/detection.py formula", "shapes": shapes, "scores": significant(scores[0]),
         "boxes": significant(box[0]), "points": significant(points[0])},
    )  # fmt: skip


def raw_photos(path):
    stream = io.BytesIO(Path(path).read_bytes())
    for key in PHOTOS:
        width, height = struct.unpack("<II", stream.read(8))
        yield key, np.frombuffer(stream.read(width * height * 3), np.uint8).reshape(height, width, 3)


def witness(state, rgb):
    """What batch-face's network, with the same weights, says of the picture; None where the package is not installed."""
    try:
        from batch_face.face_detection.alignment import RetinaFace as Theirs, cfg_mnet
    except ImportError:
        return None
    network = Theirs(cfg=dict(cfg_mnet, pretrain=False), phase="test")
    network.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()}, strict=True)
    with torch.no_grad():
        return network.double().eval()(normalised(rgb, torch.float64))


def photos(data, raw):
    torch.set_num_threads(1)
    network, state = read_network(data, torch.float64)
    session = session_of(data, 1)
    found = {"faces": [], "persons": []}
    for key, rgb in raw_photos(raw):
        height, width = rgb.shape[:2]
        boxes = faces(network, rgb, torch.float64)
        of_faces = [[*box, score, *sum(points, [])] for box, score, points in boxes]
        of_persons = [[*box, score] for box, score in persons(session, rgb)]
        other = witness(state, rgb)
        if other is not None:
            with torch.no_grad():
                scores, box, points = network(normalised(rgb, torch.float64))
            pairs = ((box, other[0]), (scores, other[1][..., 1]), (points, other[2]))
            print("batch-face's network differs by at most", max(float((a - b).abs().max()) for a, b in pairs))
        print(key, width, height, len(of_faces), "faces", len(of_persons), "persons", sum(row[4] > 0.5 for row in of_faces), "sure")
        common = {"key": key, "width": width, "height": height, "pixels": int(rgb.sum(dtype=np.int64))}
        found["faces"].append({**common, "found": rounded(of_faces)})
        found["persons"].append({**common, "found": rounded(of_persons)})
    for name, content in found.items():
        write(f"{name}.json", {"made_by": "scripts/parity/detection.py photos", "photos": content})


def decode(path):
    import cv2

    return cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]


def speed(data, folder, threads=2):
    import cv2

    threads = int(threads)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    paths = sorted(Path(folder).glob("**/*.JPEG"))
    network, _ = read_network(data, torch.float32)
    session = session_of(data, threads)
    stages = {
        "decode": lambda rgb: rgb,
        "faces": lambda rgb: faces(network, rgb, torch.float32),
        "persons": lambda rgb: persons(session, rgb),
    }
    for name, run in stages.items():
        for path in paths[:5]:
            run(decode(path))
        start, work = time.perf_counter(), time.process_time()
        for path in paths:
            run(decode(path))
        seconds, work = time.perf_counter() - start, time.process_time() - work
        print(f"{name}: {len(paths)} photos in {seconds:.2f} s, {len(paths) / seconds:.1f} a second, {work:.2f} s of CPU")


def decisions(data, folder):
    torch.set_num_threads(1)
    network, _ = read_network(data, torch.float32)
    session = session_of(data, 1)
    with open("faces.jsonl", "w") as of_faces, open("persons.jsonl", "w") as of_persons:
        for path in sorted(Path(folder).glob("**/*.JPEG")):
            rgb = decode(path)
            rows = [{"score": score} for _, score, _ in faces(network, rgb, torch.float32)]
            print(json.dumps({"key": path.stem, "detections": rows}), file=of_faces)
            rows = [{"score": score} for _, score in persons(session, rgb)]
            print(json.dumps({"key": path.stem, "detections": rows}), file=of_persons)


if __name__ == "__main__":
    {"formula": formula, "photos": photos, "speed": speed, "decisions": decisions}[sys.argv[1]](*sys.argv[2:])
