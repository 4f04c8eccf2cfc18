"""Fixture of crates/backbones: position embeddings brought to other grids, each as its authors do it.

    python scripts/parity/positions.py      # writes crates/backbones/fixtures/positions.safetensors

Needs torch, timm, torchvision, safetensors. The reference is `torch.nn.functional.interpolate` in float64 with each
author's arguments; timm and torchvision are called as well and must agree with it. What the authors' programs say:
MAE, `util/pos_embed.py`: `size=…, mode='bicubic', align_corners=False` (DeiT's `main.py` the same); DINO and iBOT,
`interpolate_pos_encoding`: `scale_factor=(size + 0.1) / side, mode='bicubic'`; DINOv2 the same, and with registers
`size=…, antialias=True` (its `interpolate_offset=0.0`).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from resnet import formula
from safetensors.numpy import save_file
from timm.layers import resample_abs_pos_embed
from torchvision.models.vision_transformer import interpolate_embeddings

FIXTURE = Path(__file__).resolve().parents[2] / "crates/backbones/fixtures/positions.safetensors"
WIDTH = 2
GRIDS = [(14, 6, 10), (14, 18, 32), (7, 7, 4), (3, 8, 2), (5, 1, 3), (1, 2, 4)]
HOW = {
    "antialiased": lambda x, rows, columns: F.interpolate(x, size=(rows, columns), mode="bicubic", antialias=True),
    "offset": lambda x, rows, columns: F.interpolate(
        x, scale_factor=((rows + 0.1) / x.shape[2], (columns + 0.1) / x.shape[3]), mode="bicubic"
    ),
    "bicubic": lambda x, rows, columns: F.interpolate(x, size=(rows, columns), mode="bicubic", align_corners=False),
    "aligned_corners": lambda x, rows, columns: F.interpolate(x, size=(rows, columns), mode="bicubic", align_corners=True),
}


def as_grid(places: torch.Tensor, side: int) -> torch.Tensor:
    return places.reshape(1, side, side, WIDTH).permute(0, 3, 1, 2)


def as_places(grid: torch.Tensor) -> torch.Tensor:
    return grid.permute(0, 2, 3, 1).flatten(1, 2)


def witnesses(places: torch.Tensor, side: int, rows: int, columns: int) -> None:
    """timm's and torchvision's own functions, in float32 where they insist."""
    ours = as_places(HOW["antialiased"](as_grid(places, side), rows, columns))
    theirs = resample_abs_pos_embed(places, [rows, columns], num_prefix_tokens=0)
    assert (rows * columns == side * side or torch.allclose(theirs.double(), ours, atol=1e-6)), "timm"
    # Squares alone.
    ours = as_places(HOW["aligned_corners"](as_grid(places, side), rows, rows))
    state = {"encoder.pos_embedding": torch.cat([torch.zeros(1, 1, WIDTH).double(), places], dim=1)}
    theirs = interpolate_embeddings(16 * rows, 16, state)["encoder.pos_embedding"][:, 1:]
    assert torch.allclose(theirs, ours, atol=1e-12), "torchvision"


if __name__ == "__main__":
    stored = {}
    for side in sorted({side for side, *_ in GRIDS}):
        stored[f"from{side}"] = formula(side, (1, side * side, WIDTH)).float()
    for side, rows, columns in GRIDS:
        places = stored[f"from{side}"].double()
        witnesses(places, side, rows, columns)
        for name, how in HOW.items():
            grid = how(as_grid(places, side), rows, columns)
            assert grid.shape[2:] == (rows, columns)
            stored[f"{name}.{side}.{rows}x{columns}"] = as_places(grid).float().contiguous()
    plain = lambda name: stored[f"{name}.14.6x10"]
    for name in HOW:
        distance = float((plain(name) - plain("antialiased")).norm() / plain("antialiased").norm())
        print(f"{name}: {distance:.2f} from antialiased, 14×14 to 6×10")
    save_file({name: tensor.numpy() for name, tensor in stored.items()}, FIXTURE)
