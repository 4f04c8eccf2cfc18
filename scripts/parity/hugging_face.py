"""Files of Hugging Face Transformers and timm as they save them, with their features of images.

    python scripts/parity/hugging_face.py [FOLDER]       # default: crates/weights/fixtures

Needs torch, torchvision, timm, transformers, safetensors, pytorch-lightning. It writes

1. `layouts/transformers-*` and `layouts/timm-vit-fc-norm.pth`: every weight a formula of its name (`layouts.values`), by
   Transformers' names; each is loaded into Transformers' own model, which must find every name;
2. `features/NAME.json` with the `config.json` and `preprocessor_config.json` that the library wrote and its float64
   features of `features/images.safetensors` (two images per size), and `features/NAME.safetensors.gz`: random weights,
   rounded to f16 before the features are computed. Passer's features must agree to 1e-5.

Features are the class token after the last norm (ViT, MAE, DINOv2), the pooled output (ResNet) and timm's own. Beside
each the script prints PyTorch's float32 error, and how far features are off with the epsilon 1e-6 instead of the file's.
"""

import copy
import gzip
import json
import pathlib
import sys
import tempfile
from collections import OrderedDict

import timm
import torch
import transformers
from safetensors.torch import load_file, save, save_file

from layouts import FIXTURES, head, packed, resnet, shared, values, vit

BLOCK = {
    "attn.proj": "attention.output.dense",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
# In memory since version 5.
MEMORY = BLOCK | {"attn.proj": "attention.o_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
DINOV2 = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1", "ls2.gamma": "layer_scale2.lambda1"}
TOP = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def theirs(state, block, prefix="", memory=False) -> OrderedDict:
    """timm's names as Transformers': queries, keys and values apart."""
    out = OrderedDict()
    layer, parts = ("layers", ["attention.q_proj", "attention.k_proj", "attention.v_proj"]) if memory else (
        "encoder.layer", [f"attention.attention.{name}" for name in ("query", "key", "value")]
    )
    for name, tensor in state.items():
        if not name.startswith("blocks."):
            out[prefix + TOP[name]] = tensor
            continue
        _, number, rest = name.split(".", 2)
        if rest.startswith("attn.qkv."):
            for part, third in zip(parts, tensor.chunk(3)):
                out[f"{prefix}{layer}.{number}.{part}.{rest.removeprefix('attn.qkv.')}"] = third.contiguous()
            continue
        for ours, name in block.items():
            rest = rest.replace(ours, name, 1) if rest.startswith(ours) else rest
        out[f"{prefix}{layer}.{number}.{rest}"] = tensor
    return out


def stages(state) -> OrderedDict:
    """torchvision's names of a ResNet as Transformers'."""
    out = OrderedDict()
    for name, tensor in state.items():
        parts = name.split(".")
        kind = {"conv": "convolution", "bn": "normalization"}
        if len(parts) == 2:
            out[f"resnet.embedder.embedder.{kind[parts[0][:-1]]}.{parts[1]}"] = tensor
            continue
        place = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}."
        if parts[2] == "downsample":
            place += "shortcut." + ["convolution", "normalization"][int(parts[3])]
        else:
            place += f"layer.{int(parts[2][-1]) - 1}.{kind[parts[2][:-1]]}"
        out[f"{place}.{parts[-1]}"] = tensor
    return out


NARROW = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4)
MAE = dict(decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2, decoder_intermediate_size=16)


