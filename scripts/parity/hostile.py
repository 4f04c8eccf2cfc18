"""Hostile files of weights: what does `passer weights inspect` and `convert` cost on each?

    cargo build --release
    python scripts/parity/hostile.py [target/release/passer]

Each is small beside what it claims, or keeps one long thing and shows it often. A file must be refused or read within
the bounds below; a crash, a signal or more is a failure. Needs Linux (peak memory of child processes) and no package.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

SECONDS, MEBIBYTES = 60, 1500


def text(what) -> bytes:
    data = what if isinstance(what, bytes) else what.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def row(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def pairs(items) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items) + b"u"


STORAGE = row(text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(1)) + b"Q"
REBUILD = name("torch._utils", "_rebuild_tensor_v2")


def arguments(shape) -> bytes:
    """Of a tensor that shows one number as often as its shape says."""
    sizes, steps = row(*map(number, shape)), row(*[number(0)] * len(shape))
    return row(STORAGE, number(0), sizes, steps, b"\x89", name("collections", "OrderedDict") + b")R")


def tensor(shape) -> bytes:
    return REBUILD + arguments(shape) + b"R"


def kept(what: bytes, index: int = 0) -> bytes:
    """What goes under a number of the memo, and off the stack."""
    return what + b"q" + bytes([index]) + b"0"


def archive(body: bytes):
    def write(path):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            file.writestr("a/data.pkl", b"\x80\x02" + body + b".")
            file.writestr("a/data/0", b"\0\0\0\0")

    return write


def safetensors(tensors, architecture=None):
    def write(path):
        header, end = {}, 0
        if architecture:
            info = {"architecture": architecture, "method": "", "fingerprint": "", "licences": "", "pixels": 32}
            info |= {"mean": [0.5] * 3, "std": [0.5] * 3, "steps": 0, "extra": {}}
            header["__metadata__"] = {"passer": json.dumps(info)}
        for key, shape in tensors:
            size = 4
            for side in shape:
                size *= side
            header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
            end += size
        data = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(data)) + data + bytes(end))

    return write


def vit(width: int, depth: int):
    shapes = {"cls_token": [1, 1, width], "pos_embed": [1, 197, width], "patch_embed.proj.weight": [width, 3, 16, 16]}
    shapes |= {"patch_embed.proj.bias": [width], "norm.weight": [width], "norm.bias": [width]}
    linear = {"attn.qkv": [3 * width, width], "attn.proj": [width, width]}
    linear |= {"mlp.fc1": [4 * width, width], "mlp.fc2": [width, 4 * width]}
    for block in range(depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{norm}.{what}": [width] for what in ("weight", "bias")}
        for layer, shape in linear.items():
            shapes |= {f"blocks.{block}.{layer}.weight": shape, f"blocks.{block}.{layer}.bias": shape[:1]}
    return archive(pairs((key, tensor(shape)) for key, shape in shapes.items()))


def named(form: str, more: int):
    """A quarter of a million names for one tensor of 64 dimensions."""
    one, names = kept(tensor([1] * 64)), (form.format(i) + "x" * more for i in range(250_000))
    return archive(one + pairs((key, b"h\0") for key in names))


def modules() -> bytes:
    """Modules in modules, each level twice the last."""
    module = lambda inner: b"h\0)\x81" + pairs(
        [("_parameters", pairs([("w", b"h\x01")])), ("_buffers", b"}"), ("_modules", inner)]
    ) + b"b"
    body = kept(name("x", "M")) + kept(tensor([1]), 1) + kept(module(b"}"), 2)
    for level in range(2, 42):
        last = b"h" + bytes([level])
        body += kept(module(pairs([("a", last), ("b", last)])), level + 1)
    return body + b"h" + bytes([42])


def numbered(key: str, count: int):
    """A dictionary of one tensor under many numbers, under one long key."""
    inner = b"}(" + b"".join(text(str(i)) + b"h\0" for i in range(count)) + b"u"
    return archive(kept(tensor([1])) + pairs([(key, inner)]))


def flags():
    """A dictionary of half a million entries beside each of many tensors."""
    shared = kept(b"}(" + b"NN" * 600_000 + b"u") + kept(REBUILD, 1)
    one = row(STORAGE, number(0), row(number(1)), row(number(1)), b"\x89", b"N", b"h\0")
    return archive(shared + kept(one, 2) + b"h\x01h\x02R0" * 190_000 + b"N")


def deep(count: int):
    """As deep a transformer as there are tensors."""
    config = {"width": 4, "depth": count, "heads": 1, "patch_px": 1, "image_px": 1, "position": "learned"}
    config |= {"interpolation": "antialiased", "registers": 0, "drop_path": 0.0, "pooling": "class_token"}
    tensors = [("blocks.0.attn.q", [0])] + [(f"x{i}", [0]) for i in range(count)]
    return safetensors(tensors, {"vit": config | {"initialization": "truncated_normal"}})


def dimensions():
    """A tensor of 24 million dimensions."""

    def write(path):
        shape = "[" + "0," * 24_000_000 + "0]"
        header = '{"layer1.0.conv1.weight":{"dtype":"F32","shape":%s,"data_offsets":[0,0]}}' % shape
        path.write_bytes(struct.pack("<Q", len(header)) + header.encode())

    return write


LONG = kept(text("x" * (8 << 20)))
TINY = [("conv1.weight", [1, 3, 3, 3]), ("layer1.0.conv1.weight", [1, 1, 3, 3])]
KEY = row(text("storage"), b"h\x01", b"h\0", text("cpu"), b"K\x01") + b"Q"
RESNET = [(f"layer{stage}.{block}.conv{conv}.weight", tensor([1])) for stage in (1, 2, 3, 4) for block in (0, 1) for conv in (1, 2)]
FILES = {
    "text in a list": lambda: archive(LONG + b"](" + b"h\0" * 200_000 + b"}e"),
    "text as a class": lambda: archive(LONG + b"(" + b"h\0h\0\x93" * 500_000 + b"t"),
    "text as a key": lambda: archive(LONG + b"](" + b"}h\0Ns" * 200_000 + b"e"),
    "text as objects' class": lambda: archive(LONG + kept(b"h\0h\0\x93", 1) + b"](" + b"h\x01)\x81" * 150_000 + b"e"),
    "text as a storage's key": lambda: archive(LONG + kept(name("torch", "FloatStorage"), 1) + b"(" + KEY * 130_000 + b"t"),
    "wide resnet": lambda: archive(pairs([("conv1.weight", tensor([1 << 33, 3, 7, 7])), *RESNET])),
    "wide vit": lambda: vit(1 << 30, 12),
    "vit of one number": lambda: vit(1024, 5),
    "wide resnet by metadata": lambda: safetensors(TINY, {"resnet": {"depth": 50, "width": 4000, "stem": "small"}}),
    "impossible resnet by metadata": lambda: safetensors(TINY, {"resnet": {"depth": 50, "width": 1 << 40, "stem": "small"}}),
    "half a million tensors": lambda: safetensors(TINY + [(f"x{i}.weight", [0]) for i in range(500_000)]),
    "long name": lambda: safetensors(TINY + [("x" * (8 << 20), [1])]),
    "two million dictionaries": lambda: archive(b"(" + b"}" * 2_000_000 + b"t"),
    "tensors of 64 dimensions": lambda: archive(kept(REBUILD) + kept(arguments([1] * 64), 1) + b"(" + b"h\0h\x01R" * 500_000 + b"t"),
    "resnet of many tensors": lambda: named("layer1.0.conv1.w{}", 0),
    "vit of many tensors": lambda: named("blocks.{}.attn.qkv.weight.", 200),
    "torchvision's vit of many tensors": lambda: named("encoder.layers.encoder_layer_{}.self_attention.in_proj_", 180),
    "modules in modules": lambda: archive(modules()),
    "long list": lambda: archive(kept(b"](" + b"N" * 1_000_000 + b"e") + b"](" + b"h\0" * 200_000 + b"}e"),
    "long arguments": lambda: archive(
        kept(b"(" + b"N" * 1_000_000 + b"t") + kept(name("collections", "OrderedDict"), 1) + b"h\x01h\0R0" * 200_000 + b"N"
    ),
    "flags of tensors": flags,
    "wrappers": lambda: numbered("module." * 144 + "x", 64_000),
    "names of many stars": lambda: numbered("backbone" * 126, 64_000),
    "deep vit by metadata": lambda: deep(262_000),
    "tensor of many dimensions": dimensions,
}


def measured(command) -> tuple[int, float, float, str]:
    """Exit status, seconds of the processor, peak MiB and the last line of a program."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        said = [line for line in out.read().decode().splitlines() if line.startswith(("error", "loads"))]
    return child.returncode, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, (said or [""])[-1]


