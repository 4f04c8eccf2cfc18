"""Makes the fixtures of crates/objectives/src/mae.rs: MAE's loss, first gradients, and twenty steps.

    python scripts/parity/mae.py

Written from He et al. 2021 (arXiv 2111.06377), not from its code; what the paper leaves open (the unbiased variance, 1e-6) is as in
Hugging Face's ViTMAEForPreTraining and lightly.

mae_reconstruction.json: the loss over a grid. With u(t, i) of formula.py, `made` = u(1) and `pixels` = 3 u(2), the last patch being
constant, are `[images, hidden, pixels]`; `gradient` is with respect to `made`, sampled.

mae.json: formula.py's record of a small timm VisionTransformer with fixed positions and a decoder of timm's blocks. Which patches
are visible are Passer's own draws: they lie in the fixture already (a test in crates/objectives/src/mae.rs holds them) and are read
from there. A second witness are lightly's MaskedVisionTransformerTIMM and MAEDecoderTIMM with the same weights: the script fails
where their loss differs.
"""

import json
import warnings

import torch
from lightly.models import utils
from timm.models.vision_transformer import Block
from torch import nn

from formula import FIXTURES, fill, record, relative, sample, u, views
from moco_v3 import VIT, sine_cosine, vit

# (images, hidden patches, pixels of a patch)
SHAPES = [(1, 1, 3), (2, 3, 12), (4, 12, 48), (2, 5, 768)]


def reconstruction(made, pixels, normalize):
    if normalize:
        mean = pixels.mean(-1, keepdim=True)
        variance = ((pixels - mean) ** 2).sum(-1, keepdim=True) / (pixels.shape[-1] - 1)
        pixels = (pixels - mean) / (variance + 1e-6).sqrt()
    return ((made - pixels) ** 2).mean()


def by_lightly(made, pixels, normalize):
    return nn.MSELoss()(made, utils.normalize_mean_var(pixels, dim=-1) if normalize else pixels)


def case(shape, normalize, dtype, loss_of):
    made = u(1, shape).to(dtype).requires_grad_()
    pixels = 3 * u(2, shape).to(dtype)
    pixels[-1, -1] = 0.5
    loss = loss_of(made, pixels, normalize)
    loss.backward()
    return loss.item(), sample(made.grad, 64)


def grid():
    cases = []
    for shape in SHAPES:
        for normalize in (False, True):
            loss, gradient = case(shape, normalize, torch.float64, reconstruction)
            witness = case(shape, normalize, torch.float64, by_lightly)
            assert relative([witness[0]], [loss]) < 1e-9 and relative(witness[1], gradient) < 1e-9, shape
            single = case(shape, normalize, torch.float32, reconstruction)
            errors = {"loss": relative([single[0]], [loss]), "gradient": relative(single[1], gradient)}
            made = {"shape": shape, "normalize": normalize}
            made["torch_float32_error"] = {name: float(f"{error:.1e}") for name, error in errors.items()}
            cases.append({**made, "loss": loss, "gradient": gradient})
    fixture = {"generator": "scripts/parity/mae.py", "torch": torch.__version__, "cases": cases}
    (FIXTURES / "mae_reconstruction.json").write_text(json.dumps(fixture).replace('{"shape"', '\n{"shape"') + "\n")
    print(f"mae_reconstruction.json: {len(cases)} cases")


class Decoder(nn.Module):
    """With the names of crates/objectives/src/mae.rs."""

    def __init__(self, features, width, depth, heads, patches, patch_px):
        super().__init__()
        self.embed = nn.Linear(features, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.norm = norm(width)
        self.pred = nn.Linear(width, 3 * patch_px**2)
        self.register_buffer("positions", sine_cosine(width, round(patches**0.5)))

    def forward(self, tokens, keep):
        """All patches' pixels, in the image's order: the paper's way."""
        tokens = self.embed(tokens)
        images, patches = len(tokens), self.positions.shape[1] - 1
        rows = []
        for image in range(images):
            row = [self.mask_token[0, 0]] * patches
            for place, patch in enumerate(keep[image].tolist()):
                row[patch] = tokens[image, 1 + place]
            rows.append(torch.stack([tokens[image, 0], *row]))
        return self.pred(self.norm(self.blocks(torch.stack(rows) + self.positions)))[:, 1:]


def norm(width, **placement):
    return nn.LayerNorm(width, eps=1e-6, **placement)


def encode(encoder, images, keep):
    """timm's network on the visible patches alone."""
    tokens = encoder.patch_embed(images) + encoder.pos_embed[:, 1:]
    visible = torch.stack([row[patches] for row, patches in zip(tokens, keep, strict=True)])
    first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(images), -1, -1)
    return encoder.norm(encoder.blocks(torch.cat([first, visible], 1)))


