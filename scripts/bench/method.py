"""Times training steps of DINO, SwAV, SimCLR, BYOL or MAE in PyTorch on the CPU from one of Passer's configs, to compare with Passer's.

    python scripts/bench/method.py configs/pretrain/dino-vit-small-16-pass.toml --batch 4 --count 2=4 [--threads 2] [--steps 6]

Prints one JSON object as moco_resnet50.py does. Networks, losses and optimizers are those of scripts/parity/curve.py, MAE's
lightly's; a step is normalising u8 views, all networks, loss, backward, optimizer and teacher. Images are noise; making views is not timed.
"""

import argparse
import pathlib
import sys
import time
import tomllib

import torch

from report import report

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "parity"))
import curve  # noqa: E402
from curve import METHODS, Method, by_size  # noqa: E402
from moco_v3 import vit  # noqa: E402


class Mae(Method):
    """lightly's encoder and decoder around timm's network."""

    def build(self):
        from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM

        shape = self.config["backbone"]["vit"]
        self.side = shape["patch_px"]
        network = vit(*(shape[key] for key in ("width", "depth", "heads", "patch_px", "image_px")))
        self.patches = network.patch_embed.num_patches
        self.encoder = MaskedVisionTransformerTIMM(network, weight_initialization="skip", pos_embed_initialization="skip")
        self.decoder = MAEDecoderTIMM(
            self.patches,
            self.side,
            embed_dim=shape["width"],
            decoder_embed_dim=self.own["decoder_width"],
            decoder_depth=self.own["decoder_depth"],
            decoder_num_heads=self.own["decoder_heads"],
        )
        self.student = [self.encoder, self.decoder]

    def loss(self, groups, step):
        from lightly.models import utils

        images, tokens = groups[0], self.patches + 1
        keep, hidden = utils.random_token_mask((len(images), tokens), self.own["mask_ratio"])
        full = utils.repeat_token(self.decoder.mask_token, (len(images), tokens))
        full = utils.set_at_index(full, keep, self.decoder.embed(self.encoder.encode(images, idx_keep=keep)).type_as(full))
        made = self.decoder.predict(utils.get_at_index(self.decoder.decode(full), hidden))
        target = utils.get_at_index(utils.patchify(images, self.side), hidden - 1)
        return torch.nn.functional.mse_loss(made, utils.normalize_mean_var(target, dim=-1))


class Larc(torch.optim.SGD):
    """SGD whose gradients are first brought to a part of each parameter's norm, as SwAV trains."""

    def __init__(self, parameters, own):
        super().__init__(parameters, lr=0.0, momentum=own["momentum"])
        self.trust = own["trust"]

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    decay = group["weight_decay"]
                    factor = self.trust * p.norm() / (p.grad.norm() + decay * p.norm() + 1e-8)
                    p.grad.add_(p, alpha=decay).mul_(factor)
            decay, group["weight_decay"] = group["weight_decay"], 0.0
            super().step()
            group["weight_decay"] = decay


def optimizer_of(config, modules, plain=curve.optimizer_of):
    (name, own), *_ = config["optimizer"].items()
    if name != "lars":
        return plain(config, modules)
    return Larc([p for module in modules for p in module.parameters() if p.requires_grad], own), own


curve.optimizer_of = optimizer_of
BENCHED = {**METHODS, "mae": Mae}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--batch", type=int, required=True, help="images a step")
    parser.add_argument("--count", action="append", default=[], help="GROUP=VIEWS: another number of views of a group")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--channels-last", action="store_true", help="PyTorch's other memory layout")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    with open(a.config, "rb") as file:
        config = tomllib.load(file)
    config["data"]["batch_images"] = a.batch
    for given in a.count:
        group, views = given.split("=")
        config["views"][int(group)]["count"] = int(views)

    method = BENCHED[next(iter(config["objective"]))](config, 1000)
    layout = torch.channels_last if a.channels_last else torch.contiguous_format
    for module in [*method.student, *getattr(method, "teacher", getattr(method, "target", []))]:
        module.to(memory_format=layout)
    generator = torch.Generator().manual_seed(0)
    views = []
    for group in config["views"]:
        size = next(iter(group["transforms"][0].values()))["size_px"]
        shape = (a.batch, 3, size, size)
        views += [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in range(group["count"])]
    mean, std = config["data"]["normalize"]["mean"], config["data"]["normalize"]["std"]

    seconds = []
    for step in range(a.warm_up + a.steps):
        start = time.perf_counter()
        groups = [group.contiguous(memory_format=layout) for group in by_size(views, mean, std)]
        loss = method.train(groups, step)
        seconds.append(time.perf_counter() - start)
    report(
        a,
        seconds,
        a.batch,
        {
            "config": pathlib.Path(a.config).name,
            "batch": a.batch,
            "views": len(views),
            "last_loss": round(loss, 4),
        },
    )


if __name__ == "__main__":
    main()
