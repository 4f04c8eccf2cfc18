"""Fixtures of crates/backbones: what timm's vision transformers give for weights made by formula.

    python scripts/parity/vit.py            # writes crates/backbones/fixtures/vit_*.safetensors

Needs torch, timm, lightly, safetensors. As in resnet.py, weights and inputs are made by `formula` on both sides, and
everything is computed in float64 from weights rounded to float32; beside each value lies PyTorch's own float32 error.
"""

import math
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from lightly.models.utils import get_2d_sine_cosine_positional_embedding
from resnet import formula
from safetensors.numpy import save_file
from timm.models.vision_transformer import VisionTransformer

FIXTURES = Path(__file__).resolve().parents[2] / "crates/backbones/fixtures"
SAMPLES = 8  # stored elements of a gradient
IMAGES = 2


def fill(model) -> None:
    """Gives each parameter the values that `parity/vit.rs` gives it."""
    state = model.state_dict()
    for number, name in enumerate(sorted(state)):
        tensor = state[name]
        values = formula(number, tensor.shape)
        if name.endswith(("cls_token", "pos_embed", "reg_token")):
            values *= 0.5
        elif tensor.dim() > 1:  # variance 2 / fan-in
            values *= math.sqrt(6.0 / math.prod(tensor.shape[1:]))
        elif name.endswith("weight"):  # around 1
            values = 1.0 + 0.5 * values
        else:
            values *= 0.2
        tensor.copy_(values.float())


def images(height: int, width: int) -> torch.Tensor:
    return formula(1000, (IMAGES, 3, height, width)).float()


def loss(outputs) -> torch.Tensor:
    """Each output times a formula, summed: nothing cancels."""
    return sum((output * formula(2000 + i, output.shape).to(output.dtype)).sum() for i, output in enumerate(outputs))


def gradients(model, extra=()) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | {name: p.grad for name, p in extra}


def packed(exact: dict[str, torch.Tensor], float32: dict[str, torch.Tensor]) -> np.ndarray:
    """A row for each gradient in the order of the sorted names: samples, norm, float32's error."""
    rows = []
    for name in sorted(exact):
        flat = exact[name].double().flatten()
        picked = [flat[i * len(flat) // min(SAMPLES, len(flat))] for i in range(min(SAMPLES, len(flat)))]
        picked += [torch.zeros((), dtype=flat.dtype)] * (SAMPLES - len(picked))
        error = (float32[name].double().flatten() - flat).norm() / flat.norm()
        rows.append([float(v) for v in picked] + [float(flat.norm()), float(error)])
    return np.array(rows, dtype=np.float32)


def compare(stored: dict, key: str, make, run, with_gradients: bool) -> None:
    """Runs `run(model, dtype)`, which gives named outputs and further leaves, in both precisions; stores outputs and gradients."""
    results = []
    for dtype in (torch.float64, torch.float32):
        model = make()
        with torch.no_grad():
            fill(model)
        model.to(dtype).eval()
        outputs, leaves = run(model, dtype)
        if with_gradients:
            loss(outputs.values()).backward()
        results.append((outputs, gradients(model, leaves) if with_gradients else {}))
    (exact, exact_gradients), (float32, float32_gradients) = results
    for name, value in exact.items():
        error = float(((float32[name].double() - value).norm() / value.norm()).detach())
        stored[f"{key}.{name}" if name else key] = value.detach().numpy().astype(np.float32)
        print(f"  {key} {name}: std {float(value.std()):.3g}, float32's error {error:.1e}")
    if with_gradients:
        stored[f"{key}.gradients"] = packed(exact_gradients, float32_gradients)
        worst = stored[f"{key}.gradients"][:, -1]
        name = sorted(exact_gradients)[int(worst.argmax())]
        print(f"  {key}: {len(worst)} gradients, float32's worst error {worst.max():.1e} ({name})")


def network(name: str, timm_name: str, sizes, **arguments) -> None:
    """Pooled features at several sizes; gradients at the first and the last."""
    print(name)
    stored = {}
    make = lambda: timm.create_model(timm_name, pretrained=False, num_classes=0, dynamic_img_size=True, **arguments)
    for number, (height, width) in enumerate(sizes):
        run = lambda model, dtype: ({"": model(images(height, width).to(dtype))}, ())
        compare(stored, f"{height}x{width}", make, run, number in (0, len(sizes) - 1))
    save_file(stored, FIXTURES / f"{name}.safetensors")


class OffsetViT(VisionTransformer):
    """Position embeddings brought to the image's grid as DINO does: bicubic, by a scale a tenth of a patch too large."""

    def _pos_embed(self, x):
        batch, rows, columns, width = x.shape
        side = self.patch_embed.grid_size[0]
        places = self.pos_embed[:, 1:].reshape(1, side, side, width).permute(0, 3, 1, 2)
        scale = ((rows + 0.1) / side, (columns + 0.1) / side)
        places = F.interpolate(places, scale_factor=scale, mode="bicubic")
        assert places.shape[2:] == (rows, columns)
        places = places.permute(0, 2, 3, 1).reshape(1, rows * columns, width)
        x = x.reshape(batch, rows * columns, width) + places
        return torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(batch, -1, -1), x], dim=1)


