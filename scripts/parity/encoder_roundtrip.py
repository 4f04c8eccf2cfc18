"""Checks that torchvision and timm load an encoder file strictly and give the features that passer gives.

    python scripts/parity/encoder_roundtrip.py ENCODER.safetensors [FEATURES.safetensors]

Needs torch, torchvision, timm, safetensors. ENCODER holds a ResNet-18, -34, -50 or -101 at torchvision's width. Where
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


def main(encoder: str, features: str | None) -> None:
    state = load_file(encoder)
    with safe_open(encoder, "pt") as file:
        info = json.loads(file.metadata()["passer"])
    name = f"resnet{info['architecture']['resnet']['depth']}"

    networks = {
        "torchvision": torchvision.models.get_model(name, weights=None),
        "timm": timm.create_model(name, pretrained=False, num_classes=0),
    }
    networks["torchvision"].fc = torch.nn.Identity()
    given = load_file(features) if features else {"images": torch.randn(2, 3, 64, 64)}

    reference = given.get("features")
    for library, network in networks.items():
        network.load_state_dict(state, strict=True)
        with torch.no_grad():
            ours = network.eval()(given["images"])
        reference = ours if reference is None else reference
        error = float((ours - reference).norm() / reference.norm())
        print(f"{library} {name}: strict load, relative error {error:.1e}")
        if error > 1e-5:
            sys.exit(f"{library}'s features differ: {error:.1e}, expected at most 1e-5")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