def patches_of(images, side):
    """`[images, patches, side * side * 3]`."""
    rows = [torch.cat(part.split(side, 3)) for part in images.split(side, 2)]  # [columns * images, 3, side, side] each
    count = len(images)
    cut = [row.reshape(-1, count, *row.shape[1:]).transpose(0, 1) for row in rows]
    return torch.cat(cut, 1).permute(0, 1, 3, 4, 2).flatten(2)


def hidden_of(values, keep):
    """The rows of each image that are not kept."""
    rest = [[p for p in range(values.shape[1]) if p not in patches] for patches in keep.tolist()]
    return torch.stack([row[patches] for row, patches in zip(values, rest, strict=True)])


def loss_of_lightly(encoder, decoder, images, keep, config, side):
    """The same by lightly's classes."""
    from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    masked = MaskedVisionTransformerTIMM(encoder, weight_initialization="skip", pos_embed_initialization="skip")
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = MAEDecoderTIMM(
            encoder.patch_embed.num_patches,
            side,
            embed_dim=encoder.features,
            decoder_embed_dim=config["decoder_width"],
            decoder_depth=config["decoder_depth"],
            decoder_num_heads=config["decoder_heads"],
        ).double()
    names = {"decoder_embed": "embed", "decoder_blocks": "blocks", "decoder_norm": "norm", "decoder_pred": "pred"}
    ours = dict(decoder.state_dict())
    ours["decoder_pos_embed"] = ours.pop("positions")
    theirs.load_state_dict({next((n + k[len(o) :] for n, o in names.items() if k.startswith(o)), k): v for k, v in ours.items()})
    keep = torch.cat([torch.zeros(len(keep), 1, dtype=torch.long), keep + 1], 1)
    rest = torch.tensor([[p for p in range(theirs.decoder_pos_embed.shape[1]) if p not in row] for row in keep.tolist()])
    tokens = utils.repeat_token(theirs.mask_token, (len(images), theirs.decoder_pos_embed.shape[1]))
    tokens = utils.set_at_index(tokens, keep, theirs.embed(masked.encode(images, idx_keep=keep)))
    made = theirs.predict(utils.get_at_index(theirs.decode(tokens), rest))
    target = utils.get_at_index(utils.patchify(images, side), rest - 1)
    return by_lightly(made, target, config["normalize_pixels"])


def build(settings):
    config, shape = settings["objective"], settings["backbone"]["vit"]
    side = shape["patch_px"]

    def make(dtype):
        encoder = vit(*(shape[key] for key in ("width", "depth", "heads", "patch_px", "image_px")))
        sizes = (config[key] for key in ("decoder_width", "decoder_depth", "decoder_heads"))
        decoder = Decoder(encoder.features, *sizes, encoder.patch_embed.num_patches, side)
        parameters = fill({"backbone": encoder, "decoder": decoder})
        encoder, decoder = encoder.to(dtype), decoder.to(dtype)

        def loss(views, step):
            images, keep = views[0], torch.tensor(settings["keep"][step])
            made = hidden_of(decoder(encode(encoder, images, keep), keep), keep)
            value = reconstruction(made, hidden_of(patches_of(images, side), keep), config["normalize_pixels"])
            if dtype == torch.float64 and step < 2:
                witness = loss_of_lightly(encoder, decoder, images, keep, config, side)
                assert relative([witness.item()], [value.item()]) < 1e-12, (witness, value)
            return value

        return parameters, loss, lambda step: None, lambda step: []

    return make


SETTINGS = {
    "backbone": {"vit": {**VIT["backbone"]["vit"], "initialization": "mae"}},
    "objective": {
        "mask_ratio": 0.75,
        "decoder_width": 12,
        "decoder_depth": 2,
        "decoder_heads": 3,
        "normalize_pixels": True,
    },
    "learning_rate": 0.02,
    "steps": 20,
    "steps_per_epoch": 20,
    "images": 8,
    "views": [[1, 16]],
    "batch_norm_images": None,
    "momentum": 0.9,
    "weight_decay": 1e-4,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    grid()
    keep = json.loads((FIXTURES / "mae.json").read_text())["settings"]["keep"]
    record("mae", {**SETTINGS, "keep": keep}, build({**SETTINGS, "keep": keep}))
