"""Runs MoCo-v2 steps from stored weights on stored views and compares the losses with Passer's.

    python scripts/parity/moco_steps.py STEPS.safetensors --ours OURS.json [--out THEIRS.json]
    python scripts/parity/moco_steps.py STEPS.safetensors --example CIFAR.tar.gz    writes such a file

Fails (exit 1) on any missing or unexpected key, and where a loss differs by more than --tolerance,
relative, 1e-4 by default. The reference computes in float64; --dtype float32 gives losses that stand for OURS, so
that PyTorch's own error can be seen. It sets what a tolerance can ask: see README.md here.

STEPS.safetensors holds
    encoder.*      f32  the query encoder's initial weights under torchvision's ResNet names (no fc);
                        running statistics may be absent: no loss in training mode depends on them
    head.*         f32  head.0.{weight,bias}, head.2.{weight,bias}: the MLP, PyTorch's [out, in]
    queue          f32  [K, 128], rows are keys of length 1; row 0 is the first to be replaced
    views.S        u8   [2 B, 3, H, W] for S = 0, 1, ...: the B query views, then the B key views
    shuffle.S      i64  [B]: the key encoder sees key_views[shuffle], so that group g of its batch norm is
                        rows g n .. (g + 1) n of that; output row j is the key of image shuffle[j]
and in its metadata, each value a JSON text: batch, steps, lr (a number, or a list with one a step), momentum,
weight_decay (of SGD, on all parameters), m (of the EMA), T, batch_norm_images (null: the whole batch), mean, std
(for pixels / 255). Depth, width and stem are read off the weights. The key encoder starts as a copy of the query
encoder. OURS.json is a list of losses, or an object with such a list under "losses".
"""

import argparse
import json
import math
import re
import sys

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from moco import DEPTHS, Branch, Moco, normalise, random_queue, resnet

METADATA = ["batch", "steps", "lr", "momentum", "weight_decay", "m", "T", "batch_norm_images", "mean", "std"]
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def fail(message):
    sys.exit(f"moco_steps: {message}")


def load(path):
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata() or {}
    missing = [f"metadata {key!r}" for key in METADATA if key not in metadata]
    settings = {key: json.loads(metadata[key]) for key in METADATA if key in metadata}
    names = ["queue"] + [f"{kind}.{s}" for s in range(settings.get("steps", 1)) for kind in ("views", "shuffle")]
    missing += [f"tensor {name!r}" for name in names if name not in tensors]
    if missing:
        fail(f"{path} lacks {', '.join(missing)}")
    known = set(names)
    unexpected = [n for n in tensors if n not in known and not n.startswith(("encoder.", "head."))]
    if unexpected:
        fail(f"{path} has unexpected tensors {', '.join(unexpected)}")
    batch = settings["batch"]
    for s in range(settings["steps"]):
        views, shuffle = tensors[f"views.{s}"], tensors[f"shuffle.{s}"]
        if views.dtype != torch.uint8 or views.dim() != 4 or tuple(views.shape[:2]) != (2 * batch, 3):
            fail(f"views.{s}: expected u8 [{2 * batch}, 3, H, W], got {views.dtype} {list(views.shape)}")
        if not torch.equal(shuffle.sort().values, torch.arange(batch)):
            fail(f"shuffle.{s}: expected a permutation of 0..{batch}, got {shuffle.dtype} {shuffle.tolist()}")
    return settings, tensors


def architecture(tensors):
    """(depth, width, stem) of the stored encoder, from the names and the first convolution's shape."""
    if "encoder.conv1.weight" not in tensors:
        fail("lacks tensor 'encoder.conv1.weight'")
    blocks = {m.groups() for m in (re.match(r"encoder\.layer(\d)\.(\d+)\.", name) for name in tensors) if m}
    layers = tuple(sum(layer == str(i) for layer, _ in blocks) for i in range(1, 5))
    bottleneck = "encoder.layer1.0.conv3.weight" in tensors
    for depth, (block, expected) in DEPTHS.items():
        if layers == expected and bottleneck == (block.expansion == 4):
            first = tensors["encoder.conv1.weight"]
            return depth, first.shape[0], "small" if first.shape[2] == 3 else "imagenet"
    fail(f"no known ResNet has {layers} blocks, bottleneck {bottleneck}")


