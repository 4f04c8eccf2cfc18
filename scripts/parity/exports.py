"""Checks that timm, Transformers and onnxruntime open what `passer weights export` writes, with the same features.

    python scripts/parity/exports.py PASSER [NAME …]       # PASSER: the program; NAME: only networks whose names hold one

Needs torch, torchvision, timm, transformers, safetensors, onnx, onnxruntime, pillow. For each network (random weights, none
as initialized) it saves a file as torchvision, timm or Transformers does, lets PASSER export it to each target, opens the
folder with the target's own library, and compares features with the original network's in float64. `onnx.checker` checks
each ONNX file, which runs on one and on three images, with normalization outside and inside. A target that must refuse a
network must refuse it. The bound is 1e-5 (f16: 2e-2), relative L2 error over all images.

Without a NAME it also writes `crates/weights/fixtures/exports.json` from the small networks of `hugging_face.py`: the SHA-256 of each ONNX file
that passed here and onnxruntime's outputs, so that tests without Python know both.
"""

import copy
import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
import timm
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import load, save_file

FIXTURES = pathlib.Path(__file__).parents[2] / "crates/weights/fixtures"
BOUND, HALF_BOUND = 1e-5, 2e-2
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """The network with every parameter and running statistic moved. Branches of bottlenecks are small, as in trained networks:
    else a hundred layers of random weights exceed the largest number of f16."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith(("bn3.weight", "layer.2.normalization.weight")):
                tensor.uniform_(0.1, 0.4)
            elif tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.02)
    return network.eval()


def small_stem() -> torch.nn.Module:
    network = torchvision.models.resnet18()
    network.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    network.maxpool, network.fc = torch.nn.Identity(), torch.nn.Identity()
    return network


def classless(network: torch.nn.Module) -> torch.nn.Module:
    network.fc = torch.nn.Identity()
    return network


def vit(**arguments) -> torch.nn.Module:
    return timm.models.VisionTransformer(num_classes=0, **arguments)


def networks() -> dict:
    """Name: the network, the side of its images, arguments of PASSER, and the targets that refuse it."""
    create = lambda name, **more: timm.create_model(name, pretrained=False, num_classes=0, **more)
    tiny = dict(img_size=64, patch_size=8, embed_dim=192, depth=12, num_heads=3)
    narrow = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2], layer_type="basic")
    bottleneck = transformers.ResNetConfig(
        embedding_size=32, hidden_sizes=[128, 256, 512, 1024], depths=[3, 4, 6, 3], layer_type="bottleneck")
    epsilon = transformers.ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
    return {
        "ResNet-18": (classless(torchvision.models.resnet18()), 128, [], []),
        "ResNet-34": (classless(torchvision.models.resnet34()), 128, [], []),
        "ResNet-50": (classless(torchvision.models.resnet50()), 128, [], []),
        "ResNet-101": (classless(torchvision.models.resnet101()), 128, [], []),
        "ResNet-18, width 16": (transformers.ResNetModel(narrow), 128, [], ["timm"]),
        "ResNet-50, width 32": (transformers.ResNetModel(bottleneck), 128, [], ["timm"]),
        "ResNet-18, 3x3 stem": (small_stem(), 32, ["--backbone", "resnet18-small"], ["timm", "transformers"]),
        "ViT-Ti/16": (create("vit_tiny_patch16_224"), 224, [], []),
        "ViT-S/16": (create("vit_small_patch16_224"), 224, [], []),
        "ViT-B/16": (create("vit_base_patch16_224"), 224, [], []),
        "ViT-S/14, layer scale": (create("vit_small_patch14_dinov2", img_size=224), 224, [], []),
        "ViT-S/14, layer scale, 4 registers": (create("vit_small_patch14_reg4_dinov2", img_size=224), 224, [], []),
        "ViT-Ti/8, 2 registers": (vit(**tiny, reg_tokens=2, no_embed_class=True), 64, [], []),
        "ViT-Ti/8, mean": (vit(**tiny, global_pool="avg", fc_norm=False), 64, [], []),
        "ViT-Ti/8, mean then norm": (vit(**tiny, global_pool="avg"), 64, [], ["transformers"]),
        "ViT-Ti/16, epsilon 1e-12": (transformers.ViTModel(epsilon, add_pooling_layer=False), 224, [], ["timm"]),
    }


def has_mean(network: torch.nn.Module) -> bool:
    """Whether it is a ViT of timm's whose feature is the mean of its normalized patches, which its names do not show."""
    return isinstance(network, timm.models.VisionTransformer) and network.global_pool == "avg" and isinstance(
        network.fc_norm, torch.nn.Identity)


