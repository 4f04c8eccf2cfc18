"""Checks that torchvision and timm load an encoder file strictly and give the features that passer gives.

    python scripts/parity/encoder_roundtrip.py ENCODER.safetensors [FEATURES.safetensors]

Needs torch, torchvision, timm, safetensors. ENCODER holds a ResNet-18, -34, -50 or -101 at torchvision's width, or a
vision transformer, which timm alone loads. The example `encoder_file` of crates/weights writes both files. Where
FEATURES is given (tensors `images` [n, 3, h, w] and `features` [n, width]), both libraries' features must be
passer's within 1e-5 relative L2 error; without it, torchvision and timm are compared with each other.
"""

import json
import sys

import timm
import torch
import torchvision
from safetensors import safe_open
from safetensors.torch import load_file


def resnets(config: dict) -> dict[str, torch.nn.Module]:
    name = f"resnet{config['depth']}"
    networks = {
        "torchvision": torchvision.models.get_model(name, weights=None),
        "timm": timm.create_model(name, pretrained=False, num_classes=0),
    }
    networks["torchvision"].fc = torch.nn.Identity()
    return networks


def transformers(config: dict) -> dict[str, torch.nn.Module]:
    """timm's own model of that name where it has one, so that nothing is said of it but the image's size."""
    sizes = {(192, 12, 3): "tiny", (384, 12, 6): "small", (768, 12, 12): "base", (1024, 24, 16): "large"}
    size = sizes.get((config["width"], config["depth"], config["heads"]))
    scale, registers = config.get("layer_scale"), config["registers"]
    name = f"vit_{size}_patch{config['patch_px']}"
    name += f"_reg{registers}" if registers else ""
    name += "_dinov2" if scale else "_224"
    arguments = dict(img_size=config["image_px"], dynamic_img_size=True, num_classes=0)
    if config["pooling"] == "mean":
        arguments |= dict(global_pool="avg", fc_norm=False)
    if name in timm.list_models():
        return {f"timm's {name}": timm.create_model(name, pretrained=False, **arguments)}
    network = timm.models.vision_transformer.VisionTransformer(
        patch_size=config["patch_px"], embed_dim=config["width"], depth=config["depth"], num_heads=config["heads"],
        init_values=scale, reg_tokens=registers, no_embed_class=registers > 0, **arguments)
    return {"timm's VisionTransformer": network}


def main(encoder: str, features: str | None) -> None:
    state = load_file(encoder)
    with safe_open(encoder, "pt") as file:
        info = json.loads(file.metadata()["passer"])
    [(family, config)] = info["architecture"].items()
    networks = resnets(config) if family == "resnet" else transformers(config)
    given = load_file(features) if features else {"images": torch.randn(2, 3, 112, 224)}

    reference = given.get("features")
    for library, network in networks.items():
        network.load_state_dict(state, strict=True)
        with torch.no_grad():
            ours = network.eval()(given["images"])
        reference = ours if reference is None else reference
        error = float((ours - reference).norm() / reference.norm())
        print(f"{library}, {family}: strict load, relative error {error:.1e}")
        if error > 1e-5:
            sys.exit(f"{library}'s features differ: {error:.1e}, expected at most 1e-5")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
