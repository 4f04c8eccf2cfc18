"""An encoder in, a torch module of timm or torchvision out."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from passer_vision import _program
from passer_vision._errors import PasserError, require
from passer_vision._safetensors import header

if TYPE_CHECKING:
    from torch import nn

#: Whose classes an encoder is loaded into.
Library = Literal["timm", "torchvision"]

_OTHER_WAYS = "ONNX has every network: `passer weights export … --to onnx`"


def load_encoder(
    path: str | os.PathLike[str], library: Library = "timm", *, options: Sequence[str] = ()
) -> nn.Module:
    """Loads an encoder into a module of timm or torchvision, in eval mode, on the CPU.

    The module takes normalized images ``[batch, 3, height, width]`` and returns features ``[batch, width]``. Its attribute
    ``pretrained_cfg`` has ``mean``, ``std`` and ``input_size``, for both libraries as timm has them, so that
    ``timm.data.resolve_model_data_config(model)`` prepares images for either.

    Args:
        path: a run directory, an encoder file, or other programs' weights, as `passer weights inspect` reads them.
        library: whose classes. torchvision's ViT has no registers and no layer scale.
        options: further options of `passer weights export` or `convert`, as in ``["--backbone", "vit_small_patch16"]``.

    Raises:
        PasserError: the program's message: the file is no encoder, or the library has no such network.
        ImportError: the library is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no encoder `{path}`")
    if library == "timm":
        return _timm(path, options)
    if library == "torchvision":
        return _torchvision(path, options)
    raise ValueError(f"`library` must be 'timm' or 'torchvision', got {library!r}")


def _timm(path: Path, options: Sequence[str]) -> nn.Module:
    timm = require("timm", "load_encoder(…, 'timm')", "timm")
    with tempfile.TemporaryDirectory(prefix="passer-") as scratch:
        folder = Path(scratch) / "encoder"
        _program.call(["weights", "export", path, "--to", "timm", "--out", folder, *options])
        model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def _torchvision(path: Path, options: Sequence[str]) -> nn.Module:
    torchvision = require("torchvision", "load_encoder(…, 'torchvision')", "torchvision")
    load = require("safetensors.torch", "load_encoder(…, 'torchvision')", "torchvision").load_file
    with tempfile.TemporaryDirectory(prefix="passer-") as scratch:
        file = Path(scratch) / "encoder.safetensors"
        _program.call(["weights", "convert", path, file, "--to", "torchvision", *options])
        about = header(file).json_entry("passer") or {}
        model: nn.Module = _network(about.get("architecture", {}), path, torchvision)
        model.load_state_dict(load(file), strict=True)
    side = about["pixels"]
    # As the program prepares photos: up to 64 px the whole picture, above the center of 8/7 of the size.
    whole = side <= 64
    cfg = {
        "input_size": (3, side, side),
        "mean": tuple(about["mean"]),
        "std": tuple(about["std"]),
        "interpolation": "bilinear",
        "crop_pct": 1.0 if whole else 0.875,
        "crop_mode": "squash" if whole else "center",
    }
    # A module takes any attribute; its type does not say so.
    setattr(model, "pretrained_cfg", cfg)
    return model.eval()


def _network(architecture: dict[str, Any], path: Path, torchvision: Any) -> Any:
    """torchvision's class for an architecture, with initial weights and without a classifier.

    Raises:
        PasserError: torchvision has none.
    """
    from torch import nn

    if resnet := architecture.get("resnet"):
        depth, width, stem = resnet["depth"], resnet["width"], resnet["stem"]
        if width != 64 or stem != "imagenet":
            reason = f"its width is {width}, its stem `{stem}`; theirs are 64 and `imagenet`"
            raise PasserError(f"encoder `{path}`: torchvision has no such ResNet-{depth}: {reason}", _OTHER_WAYS)
        model = getattr(torchvision.models, f"resnet{depth}")()
        model.fc = nn.Identity()
        return model
    if vit := architecture.get("vit"):
        if vit.get("pooling", "class_token") != "class_token":
            reason = f"its features are `{vit['pooling']}`, torchvision's the class token"
            raise PasserError(f"encoder `{path}`: torchvision has no such ViT: {reason}", _OTHER_WAYS)
        model = torchvision.models.VisionTransformer(
            image_size=vit["image_px"],
            patch_size=vit["patch_px"],
            num_layers=vit["depth"],
            num_heads=vit["heads"],
            hidden_dim=vit["width"],
            mlp_dim=4 * vit["width"],
            norm_layer=functools.partial(nn.LayerNorm, eps=vit.get("norm_epsilon") or 1e-6),
        )
        model.heads = nn.Identity()
        return model
    raise PasserError(f"`{path}` is not an encoder of torchvision's ResNets or ViTs", _OTHER_WAYS)
