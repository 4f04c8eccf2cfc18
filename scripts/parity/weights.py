"""Round trips of weights between PyTorch and `passer`: what passes through a file must give the same features.

    cargo build --release
    python scripts/parity/weights.py [target/release/passer] [MODEL]...

Needs torch, torchvision, timm, safetensors, pillow. For each model (random weights by seed; batch norm's statistics from
a few training passes) it

1. saves it with PyTorch as `.pth` (zip and legacy) and safetensors, wrapped as a method's checkpoint would hold it, and
   rounded to f16 and bf16 (compared with the rounded model),
2. compares `passer features --encoder FILE` with the model's own features of the same pixels,
3. converts each container with `passer weights convert --to torchvision|timm`: the tensors must be the same from all,
   bit by bit, and the model's own where the names are; loads the result with `strict=True` into the library's model, and
   compares PyTorch's features and `passer features` of the converted file.

Errors are |passer - PyTorch| / |PyTorch|; PyTorch's own float32 error against float64 is printed beside them.
"""

import argparse
import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGES = 4
BOUND = 1e-5


def torchvision_model(name, **more):
    def make():
        model = torchvision.models.get_model(name, weights=None, **more)
        setattr(model, "heads" if hasattr(model, "heads") else "fc", torch.nn.Identity())
        return model

    return make


def timm_model(name, **more):
    return lambda: timm.create_model(name, pretrained=False, num_classes=0, **more)


# Name: the library that made it, how, a side of its images, the libraries that its weights are exported to, and how a
# checkpoint wraps them: the file's dictionary, and what `passer` must be told.
def moco(state):
    queries = {f"module.encoder_q.{k}": v for k, v in state.items()}
    keys = {f"module.encoder_k.{k}": torch.zeros_like(v) for k, v in state.items()}
    return {"epoch": 200, "arch": "resnet50", "state_dict": queries | keys | {"module.queue": torch.zeros(128, 64)}}


def dino(state):
    head = {"head.mlp.0.weight": torch.zeros(2, 2), "head.last_layer.weight_g": torch.zeros(2, 1)}
    teacher = {f"backbone.{k}": v for k, v in state.items()} | head
    student = {f"module.{k}": torch.zeros_like(v) for k, v in teacher.items()}
    return {"student": student, "teacher": teacher, "epoch": 100, "args": argparse.Namespace(arch="vit_small")}


def dinov2(state):
    """The authors' names: registers are `register_tokens`, and the class token has a position, here taken off it."""
    state = dict(state)
    position = 2 * state["cls_token"]  # exact: the token is tiny, and so would what rounding leaves of it be
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    state["register_tokens"] = state.pop("reg_token")
    return state | {"mask_token": torch.zeros(1, state["cls_token"].shape[2])}


MODELS = {
    "torchvision resnet18": (torchvision_model("resnet18"), 224, ["torchvision", "timm"], None),
    "torchvision resnet50": (torchvision_model("resnet50"), 224, ["torchvision", "timm"], moco),
    "timm resnet50": (timm_model("resnet50"), 160, ["timm", "torchvision"], None),
    "timm vit_small_patch16_224": (timm_model("vit_small_patch16_224"), 224, ["timm", "torchvision"], dino),
    "timm vit_small_patch16_224 at 160 px": (
        timm_model("vit_small_patch16_224", dynamic_img_size=True), 160, ["timm"], None,
    ),
    "timm vit_small_patch14_reg4_dinov2 at 224 px": (
        timm_model("vit_small_patch14_reg4_dinov2", dynamic_img_size=True), 224, ["timm"], dinov2,
    ),
    "torchvision vit_b_16": (torchvision_model("vit_b_16"), 224, ["torchvision", "timm"], None),
}


# The types of weights that are narrower than f32, and the container that each is tried in.
NARROW = [(torch.float16, "f16.pth"), (torch.bfloat16, "bf16.safetensors")]


def library_model(library: str, name: str, file: pathlib.Path):
    """The library's own network for a converted file."""
    with safe_open(file, "pt") as opened:
        architecture = json.loads(opened.metadata()["passer"])["architecture"]
    if "resnet" in architecture:
        name = f"resnet{architecture['resnet']['depth']}"
        return (torchvision_model if library == "torchvision" else timm_model)(name)()
    vit = architecture["vit"]
    if library == "torchvision":
        sizes = (vit["image_px"], vit["patch_px"], vit["depth"], vit["heads"], vit["width"], 4 * vit["width"])
        model = torchvision.models.VisionTransformer(*sizes)
        model.heads = torch.nn.Identity()
        return model
    if vit["registers"]:
        return timm_model("vit_small_patch14_reg4_dinov2", dynamic_img_size=True)()
    size = {384: "small", 768: "base"}[vit["width"]]
    return timm_model(f"vit_{size}_patch16_224", dynamic_img_size=True)()


