"""Tiny checkpoints in every layout that `crates/weights/src/layouts.rs` knows, and hostile ones.

    python scripts/parity/layouts.py [FOLDER]       # default: crates/weights/fixtures/layouts

Needs torch, torchvision, timm, lightly's Lightning, safetensors. They stand in for the files of the methods' authors,
which cannot be committed: names, nesting and the values beside the weights are theirs, networks are narrow, and every
weight is a formula of its name (`values`), so that a test knows what each must be. A layout's source:

- moco, moco_v3, swav, dino, dinov2, mae, simsiam, barlow_twins: the authors' repositories, their `torch.save` calls
- vissl: `extra_scripts/convert_vissl_to_torchvision.py` of VISSL
- solo_learn, lightly: their modules' attributes, in a Lightning checkpoint
- dino-alone: `torch.save(ckpt["teacher"])` of a DINO run; lightly-plain: lightly's loops without Lightning, which save a
  module of a `backbone`; lightly-dino, lightly-ibot: lightly's DINO and iBOT modules, on torchvision's ResNet and on
  timm's ViT (`MaskedVisionTransformerTIMM`); lightly-parameters: `{"resnet18_parameters": ...}` as lightly's docs save it
- lightning-model: a Lightning module with its network under `model`; net, model-state-dict: training scripts
- PASS: MoCo and SwAV as their authors' runs, DINO without `backbone.` (before May 2021), CLD's two heads
"""

import argparse
import gzip
import io
import pathlib
import sys
import zlib
from collections import OrderedDict

import numpy as np
import timm
import torch
import torchvision
from pytorch_lightning.utilities.parsing import AttributeDict
from safetensors.torch import save as save_safetensors

from resnet import NarrowResNet

FIXTURES = pathlib.Path(__file__).resolve().parents[2] / "crates/weights/fixtures/layouts"


def values(name: str, shape, part: str = "student") -> torch.Tensor:
    """Sixteenths that a name, a part and an index tell apart; exact in every float type; 17 in a row, so they pack."""
    seed = zlib.crc32(f"{part}/{name}".encode())
    count = int(np.prod(shape, dtype=np.int64))
    index = (np.arange(count, dtype=np.uint64) + seed) % 17
    index = index + 1 if name.endswith("running_var") else index.astype(np.int64) - 8
    return torch.from_numpy((index / 16).astype(np.float32).reshape(shape))


def filled(model: torch.nn.Module, part="student", rename=lambda name: name) -> OrderedDict:
    """A state dict with the formula's values, by the names that Passer gives them."""
    state = OrderedDict()
    for name, tensor in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1234)
        else:
            state[name] = values(rename(name), tensor.shape, part)
    return state


class Imagenet(NarrowResNet):
    """A narrow ResNet with the 7x7 stem."""

    def __init__(self, block, layers, width):
        super().__init__(block, layers, width)
        self.conv1 = torch.nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.fc = torch.nn.Linear(8 * width * block.expansion, 4)


def resnet(part="student", depth=18, small=False, share=True) -> OrderedDict:
    block, layers = {
        18: (torchvision.models.resnet.BasicBlock, [2, 2, 2, 2]),
        50: (torchvision.models.resnet.Bottleneck, [3, 4, 6, 3]),
    }[depth]
    make = NarrowResNet if small else Imagenet
    state = filled(make(block, layers, 2), part)
    state = OrderedDict((k, v) for k, v in state.items() if not k.startswith("fc."))
    return shared(state) if share else state


def vit(part="student", **more) -> OrderedDict:
    network = timm.models.VisionTransformer(
        img_size=8, patch_size=4, embed_dim=32, depth=2, num_heads=2, num_classes=0, **more
    )
    return filled(network, part)


def shared(state) -> OrderedDict:
    """The same tensors as views of one storage, which keeps fixtures small and has offsets in it."""
    floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
    whole = torch.cat([tensor.flatten() for tensor in floats])
    parts = iter(whole.split([tensor.numel() for tensor in floats]))
    views = {name: next(parts).view(tensor.shape) for name, tensor in state.items() if tensor.is_floating_point()}
    count = torch.tensor(1234)
    return OrderedDict((name, views.get(name, count)) for name in state)


