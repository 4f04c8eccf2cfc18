"""Makes the fixtures of crates/objectives/src/moco_v3.rs: MoCo-v3's loss, first gradients, and twenty steps.

    python scripts/parity/moco_v3.py

Written from Chen, Xie, He 2021 (arXiv 2104.02057), algorithm 1, not from its code.

moco_v3_contrast.json: one side of the loss over a grid. With u(t, i) of formula.py, `queries` = u(1) and `keys` = u(1) / 2 + u(2)
are `[images, width]`, `others` (keys of other replicas) = u(3); rows are then brought to length 1. `gradient` is with respect to the
queries as they were before that, sampled. A second witness is lightly's NTXentLoss with a memory bank, query by query: its
positive is the query's key, its bank all other keys; the script fails where the two differ.

moco_v3_resnet.json, moco_v3_vit.json: formula.py's record of a narrow ResNet-18, and of a small timm VisionTransformer with the
paper's fixed positions, whose patch embedding's gradients are dropped.
"""

import copy
import json

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from formula import FIXTURES, Mlp, fill, record, relative, sample, u
from moco import resnet

# (images, width, keys of other replicas)
SHAPES = [(2, 4, 0), (8, 16, 0), (8, 16, 24), (32, 64, 0), (32, 256, 96)]
TEMPERATURES = [0.07, 0.2, 1.0]


def contrast(queries, keys, every, temperature):
    """The paper's `ctr`: cross-entropy against all keys, times 2 temperature; rows of length 1."""
    logits = queries @ every.T / temperature
    return 2 * temperature * F.cross_entropy(logits, torch.arange(len(queries)))


def by_lightly(queries, keys, every, temperature):
    from lightly.loss import NTXentLoss

    losses = []
    for index in range(len(queries)):
        bank = torch.cat([every[:index], every[index + 1 :]])
        loss = NTXentLoss(temperature=temperature, memory_bank_size=tuple(bank.shape)).double()
        loss.memory_bank.bank = bank if loss.memory_bank.bank.shape == bank.shape else bank.T.clone()
        losses.append(loss(queries[index : index + 1], keys[index : index + 1]))
    return 2 * temperature * torch.stack(losses).mean()


def case(images, width, others, temperature, dtype, loss_of):
    queries = u(1, (images, width)).to(dtype).requires_grad_()
    keys = F.normalize((u(1, (images, width)) / 2 + u(2, (images, width))).to(dtype), dim=1)
    every = torch.cat([keys, F.normalize(u(3, (others, width)).to(dtype), dim=1)])
    loss = loss_of(F.normalize(queries, dim=1), keys, every, temperature)
    loss.backward()
    return loss.item(), sample(queries.grad, 64)


def grid():
    cases = []
    for images, width, others in SHAPES:
        for temperature in TEMPERATURES:
            inputs = (images, width, others, temperature)
            loss, gradient = case(*inputs, torch.float64, contrast)
            witness = case(*inputs, torch.float64, by_lightly)
            assert relative([witness[0]], [loss]) < 1e-9 and relative(witness[1], gradient) < 1e-9, inputs
            single = case(*inputs, torch.float32, contrast)
            made = {"images": images, "width": width, "others": others, "temperature": temperature}
            errors = {"loss": relative([single[0]], [loss]), "gradient": relative(single[1], gradient)}
            made["torch_float32_error"] = {name: float(f"{error:.1e}") for name, error in errors.items()}
            cases.append({**made, "loss": loss, "gradient": gradient})
    fixture = {"generator": "scripts/parity/moco_v3.py", "torch": torch.__version__, "cases": cases}
    (FIXTURES / "moco_v3_contrast.json").write_text(json.dumps(fixture).replace('{"images"', '\n{"images"') + "\n")
    print(f"moco_v3_contrast.json: {len(cases)} cases")


def sine_cosine(width, grid):
    """The paper's fixed positions, nothing for the class token: sine and cosine of the row, then of the column."""
    frequencies = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = (place.flatten()[:, None] * frequencies for place in torch.meshgrid(*[torch.arange(grid)] * 2, indexing="ij"))
    places = torch.cat([row.sin(), row.cos(), column.sin(), column.cos()], 1)
    return torch.cat([torch.zeros(1, width), places])[None].float()