def layouts() -> dict:
    """File name: the names and values, and the model of Transformers that must take them all."""
    dinov2 = vit(init_values=1e-5)
    registers = vit(init_values=1e-5, reg_tokens=4, no_embed_class=True)
    # The test adds this to the class token's own values.
    registers["pos_embed"] = torch.cat([values("class position", (1, 1, 32)), registers["pos_embed"]], 1)
    mask = {"embeddings.mask_token": torch.zeros(1, 32)}
    mae = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(intermediate_size=128, **NARROW, **MAE))
    with tempfile.TemporaryDirectory() as folder:
        mae.save_pretrained(folder)
        decoder = load_file(f"{folder}/model.safetensors")
    decoder = {name: torch.zeros_like(tensor) for name, tensor in decoder.items() if name.startswith("decoder.")}
    classifier = {"classifier.weight": torch.zeros(2, 32), "classifier.bias": torch.zeros(2)}
    sizes = dict(embedding_size=2, hidden_sizes=[8, 16, 32, 64], depths=[3, 4, 6, 3], layer_type="bottleneck", num_labels=2)
    fully = {"classifier.1.weight": torch.zeros(2, 64), "classifier.1.bias": torch.zeros(2)}
    return {
        "transformers-vit.safetensors": (
            theirs(vit(), BLOCK, "vit.") | classifier,
            transformers.ViTForImageClassification(transformers.ViTConfig(intermediate_size=128, num_labels=2, **NARROW)),
        ),
        "transformers-vit-mae.safetensors": (theirs(vit(), BLOCK, "vit.") | decoder, mae),
        "transformers-dinov2.safetensors": (
            theirs(dinov2, DINOV2) | mask, transformers.Dinov2Model(transformers.Dinov2Config(**NARROW)),
        ),
        "transformers-dinov2-registers.safetensors": (
            theirs(registers, DINOV2) | mask,
            transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**NARROW)),
        ),
        "transformers-resnet.safetensors": (
            stages(resnet(depth=50, share=False)) | fully,
            transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)),
        ),
    }