NARROW = dict(img_size=64, patch_size=16, embed_dim=48, depth=3, num_heads=4, num_classes=0)


def interfaces() -> None:
    """All ways into a narrow transformer: offset positions, mean pooling, masked tokens, visible patches, blocks, maps."""
    print("vit_narrow")
    stored = {}
    dynamic = dict(dynamic_img_size=True)
    forward = lambda height, width: lambda model, dtype: ({"": model(images(height, width).to(dtype))}, ())
    compare(stored, "offset", lambda: OffsetViT(**NARROW, **dynamic), forward(48, 112), True)
    pooled = lambda: VisionTransformer(**NARROW, **dynamic, global_pool="avg", fc_norm=False, init_values=0.1)
    compare(stored, "mean", pooled, forward(64, 32), True)
    registers = dict(reg_tokens=3, no_embed_class=True, init_values=0.1)

    mask = formula(3000, (IMAGES, 16)) > 0.2
    keep = torch.tensor([[3, 0, 15, 7, 8], [9, 1, 2, 14, 4]])

    def masked(model, dtype):
        token = (0.5 * formula(3001, (48,))).float().to(dtype).requires_grad_()
        x = model.patch_embed(images(64, 64).to(dtype))
        x = torch.where(mask[..., None], token, x)
        x = model.norm(model.blocks(model._pos_embed(x)))
        outputs = {"class": x[:, 0], "patches": x[:, model.num_prefix_tokens:]}
        return outputs, [("~mask_token", token)]  # sorts last

    def visible(model, dtype):
        x = model._pos_embed(model.patch_embed(images(64, 64).to(dtype)))
        prefix, patches = x[:, : model.num_prefix_tokens], x[:, model.num_prefix_tokens:]
        patches = patches.gather(1, keep[..., None].expand(-1, -1, 48))
        return {"": model.norm(model.blocks(torch.cat([prefix, patches], dim=1)))}, ()

    def blocks(model, dtype):
        outputs = {}
        layers = model.get_intermediate_layers(images(64, 64).to(dtype), n=2, return_prefix_tokens=True, norm=True)
        for number, (patches, prefix) in enumerate(layers):
            outputs |= {f"class{number}": prefix[:, 0], f"mean{number}": patches.mean(dim=1)}
        return outputs, ()

    def maps(model, dtype):
        seen = []
        attention = model.blocks[-1].attn
        attention.fused_attn = False  # so that the weights pass through its dropout
        hook = attention.attn_drop.register_forward_hook(lambda _, arguments, __: seen.append(arguments[0]))
        with torch.no_grad():
            model(images(64, 64).to(dtype))
        hook.remove()
        return {"": seen[0]}, ()

    for key, arguments in (("plain", {}), ("registers", registers)):
        make = lambda: VisionTransformer(**NARROW, **arguments)
        compare(stored, f"masked.{key}", make, masked, True)
        compare(stored, f"visible.{key}", make, visible, True)
        compare(stored, f"blocks.{key}", make, blocks, False)
        compare(stored, f"maps.{key}", make, maps, False)

    # MAE has the column's channels first, MoCo-v3 the row's.
    columns_first = get_2d_sine_cosine_positional_embedding(embed_dim=48, grid_size=3, cls_token=True)
    stored["sine_cosine"] = np.concatenate([columns_first[:, 24:], columns_first[:, :24]], axis=1).astype(np.float32)
    save_file(stored, FIXTURES / "vit_narrow.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(2)
    FIXTURES.mkdir(exist_ok=True)
    interfaces()
    network("vit_small_patch16", "vit_small_patch16_224", [(224, 224), (96, 96), (160, 288)])
    network("vit_base_patch16", "vit_base_patch16_224", [(224, 224), (96, 96), (160, 288)])
    # In the published grid, so that none of these sizes is the native one.
    network("vit_small_patch14_reg4", "vit_small_patch14_reg4_dinov2", [(224, 224), (98, 98), (154, 280)])