def pictures(folder: pathlib.Path, side: int) -> torch.Tensor:
    """PNGs that `passer features` resizes to themselves and crops; their normalised crops."""
    folder.mkdir()
    whole = -(-side * 8 // 7)
    generator = np.random.default_rng(0)
    crops = []
    for number in range(IMAGES):
        coarse = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((whole, whole), Image.Resampling.BICUBIC)
        image.save(folder / f"{number}.png")
        start = int(round((whole - side) / 2.0))
        pixels = np.asarray(image)[start : start + side, start : start + side]
        crops.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).double() / 255)
    images = torch.stack(crops)
    return (images - torch.tensor(MEAN).view(3, 1, 1).double()) / torch.tensor(STD).view(3, 1, 1).double()


def settled(model, side):
    """Statistics that are not those of an untouched network."""
    model.train()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(4, 3, side, side))
    return model.eval()


def main(passer: str, wanted: list[str]) -> None:
    torch.set_num_threads(2)
    worst = 0.0
    for name, (make, side, exports, wrap) in MODELS.items():
        if wanted and not any(text in name for text in wanted):
            continue
        torch.manual_seed(0)
        model = settled(make(), side)
        state = {k: v.clone() for k, v in model.state_dict().items()}
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            folder = pathlib.Path(scratch)
            images = pictures(folder / "images", side)
            float32 = model(images.float()).double()
            reference = model.double()(images)

            def error(features: torch.Tensor, reference: torch.Tensor = reference) -> float:
                return float((features.double() - reference).norm() / reference.norm())

            print(f"{name}: {side} px, PyTorch's float32 {error(float32):.1e}")

            def features(encoder: pathlib.Path, *more: str) -> torch.Tensor:
                out = folder / "features.safetensors"
                command = [passer, "features", "--device", "flex", "--encoder", encoder, "--data", folder / "images"]
                command += ["--out", out, "--size-px", str(side), "--batch-images", "4", *more]
                subprocess.run(command, check=True, capture_output=True)
                with safe_open(out, "pt") as file:
                    return file.get_tensor("pooled")

            def judge(what: str, value: float) -> None:
                nonlocal worst
                worst = max(worst, value)
                print(f"  {what:<44} {value:.1e}")
                if value > BOUND:
                    sys.exit(f"{what}: {value:.1e}, expected at most {BOUND:.0e}")

            files = {"zip": folder / "zip.pth", "legacy": folder / "legacy.pth", "safetensors": folder / "m.safetensors"}
            torch.save(state, files["zip"])
            torch.save(state, files["legacy"], _use_new_zipfile_serialization=False)
            save_file(state, files["safetensors"])
            if wrap:
                files[f"{wrap.__name__} checkpoint"] = folder / "checkpoint.pth.tar"
                torch.save(wrap(state), folder / "checkpoint.pth.tar")
            for kind, file in files.items():
                judge(f"passer features, {kind}", error(features(file)))
            for dtype, file in NARROW:
                narrow = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
                (save_file if file.endswith("safetensors") else torch.save)(narrow, folder / file)
                rounded = copy.deepcopy(model)
                rounded.load_state_dict(narrow)
                judge(f"passer features, {file}", error(features(folder / file), rounded(images)))

            for library in exports:
                converted = None
                for kind, file in files.items():
                    out = folder / f"{library}.safetensors"
                    out.unlink(missing_ok=True)
                    command = [passer, "weights", "convert", file, out, "--to", library]
                    subprocess.run(command, check=True, capture_output=True)
                    last, converted = converted, load_file(out)
                    alike = lambda: set(last) == set(converted) and all(torch.equal(last[k], converted[k]) for k in last)
                    if last is not None and not alike():
                        sys.exit(f"{library}, {kind}: other tensors than of the file before")
                theirs = library_model(library, name, out)
                theirs.load_state_dict(converted, strict=True)
                if library == name.split()[0]:
                    same = all(torch.equal(converted[k], v) for k, v in state.items() if v.is_floating_point())
                    if not same or set(converted) != set(state):
                        sys.exit(f"{library}: tensors differ")
                judge(f"--to {library}, strict, PyTorch's features", error(theirs.eval().double()(images)))
                judge(f"--to {library}, passer features", error(features(out)))
    print(f"worst {worst:.1e}, bound {BOUND:.0e}")


if __name__ == "__main__":
    default = pathlib.Path(__file__).resolve().parents[2] / "target/release/passer"
    arguments = sys.argv[1:] or [str(default)]
    main(arguments[0], arguments[1:])