def check(name: str, state, model) -> None:
    """That Transformers loads the file without a missing or an unexpected name."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        save_file(state, f"{folder}/model.safetensors", {"format": "pt"})
        _, report = type(model).from_pretrained(folder, output_loading_info=True)
        faults = {key: value for key, value in report.items() if value}
        if faults:
            sys.exit(f"{name}: {faults}")


def write_layouts(folder: pathlib.Path) -> None:
    for name, (state, model) in layouts().items():
        check(name, state, model)
        (folder / f"{name}.gz").write_bytes(packed(name, state))
    memory = theirs(vit(), MEMORY, memory=True) | head("pooler.dense.", ["weight", "bias"])
    mine = set(transformers.ViTModel(transformers.ViTConfig(intermediate_size=128, **NARROW)).state_dict())
    if mine != set(memory):
        sys.exit(f"names in memory: {mine ^ set(memory)}")
    (folder / "transformers-vit-memory.pth.gz").write_bytes(packed("transformers-vit-memory.pth", shared(memory)))
    mean = vit(global_pool="avg")
    # `filled` gives each weight the value of its name in timm; ours is `norm`.
    mean |= {f"fc_norm.{end}": values(f"norm.{end}", (32,)) for end in ("weight", "bias")}
    (folder / "timm-vit-fc-norm.pth.gz").write_bytes(packed("timm-vit-fc-norm.pth", {"model": mean | head("head.", ["weight"])}))


# --- features

SMALL = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, image_size=16, patch_size=4)
BASIC = dict(embedding_size=2, hidden_sizes=[2, 4, 8, 16], depths=[2, 2, 2, 2], layer_type="basic")
DEEP = dict(embedding_size=2, hidden_sizes=[8, 16, 32, 64], depths=[3, 4, 6, 3], layer_type="bottleneck")
HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


def token(model, images):
    return model(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]


def dinov2_token(model, images):
    return model(images).last_hidden_state[:, 0]


def mae_token(model, images):
    return model.vit(images, interpolate_pos_encoding=True).last_hidden_state[:, 0]


def pooled(model, images):
    return model(images).pooler_output.flatten(1)


NETWORKS = {
    "vit": (lambda: transformers.ViTModel(transformers.ViTConfig(intermediate_size=64, **SMALL)), token, [16, 24, 8], HALF),
    "vit_msn": (lambda: transformers.ViTMSNModel(transformers.ViTMSNConfig(intermediate_size=64, **SMALL)), token, [16, 24], {}),
    "vit_mae": (
        lambda: transformers.ViTMAEForPreTraining(
            transformers.ViTMAEConfig(intermediate_size=64, mask_ratio=0.0, **SMALL, **MAE)
        ),
        mae_token, [16, 24, 8], {},
    ),
    "dinov2": (lambda: transformers.Dinov2Model(transformers.Dinov2Config(**SMALL)), dinov2_token, [16, 24, 8], {}),
    "dinov2_with_registers": (
        lambda: transformers.Dinov2WithRegistersModel(transformers.Dinov2WithRegistersConfig(**SMALL)),
        dinov2_token, [16, 24, 8], {},
    ),
    "resnet18": (lambda: transformers.ResNetModel(transformers.ResNetConfig(**BASIC)), pooled, [32], {}),
    "resnet50": (lambda: transformers.ResNetModel(transformers.ResNetConfig(**DEEP)), pooled, [32], {}),
    "timm_vit_mean": (
        lambda: timm.models.VisionTransformer(
            img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=4, num_classes=0, global_pool="avg",
            dynamic_img_size=True,
        ),
        lambda model, images: model(images), [16, 24, 8], None,
    ),
}


def settled(model) -> None:
    """Random weights that round to f16, and statistics that are not those of an untouched network."""
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = 0.05 * torch.randn(tensor.shape)
        if name.endswith("running_var"):
            noise = 0.2 * torch.rand(tensor.shape)
        elif "position_embeddings" in name or name.endswith("cls_token"):
            # As small as in an untrained network, so that an epsilon shows.
            noise = 0.01 * torch.randn(tensor.shape)
            tensor.zero_()
        tensor.copy_((tensor + noise).half().float())


def config_of_timm() -> dict:
    """As `timm.save_for_hf` writes it."""
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 4}
    images = {"input_size": [3, 16, 16], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "fixed_input_size": True}
    return {
        "architecture": "vit_tiny_patch16_224", "num_classes": 0, "num_features": 16, "global_pool": "avg",
        "model_args": arguments, "pretrained_cfg": images,
    }


def write_features(folder: pathlib.Path) -> None:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    sides = sorted({side for _, _, sides, _ in NETWORKS.values() for side in sides})
    images = {str(side): torch.randn(2, 3, side, side).half() for side in sides}
    (folder / "images.safetensors.gz").write_bytes(gzip.compress(save(images), 9, mtime=0))
    for name, (make, features, sides, preprocessor) in NETWORKS.items():
        torch.manual_seed(1)
        model = make().eval()
        with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
            settled(model)
            if preprocessor is None:
                config, state = config_of_timm(), model.half().state_dict()
                model = model.float()
                state = {key: tensor.half().contiguous() for key, tensor in state.items()}
            else:
                copy.deepcopy(model).half().save_pretrained(scratch)
                config = json.loads(pathlib.Path(scratch, "config.json").read_text())
                state = load_file(f"{scratch}/model.safetensors")
            double = copy.deepcopy(model).double()
            other = copy.deepcopy(double)
            for module in other.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.eps = 1e-6
            wanted, single, off = {}, 0.0, 0.0
            for side in sides:
                pixels = images[str(side)]
                exact = features(double, pixels.double())
                error = lambda found: float((found.double() - exact).norm() / exact.norm())
                single = max(single, error(features(model, pixels.float())))
                off = max(off, error(features(other, pixels.double())))
                wanted[str(side)] = exact.tolist()
        print(f"{name}: PyTorch's float32 {single:.1e}, with epsilon 1e-6 {off:.1e}")
        about = {"config": config, "preprocessor": preprocessor, "features": wanted, "float32": single}
        (folder / f"{name}.json").write_text(json.dumps(about) + "\n")
        (folder / f"{name}.safetensors.gz").write_bytes(gzip.compress(save(state, {"format": "pt"}), 9, mtime=0))


def main(folder: pathlib.Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, timm {timm.__version__}")
    (folder / "layouts").mkdir(parents=True, exist_ok=True)
    write_layouts(folder / "layouts")
    write_features(folder / "features")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES.parent)