def main(passer: str) -> None:
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        path, out = pathlib.Path(scratch) / "hostile", pathlib.Path(scratch) / "out.safetensors"
        for title in FILES:
            # By a process of its own: a child's peak counts from what its parent holds.
            subprocess.run([sys.executable, __file__, "--write", title, path], check=True)
            runs = [[passer, "weights", "inspect", path], [passer, "weights", "convert", path, out, "--to", "timm"]]
            out.unlink(missing_ok=True)
            found = [measured(run) for run in runs]
            cost = ", ".join(f"{seconds:.1f} s {memory:.0f} MiB" for _, seconds, memory, _ in found)
            print(f"{title} ({path.stat().st_size} bytes): {cost}; {found[0][3][:100]}")
            if any(status not in (0, 1) or seconds > SECONDS or memory > MEBIBYTES for status, seconds, memory, _ in found):
                bad.append(title)
    if bad:
        sys.exit(f"too much, or a crash: {', '.join(bad)}")


if __name__ == "__main__":
    default = pathlib.Path(__file__).resolve().parents[2] / "target/release/passer"
    if sys.argv[1:2] == ["--write"]:
        FILES[sys.argv[2]]()(pathlib.Path(sys.argv[3]))
    else:
        main(sys.argv[1] if len(sys.argv) > 1 else str(default))