def features_of(network: torch.nn.Module, images: torch.Tensor, mean: bool = False) -> torch.Tensor:
    """The pooled features, of a network of any library; `mean`: those that a model card of Transformers tells to take."""
    with torch.no_grad():
        if mean and isinstance(network, transformers.PreTrainedModel):
            return network(images).last_hidden_state[:, 1:].mean(1)
        if isinstance(network, transformers.ResNetModel):
            return network(images).pooler_output.flatten(1)
        if isinstance(network, transformers.PreTrainedModel):
            output = network(images)
            return output.last_hidden_state[:, 0] if output.last_hidden_state.dim() == 3 else output.pooler_output
        return network(images)


def tokens_of(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor | None:
    with torch.no_grad():
        if isinstance(network, transformers.PreTrainedModel):
            hidden = network(images).last_hidden_state
            return hidden if hidden.dim() == 3 else None
        if isinstance(network, timm.models.VisionTransformer):
            # Where the norm is behind the mean, the exported tokens have it, timm's do not.
            return (network.norm if network.fc_norm.__class__ is torch.nn.Identity else network.fc_norm)(
                network.forward_features(images)) if network.norm.__class__ is torch.nn.Identity else network.forward_features(images)
    return None


def error(ours, reference: torch.Tensor) -> float:
    ours = torch.as_tensor(np.asarray(ours)).double()
    if ours.shape != reference.shape:
        sys.exit(f"shape {tuple(ours.shape)}, expected {tuple(reference.shape)}")
    return float((ours - reference).norm() / reference.norm())


def export(passer: str, source: pathlib.Path, out: pathlib.Path, *arguments: str) -> str | None:
    """The folder's path, or the reason of a refusal."""
    done = subprocess.run([passer, "weights", "export", source, "--out", out, *arguments], capture_output=True, text=True)
    if done.returncode == 1:
        return done.stderr
    if done.returncode:
        sys.exit(done.stderr)
    return None


def opened(target: str, folder: pathlib.Path) -> torch.nn.Module:
    if target == "timm":
        return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = json.loads((folder / "config.json").read_text())
    arguments = {"add_pooling_layer": False} if config["model_type"] == "vit" else {}
    network, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True, **arguments)
    faults = {key: value for key, value in report.items() if value}
    if faults:
        sys.exit(f"{folder}: {faults}")
    return network.eval()


def run_onnx(folder: pathlib.Path, images: np.ndarray) -> dict:
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images})))


def check(passer: str, name: str, case, folder: pathlib.Path) -> dict:
    network, side, arguments, refusing = case
    network = shaken(network)
    source = folder / "source"
    if isinstance(network, transformers.PreTrainedModel):
        network.save_pretrained(source)
    else:
        source.mkdir()
        if has_mean(network):
            config = {"architecture": "vit_tiny_patch16_224", "num_classes": 0, "global_pool": "avg",
                      "model_args": {"fc_norm": False, "patch_size": 8, "img_size": side},
                      "pretrained_cfg": {"mean": MEAN, "std": STD}}
            (source / "config.json").write_text(json.dumps(config))
        source = source / "model.safetensors"
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, source, {"format": "pt"})
    raw = torch.rand(3, 3, side, side)
    # Transformers' folders without a preprocessor, and the rows of torchvision and timm, have ImageNet's statistics.
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    images = (raw - mean) / std
    exact = copy.deepcopy(network).double()
    reference, tokens = features_of(exact, images.double()), tokens_of(exact, images.double())
    row = {"own f32": error(features_of(network, images), reference)}
    for target in ("timm", "transformers"):
        out = folder / target
        refused = export(passer, source, out, "--to", target, "--size-px", str(side), *arguments)
        if (refused is not None) != (target in refusing):
            sys.exit(f"{name}, {target}: {refused or 'exported'}")
        if refused is not None:
            row[target] = None
            continue
        theirs = opened(target, out)
        mean_of = has_mean(network)
        row[target] = error(features_of(theirs, images, mean_of), reference)
        # The same weights to the bit.
        double = error(features_of(theirs.double(), images.double(), mean_of), reference)
        if double > 1e-6:
            sys.exit(f"{name}, {target}: {double:.1e} in float64")
        if target == "timm":
            wrapped = transformers.AutoModel.from_pretrained(out).eval()
            with torch.no_grad():
                row["AutoModel of timm"] = error(wrapped(images).pooler_output, reference)
    for which, more, given, bound in (
        ("onnx", [], images, BOUND),
        ("onnx, normalizes", ["--normalize", "inside"], raw, BOUND),
        ("onnx, f16", ["--dtype", "f16"], images, HALF_BOUND),
    ):
        out = folder / which
        refused = export(passer, source, out, "--to", "onnx", "--size-px", str(side), *more, *arguments)
        if refused:
            sys.exit(f"{name}, {which}: {refused}")
        outputs = run_onnx(out, given.numpy())
        row[which] = error(outputs["embedding"], reference)
        alone = run_onnx(out, given[:1].numpy())
        row[which] = max(row[which], error(alone["embedding"], reference[:1]))
        if tokens is not None:
            row[which] = max(row[which], error(outputs["tokens"], tokens))
        if row[which] > bound:
            sys.exit(f"{name}, {which}: {row[which]:.1e}")
    wrong = {key: value for key, value in row.items() if value and value > BOUND and "f16" not in key}
    if wrong:
        sys.exit(f"{name}: {wrong}")
    return row