def vit(width, depth, heads, patch_px, image_px):
    """timm's network with fixed positions."""
    made = VisionTransformer(image_px, patch_px, num_classes=0, embed_dim=width, depth=depth, num_heads=heads)
    made.pos_embed.requires_grad_(False).copy_(sine_cosine(width, image_px // patch_px))
    made.features = width
    return made


class Encoder(torch.nn.Module):
    def __init__(self, backbone, projector):
        super().__init__()
        self.backbone, self.projector = backbone, projector

    def forward(self, images):
        return self.projector(self.backbone(images))


def build(settings):
    config = settings["objective"]

    def mlp(inputs, layers, output_norm):
        hidden = [config["hidden_width"]] * (layers - 1)
        return Mlp(inputs, hidden, config["embedding_width"], True, False, False, output_norm, settings["batch_norm_images"])

    def make(dtype):
        (kind, shape), *_ = settings["backbone"].items()
        if kind == "vit":
            backbone = vit(*(shape[key] for key in ("width", "depth", "heads", "patch_px", "image_px")))
        else:
            backbone = resnet(shape["depth"], shape["width"], shape["stem"], settings["batch_norm_images"])
        encoder = Encoder(backbone, mlp(backbone.features, config["projector_layers"], "plain"))
        predictor = mlp(config["embedding_width"], 2, "plain" if config["predictor_output_norm"] else None)
        parameters = fill({"backbone": backbone, "projector": encoder.projector, "predictor": predictor})
        encoder, predictor = encoder.to(dtype).train(), predictor.to(dtype).train()
        teacher = copy.deepcopy(encoder).requires_grad_(False)

        def loss(views, step):
            first, second = views[0].chunk(2)
            queries = [F.normalize(predictor(encoder(view)), dim=1) for view in (first, second)]
            keys = [F.normalize(teacher(view), dim=1) for view in (first, second)]
            sides = (contrast(queries[a], keys[b], keys[b], config["temperature"]) for a, b in ((0, 1), (1, 0)))
            return sum(sides)

        def after(step):
            # The paper's teacher moves before its forward pass, with that step's momentum: here, with the next step's.
            start, end, done = config["momentum"], config["momentum_end"], (step + 1) / settings["steps"]
            momentum = end + 0.5 * (start - end) * (1 + torch.tensor(torch.pi * done, dtype=torch.float64).cos().item())
            for t, s in zip(teacher.parameters(), encoder.parameters(), strict=True):
                t.mul_(momentum).add_(s, alpha=1 - momentum)

        frozen = ["backbone.patch_embed"] if config["freeze_patch_embedding"] else []
        return parameters, loss, after, lambda step: frozen

    return make


COMMON = {
    "steps": 20,
    "steps_per_epoch": 20,
    "images": 16,
    "views": [[2, 16]],
    "batch_norm_images": None,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}
RESNET = {
    "backbone": {"resnet": {"depth": 18, "width": 4, "stem": "small"}},
    "objective": {
        "projector_layers": 2,
        "hidden_width": 32,
        "embedding_width": 16,
        "predictor_output_norm": False,
        "temperature": 1.0,
        "momentum": 0.9,
        "momentum_end": 1.0,
        "freeze_patch_embedding": False,
    },
    "learning_rate": 0.0001,
    **COMMON,
}
VIT = {
    "backbone": {
        "vit": {
            "width": 16,
            "depth": 2,
            "heads": 4,
            "patch_px": 4,
            "image_px": 16,
            "position": "sine_cosine",
            "interpolation": "antialiased",
            "registers": 0,
            "drop_path": 0.0,
            "pooling": "class_token",
            "initialization": "moco_v3",
        }
    },
    "objective": {
        "projector_layers": 3,
        "hidden_width": 32,
        "embedding_width": 16,
        "predictor_output_norm": True,
        "temperature": 0.2,
        "momentum": 0.9,
        "momentum_end": 1.0,
        "freeze_patch_embedding": True,
    },
    "learning_rate": 0.002,
    **COMMON,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    grid()
    for name, settings in (("moco_v3_resnet", RESNET), ("moco_v3_vit", VIT)):
        record(name, settings, build(settings), script="moco_v3")