def prefixed(state, prefix) -> OrderedDict:
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


def head(prefix: str, names: list[str]) -> OrderedDict:
    return OrderedDict((prefix + name, torch.ones(3)) for name in names)


def chunked(state) -> OrderedDict:
    """DINOv2's `blocks.<chunk>.<block>.`, one block a chunk."""
    renamed = OrderedDict()
    for name, tensor in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            parts.insert(1, parts[1])
        renamed[".".join(parts)] = tensor
    return renamed


def with_optimizer(state) -> dict:
    """An optimizer's state as training saves it: tensors under whole numbers."""
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.03, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    return {**state, "optimizer": optimizer.state_dict()}


MLP = ["0.weight", "0.bias", "2.weight", "2.bias"]
DINO_HEAD = ["mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias", "last_layer.weight_g", "last_layer.weight_v"]


def moco(heads: list[str], **more) -> dict:
    state = OrderedDict()
    for part, name in [("student", "encoder_q"), ("teacher", "encoder_k")]:
        state |= prefixed(resnet(part), f"module.{name}.") | head(f"module.{name}.", heads)
    state |= {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return with_optimizer({"epoch": 200, "arch": "resnet18", "state_dict": state, **more})


def moco_v3(network, keyword: str) -> dict:
    state = OrderedDict()
    names = [f"{keyword}.{name}" for name in ("0.weight", "1.weight", "1.bias", "1.running_mean", "3.weight")]
    for part, name in [("student", "base_encoder"), ("teacher", "momentum_encoder")]:
        state |= prefixed(network(part), f"module.{name}.") | head(f"module.{name}.", names)
    state |= head("module.predictor.", ["0.weight", "1.running_var", "3.weight"])
    return with_optimizer({"epoch": 300, "arch": "vit", "state_dict": state, "scaler": {"scale": 65536.0}})


def swav() -> OrderedDict:
    heads = head("", ["projection_head.0.weight", "projection_head.1.running_mean", "projection_head.3.bias"])
    return prefixed(resnet() | heads | {"prototypes.weight": torch.ones(3, 4)}, "module.")


def dino(network, backbone: str, ddp_teacher: bool) -> dict:
    heads = head("head.", DINO_HEAD)
    student, teacher = (prefixed(network(part), backbone) | heads for part in ("student", "teacher"))
    args = argparse.Namespace(arch="vit_small", lr=0.0005, output_dir=pathlib.PurePosixPath("runs"), local_crops_scale=(0.05, 0.4))
    state = {
        "student": prefixed(student, "module."),
        "teacher": prefixed(teacher, "module.") if ddp_teacher else teacher,
        "epoch": 100,
        "args": args,
        "dino_loss": OrderedDict(center=torch.zeros(1, 4)),
    }
    return with_optimizer(state | {"fp16_scaler": {"scale": 65536.0, "_growth_tracker": 0}})


def dinov2(registers: int) -> OrderedDict:
    """The authors' own names: the class token has a position, registers are `register_tokens`."""
    state = vit(init_values=1e-5, reg_tokens=registers, no_embed_class=registers > 0)
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        # The test adds this to the class token's own values.
        state["pos_embed"] = torch.cat([values("class position", (1, 1, 32)), state["pos_embed"]], 1)
    return state | {"mask_token": torch.zeros(1, 32)}


def dinov2_teacher() -> dict:
    heads = head("dino_head.", DINO_HEAD) | head("ibot_head.", DINO_HEAD)
    return {"teacher": prefixed(chunked(dinov2(0)), "backbone.") | heads}


def mae() -> dict:
    decoder = ["decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.weight", "decoder_pred.bias"]
    args = argparse.Namespace(model="mae_vit_base_patch16", mask_ratio=0.75)
    state = vit() | head("", decoder) | {"mask_token": torch.zeros(1, 1, 32)}
    return with_optimizer({"model": state, "epoch": 399, "scaler": {}, "args": args})


def vissl(prefix: str) -> dict:
    trunk = prefixed(resnet(), prefix)
    model = {"model": {"trunk": trunk, "heads": head("0.clf.", MLP)}, "meters": {}}
    state = {"base_model": model, "loss": OrderedDict(), "optimizer": {}, "train": True}
    return {"phase_idx": 99, "iteration": 1000, "loss": np.float64(6.5), "type": "consolidated", "classy_state_dict": state}


def lightning(state, **more) -> dict:
    return {
        "epoch": 399,
        "global_step": 1000,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": "runs"}},
        "hparams_name": "kwargs",
        "hyper_parameters": AttributeDict(lr=0.3, data=pathlib.PurePosixPath("data"), device=torch.device("cpu")),
        **more,
    }


def solo_learn() -> dict:
    state = prefixed(resnet(), "backbone.") | prefixed(resnet("teacher"), "momentum_backbone.")
    for name in ("projector", "momentum_projector", "predictor", "classifier"):
        state |= head(f"{name}.", MLP[:2])
    return lightning(state)


def sequential(state, prefix: str) -> OrderedDict:
    """torchvision's children in `nn.Sequential(*list(resnet.children())[:-1])`: numbers for names."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    renamed = OrderedDict()
    for name, tensor in state.items():
        first, rest = name.split(".", 1)
        renamed[f"{prefix}{numbers[first]}.{rest}"] = tensor
    return renamed


def lightly() -> dict:
    state = sequential(resnet(), "backbone.") | sequential(resnet("teacher"), "backbone_momentum.")
    state |= head("projection_head.layers.", MLP) | head("projection_head_momentum.layers.", MLP)
    return lightning(state)


def lightly_plain() -> OrderedDict:
    """MoCo in plain PyTorch: torchvision's network, its classifier an `Identity`, and its moving average."""
    state = prefixed(resnet(), "backbone.") | prefixed(resnet("teacher"), "backbone_momentum.")
    return state | head("projection_head.layers.", MLP) | head("projection_head_momentum.layers.", MLP)


def lightly_pair(network, inside: str) -> dict:
    state = OrderedDict()
    for part in ("student", "teacher"):
        state |= prefixed(network(part), f"{part}_backbone.{inside}") | head(f"{part}_head.layers.", MLP)
        if inside:
            state |= {f"{part}_backbone.mask_token": torch.zeros(1, 1, 32)}
    return lightning(state)


# torchvision's names of a ViT's parameters, as `layouts.rs` maps them.
TORCHVISION_VIT = [
    ("class_token", "cls_token"),
    ("conv_proj.", "patch_embed.proj."),
    ("encoder.pos_embedding", "pos_embed"),
    ("encoder.layers.encoder_layer_", "blocks."),
    ("self_attention.in_proj_", "attn.qkv."),
    ("self_attention.out_proj.", "attn.proj."),
    ("ln_1.", "norm1."),
    ("ln_2.", "norm2."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.3.", "mlp.fc2."),
    ("encoder.ln.", "norm."),
]


def torchvision_vit() -> OrderedDict:
    network = torchvision.models.VisionTransformer(8, 4, 2, 2, 32, 128, num_classes=3)

    def ours(name: str) -> str:
        for theirs, timms in TORCHVISION_VIT:
            name = name.replace(theirs, timms)
        return name

    return filled(network, rename=ours)


def layouts() -> dict:
    """File name: what is saved."""
    cast = lambda state, dtype: OrderedDict((k, v.to(dtype) if v.is_floating_point() else v) for k, v in state.items())
    classifier = head("fc.", ["weight", "bias"])
    return {
        "torchvision-resnet.pth": resnet(share=False) | classifier,
        "torchvision-resnet-legacy.pth": resnet(share=False) | classifier,
        "torchvision-resnet50-f64.pth": cast(resnet(depth=50), torch.float64),
        "training-script-legacy.pth": with_optimizer(
            {"epoch": 90, "arch": "resnet18", "state_dict": prefixed(resnet() | classifier, "module."), "best_acc1": torch.tensor(70.0)}
        ),
        "small-stem.safetensors": resnet(small=True, share=False),
        "timm-vit.safetensors": cast(vit() | head("head.", ["weight", "bias"]), torch.bfloat16),
        "timm-vit-registers.pth": vit(init_values=1e-5, reg_tokens=4, no_embed_class=True),
        "torchvision-vit.pth": torchvision_vit(),
        "moco-v1.pth.tar": moco(["fc.weight", "fc.bias"]),
        "moco-v2-legacy.pth.tar": moco([f"fc.{name}" for name in MLP]),
        "pass-cld.pth.tar": moco([f"fc.{name}" for name in MLP[:2]] + ["instDis.weight", "groupDis.weight"]),
        "moco-v3-vit.pth.tar": moco_v3(vit, "head"),
        "moco-v3-resnet.pth.tar": moco_v3(resnet, "fc"),
        "swav-flat-legacy.pth.tar": swav(),
        "swav-nested.pth.tar": with_optimizer({"epoch": 200, "state_dict": swav(), "amp": {"loss_scaler0": {"loss_scale": 1.0}}}),
        "dino-vit.pth": dino(vit, "backbone.", False),
        "dino-resnet.pth": dino(resnet, "backbone.", True),
        "pass-dino.pth.tar": dino(vit, "", False),
        "dino-backbone-f16-legacy.pth": cast(vit(), torch.float16),
        "dinov2.pth": dinov2(0),
        "dinov2-registers.pth": dinov2(4),
        "dinov2-teacher.pth": dinov2_teacher(),
        "mae.pth": mae(),
        "mae-backbone.pth": {"model": vit()},
        "simsiam.pth.tar": {
            "epoch": 100,
            "state_dict": prefixed(resnet(), "module.encoder.")
            | head("module.encoder.fc.", MLP)
            | head("module.predictor.", MLP),
        },
        "barlow-twins.pth": {
            "epoch": 1000,
            "model": prefixed(prefixed(resnet(), "backbone.") | head("", ["projector.0.weight", "bn.running_mean"]), "module."),
        },
        "vissl.torch": vissl("_feature_blocks."),
        "vissl-wrapped-legacy.torch": vissl("base_model._feature_blocks."),
        "solo-learn.ckpt": solo_learn(),
        "lightly.ckpt": lightly(),
        "dino-alone.pth": prefixed(vit("teacher"), "backbone.") | head("head.", DINO_HEAD),
        "lightly-plain.pth": lightly_plain(),
        "lightly-parameters.pth": {"resnet18_parameters": sequential(resnet(), "")},
        "lightly-dino.ckpt": lightly_pair(resnet, ""),
        "lightly-ibot.ckpt": lightly_pair(vit, "vit."),
        "lightning-model.ckpt": lightning(prefixed(resnet() | classifier, "model.")),
        "net.pth": {"net": resnet() | classifier, "acc": 93.5, "epoch": 199},
        "model-state-dict.pth": {"model": {"state_dict": vit() | head("head.", ["weight", "bias"])}},
        "whole-module.pth": None,
    }


def packed(name: str, what) -> bytes:
    file = io.BytesIO()
    if name.endswith(".safetensors"):
        file.write(save_safetensors(what))
    elif name == "whole-module.pth":
        network = Imagenet(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], 2)
        state = resnet() | {name: torch.ones_like(tensor) for name, tensor in network.state_dict().items() if "fc" in name}
        network.load_state_dict(state)
        torch.save(network, file)
    else:
        torch.save(what, file, _use_new_zipfile_serialization="legacy" not in name)
    return gzip.compress(file.getvalue(), 9, mtime=0)


def main(folder: pathlib.Path) -> None:
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, what in layouts().items():
        data = packed(name, what)
        (folder / f"{name}.gz").write_bytes(data)
        total += len(data)
        print(f"{len(data):7} {name}")
    print(f"{total:7} bytes in all")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES)