def build(settings, tensors, dtype):
    def branch():
        depth, width, stem = architecture(tensors)
        return Branch(resnet(depth, width, stem, settings["batch_norm_images"])).to(dtype)

    query, key = branch(), branch()
    stored = {n: t.to(dtype) for n, t in tensors.items() if n.startswith(("encoder.", "head."))}
    found = query.load_state_dict(stored, strict=False)
    missing = [n for n in found.missing_keys if not n.endswith(BUFFERS)]
    if missing or found.unexpected_keys:
        fail(f"weights: missing {missing}, unexpected {found.unexpected_keys}")
    optimizer = torch.optim.SGD(
        query.parameters(), lr=0.0, momentum=settings["momentum"], weight_decay=settings["weight_decay"]
    )
    return Moco(query, key, tensors["queue"].to(dtype, copy=True), settings["m"], settings["T"], optimizer)


def run(settings, tensors, dtype):
    moco = build(settings, tensors, dtype)
    rates = settings["lr"] if isinstance(settings["lr"], list) else [settings["lr"]] * settings["steps"]
    if len(rates) != settings["steps"]:
        fail(f"lr: expected {settings['steps']} rates, got {len(rates)}")
    losses = []
    for s, rate in enumerate(rates):
        moco.optimizer.param_groups[0]["lr"] = rate
        query, key = normalise(tensors[f"views.{s}"], settings["mean"], settings["std"], dtype).chunk(2)
        losses.append(moco.step(query, key, tensors[f"shuffle.{s}"].long()))
    return losses


def example(path, data, batch, lr, queue=4096, steps=20):
    """A file of the format: a small ResNet-18 at its start, views of the images in `data`."""
    import moco_curve

    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    tensors = dict(Branch(resnet(18, 16, "small")).state_dict())
    tensors["queue"] = random_queue(queue, 128, generator)
    images, _ = moco_curve.read_images(data, per_class=1000)["train"]
    stream = iter(moco_curve.batches(moco_curve.TwoViews(images, images[0].width, seed=0), batch, 0, 0))
    for s in range(steps):
        tensors[f"views.{s}"] = torch.cat(next(stream))
        tensors[f"shuffle.{s}"] = torch.randperm(batch, generator=generator)
    settings = {
        "batch": batch, "steps": steps, "lr": lr, "momentum": 0.9, "weight_decay": 1e-4, "m": 0.99, "T": 0.2,
        "batch_norm_images": 32, "mean": moco_curve.MEAN, "std": moco_curve.STD,
    }  # fmt: skip
    save_file(tensors, path, {key: json.dumps(value) for key, value in settings.items()})


def compare(path, losses):
    """Relative difference of each loss listed in the JSON at `path`; not finite counts as infinite."""
    with open(path) as file:
        ours = json.load(file)
    ours = ours.get("losses") if isinstance(ours, dict) else ours
    if not isinstance(ours, list) or len(ours) != len(losses):
        fail(f"{path}: expected {len(losses)} losses, got {len(ours) if isinstance(ours, list) else 'no list'}")
    numbers = [math.inf if value is None else value for value in ours]
    return [abs(a - b) / abs(b) if math.isfinite(a) else math.inf for a, b in zip(numbers, losses, strict=True)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", metavar="STEPS.safetensors")
    parser.add_argument("--ours", help="JSON with the losses to compare")
    parser.add_argument("--out", help="where to write the reference's losses as JSON; else they are printed")
    parser.add_argument("--example", metavar="CIFAR.tar.gz", help="write the file, views of these images, and stop")
    parser.add_argument("--batch", type=int, default=256, help="of --example")
    parser.add_argument("--lr", type=float, default=0.003, help="of --example")
    parser.add_argument("--dtype", choices=["float64", "float32"], default="float64")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="largest relative difference allowed")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.example:
        example(arguments.file, arguments.example, arguments.batch, arguments.lr)
        return
    settings, tensors = load(arguments.file)
    losses = run(settings, tensors, getattr(torch, arguments.dtype))
    report = {"dtype": arguments.dtype, "torch": torch.__version__, "losses": losses}
    if arguments.ours:
        report["relative_differences"] = differences = compare(arguments.ours, losses)
    text = json.dumps(report, indent=1)
    if arguments.out:
        with open(arguments.out, "w") as file:
            file.write(text + "\n")
    else:
        print(text)
    if arguments.ours is None:
        return
    worst = max(range(len(losses)), key=differences.__getitem__)
    print(
        f"{len(losses)} steps, max relative difference {differences[worst]:.2e} at step {worst} "
        f"({arguments.dtype} loss {losses[worst]:.8f}); allowed {arguments.tolerance:.0e}"
    )
    if differences[worst] > arguments.tolerance:
        sys.exit(1)


if __name__ == "__main__":
    main()