def check_images(passer: str, folder: pathlib.Path) -> None:
    """That the libraries prepare a photo alike: the whole picture up to 64 px, else its center."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)).resize((500, 400))
    source = folder / "source.safetensors"
    save_file(dict(shaken(vit(img_size=64, patch_size=8, embed_dim=192, depth=1, num_heads=3)).state_dict()), source)
    for side in (64, 96, 224):
        prepared = []
        for target in ("timm", "transformers"):
            out = folder / f"{target}-{side}"
            if refused := export(passer, source, out, "--to", target, "--size-px", str(side)):
                sys.exit(refused)
            if target == "timm":
                model = timm.create_model(f"local-dir:{out}", pretrained=True)
                transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
                prepared.append(transform(photo)[None])
            else:
                processor = transformers.AutoImageProcessor.from_pretrained(out)
                prepared.append(processor(photo, return_tensors="pt")["pixel_values"])
        difference = error(prepared[0], prepared[1].double())
        print(f"a photo at {side} px: timm's and Transformers' inputs differ by {difference:.1e}")
        if difference > 0.03 or prepared[0].shape[-1] != side:
            sys.exit("they prepare it differently")


def fixture(passer: str, folder: pathlib.Path) -> None:
    images = load(gzip.decompress((FIXTURES / "features/images.safetensors.gz").read_bytes()))
    written = {}
    for name in ("vit", "dinov2", "dinov2_with_registers", "resnet18", "resnet50", "timm_vit_mean"):
        about = json.loads((FIXTURES / f"features/{name}.json").read_text())
        source, out = folder / name, folder / f"{name}-onnx"
        source.mkdir()
        (source / "model.safetensors").write_bytes(
            gzip.decompress((FIXTURES / f"features/{name}.safetensors.gz").read_bytes()))
        (source / "config.json").write_text(json.dumps(about["config"]))
        if about["preprocessor"]:
            (source / "preprocessor_config.json").write_text(json.dumps(about["preprocessor"]))
        side = "32" if name.startswith("resnet") else "16"
        if refused := export(passer, source, out, "--to", "onnx", "--size-px", side):
            sys.exit(refused)
        outputs = run_onnx(out, images[side].float().numpy())
        reference = torch.tensor(about["features"][side], dtype=torch.float64)
        off = error(outputs["embedding"], reference)
        if off > BOUND:
            sys.exit(f"{name}: {off:.1e}")
        digest = hashlib.sha256((out / "model.onnx").read_bytes()).hexdigest()
        written[name] = {"side": side, "sha256": digest, "embedding": outputs["embedding"].tolist()}
    (FIXTURES / "exports.json").write_text(json.dumps(written) + "\n")


def main(passer: str, *wanted: str) -> None:
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        if not wanted:
            fixture(passer, scratch)
            check_images(passer, scratch)
        columns = ["own f32", "timm", "AutoModel of timm", "transformers", "onnx", "onnx, normalizes", "onnx, f16"]
        print("| network | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for number, (name, case) in enumerate(networks().items()):
            if wanted and not any(part in name for part in wanted):
                continue
            own = scratch / str(number)
            own.mkdir()
            row = check(passer, name, case, own)
            cells = (row.get(column) for column in columns)
            print(f"| {name} | " + " | ".join("refused" if cell is None else f"{cell:.1e}" for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
