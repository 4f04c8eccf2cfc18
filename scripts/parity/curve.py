"""Pretrains with DINO, SwAV, SimCLR or BYOL on part of CIFAR-10, wholly in PyTorch, torchvision and timm, by a config of Passer's.

    python scripts/parity/curve.py configs/pretrain/swav-resnet18-cifar10.toml --data cifar10-jpeg.tar.gz --out curve.jsonl
        [--width 8] [--seed 0] [--threads 2]

Recipe, views and schedules are read from the config, so that both sides train by one file; what the script does not know it
refuses. Images, their order, and kNN (of the network that Passer evaluates) are those of moco_curve.py, and so is the output.
Losses, heads and teachers are those of dino.py, swav.py and siamese.py, which the fixtures come from; the optimizer is torch.optim's.
"""

import argparse
import contextlib
import json
import math
import sys
import time
import tomllib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from dino import Answers, Head, backbone_of, copy_weights, cross_view, momentum_of, move_teacher, teacher_temperature
from formula import Mlp
from moco import normalise
from moco_curve import TwoViews, batches, features, knn_accuracy, read_images, stack
from siamese import regression
from swav import swav_loss


def transform_of(steps):
    """torchvision's of the same names, in the config's order."""
    made = []
    for step in steps:
        (name, own), *_ = step.items()
        if name == "random_resized_crop":
            filter = InterpolationMode(own["filter"])
            made.append(transforms.RandomResizedCrop(own["size_px"], own["scale"], own["ratio"], filter))
        elif name == "horizontal_flip":
            made.append(transforms.RandomHorizontalFlip(own["probability"]))
        elif name == "color_jitter":
            jitter = transforms.ColorJitter(own["brightness"], own["contrast"], own["saturation"], own["hue"])
            made.append(transforms.RandomApply([jitter], own["probability"]))
        elif name == "grayscale":
            made.append(transforms.RandomGrayscale(own["probability"]))
        elif name == "solarize":
            made.append(transforms.RandomSolarize(own["threshold"], own["probability"]))
        else:
            raise SystemExit(f"unknown transform {name!r}")
    return transforms.Compose([*made, transforms.PILToTensor()])


class Crops(TwoViews):
    """All views of an image, u8, drawn from (seed, epoch, image, view) alone."""

    def __init__(self, images, groups, seed):
        super().__init__(images, 1, seed)
        self.transforms = [transform_of(group["transforms"]) for group in groups for _ in range(group["count"])]

    def __getitem__(self, index):
        views = []
        for number, self.transform in enumerate(self.transforms):
            views.append(self.view(index, number))
        return views


def by_size(views, mean, std):
    """Views of one size go through a network together, all images of the first view first."""
    groups = {}
    for view in views:
        groups.setdefault(view.shape[-1], []).append(view)
    return [normalise(torch.cat(group), mean, std) for group in groups.values()]


def initial(backbone, head):
    """DINO's distributions: Passer's and torchvision's ResNets start alike already."""
    for module in [*head.layers, *(m for m in backbone.modules() if isinstance(m, nn.Linear))]:
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    for name in ("cls_token", "pos_embed"):
        if hasattr(backbone, name):
            nn.init.trunc_normal_(getattr(backbone, name), std=0.02)


def optimizer_of(config, modules):
    (name, own), *_ = config["optimizer"].items()
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    if name == "sgd":
        settings = {"momentum": own["momentum"], "weight_decay": own["weight_decay"], "nesterov": own["nesterov"]}
        return torch.optim.SGD(parameters, lr=0.0, **settings), own
    if name != "adamw" or own["decay_biases_and_norms"] or "layer_decay" in own:
        raise SystemExit(f"unknown optimizer {config['optimizer']}")
    groups = [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]]
    made = [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]
    return torch.optim.AdamW(made, lr=0.0, betas=own["betas"], eps=own["epsilon"], weight_decay=own["weight_decay"]), own


def cosine(start, end, done):
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * done))


def rate(config, peak, step, per_epoch, steps):
    own = config["schedule"]["cosine_per_step"]
    warmup = own.get("warmup")
    rising = warmup["epochs"] * per_epoch if warmup else 0
    if step < rising:
        line = rising - 1 if warmup["reaches_peak"] == "at_its_last_step" else rising
        return warmup["start_learning_rate"] + (peak - warmup["start_learning_rate"]) * step / line
    return cosine(peak, own.get("end_learning_rate", 0.0), (step - rising) / (steps - rising))


@torch.no_grad()
def clip_each(modules, largest):
    for module in modules:
        for p in module.parameters():
            if p.grad is not None:
                p.grad.mul_((largest / (p.grad.norm() + 1e-6)).clamp(max=1.0))


class Method:
    """A method in training: `student` (all that the optimizer sees), `encoder` (what kNN looks at), a loss, and what follows a step."""

    def __init__(self, config, per_epoch):
        self.config, self.per_epoch = config, per_epoch
        self.images = config["data"]["batch_images"]
        self.steps = config["training"]["epochs"] * per_epoch
        (self.own,) = config["objective"].values()
        self.build()
        self.optimizer, self.rates = optimizer_of(config, self.student)
        self.peak = self.rates["learning_rate_per_256"] * self.images / 256

    def backbone(self):
        return backbone_of(self.config).train()

    def after(self, step):
        pass

    def frozen(self, epoch):
        """Modules that stand still."""
        return []

    def train(self, groups, step):
        """One optimizer step; gives the loss before it."""
        epoch = step // self.per_epoch
        loss = self.loss(groups, step)
        self.optimizer.zero_grad()
        loss.backward()
        if "clip_gradients" in self.config["training"]:
            clip_each(self.student, self.config["training"]["clip_gradients"]["per_parameter_norm"])
        for module in self.frozen(epoch):
            for p in module.parameters():
                p.grad = None
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.config, self.peak, step, self.per_epoch, self.steps)
        first = self.optimizer.param_groups[0]
        end = self.rates.get("weight_decay_end", self.rates["weight_decay"])
        first["weight_decay"] = cosine(self.rates["weight_decay"], end, step / self.steps)
        self.optimizer.step()
        with torch.no_grad():
            self.after(step)
        return loss.item()


class Dino(Method):
    def build(self):
        if "koleo_weight" in self.own:
            raise SystemExit("koleo_weight is not in this script")
        self.student, self.teacher = self.network(), self.network()
        initial(*self.student)
        copy_weights(self.teacher, self.student)
        self.encoder = self.teacher[0]
        self.answers = Answers(self.own["centering"], self.own["head"]["prototypes"], torch.float32)
        warmup = self.own.get("teacher_temperature_warmup")
        epochs = self.config["training"]["epochs"]
        self.temperatures = teacher_temperature(self.own["teacher_temperature"], warmup, epochs)

    def network(self):
        backbone = self.backbone()
        return [backbone, Head(backbone.features, self.own["head"]).train()]

    def loss(self, groups, step):
        scores = self.student[1](torch.cat([self.student[0](group) for group in groups]))
        with torch.no_grad():
            self.of_teacher = self.teacher[1](self.teacher[0](groups[0]))
        q = self.answers(self.of_teacher, float(self.temperatures[step // self.per_epoch]))
        return cross_view(scores.split(self.images), q.chunk(2), self.own["student_temperature"])

    def after(self, step):
        move_teacher(self.teacher, self.student, float(momentum_of(self.own, step, self.steps)))
        self.answers.move(self.of_teacher)

    def frozen(self, epoch):
        return [self.student[1].last_layer] if epoch < self.own["freeze_last_layer_epochs"] else []


class Swav(Method):
    def build(self):
        if "queue" in self.own:
            raise SystemExit("the queue is not in this script")
        o, self.encoder = self.own, self.backbone()
        self.projector = Mlp(self.encoder.features, [o["hidden_width"]], o["embedding_width"], True, True, True).train()
        self.prototypes = nn.Linear(o["embedding_width"], o["prototypes"], bias=False)
        self.student = [self.encoder, self.projector, self.prototypes]
        with torch.no_grad():
            self.after(None)

    def loss(self, groups, step):
        o = self.own
        embeddings = F.normalize(self.projector(torch.cat([self.encoder(group) for group in groups])), dim=1)
        scores = self.prototypes(embeddings).split(self.images)
        return swav_loss(scores, None, o["temperature"], o["sinkhorn_epsilon"], o["sinkhorn_iterations"])

    def after(self, step):
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def frozen(self, epoch):
        return [self.prototypes] if epoch < self.own["freeze_prototypes_epochs"] else []


class Simclr(Method):
    def build(self):
        o, self.encoder = self.own, self.backbone()
        if o["projector_norm"] != "none":
            raise SystemExit("projector_norm is not in this script")
        hidden = [o["projector_width"]] * (o["projector_layers"] - 1)
        self.projector = Mlp(self.encoder.features, hidden, o["embedding_width"], False, True, True)
        self.student = [self.encoder, self.projector]

    def loss(self, groups, step):
        """siamese.py's nt_xent without its loop over anchors."""
        z = F.normalize(self.projector(self.encoder(groups[0])), dim=1)
        logits = (z @ z.T / self.own["temperature"]).fill_diagonal_(-torch.inf)
        partners = torch.arange(2 * self.images).roll(self.images)
        return F.cross_entropy(logits, partners)


class Byol(Method):
    def build(self):
        o = self.own
        self.online, self.target = self.network(), self.network()
        width = o["embedding_width"]
        self.predictor = Mlp(width, [o["predictor_width"]], width, True, False, False).train()
        copy_weights(self.target, self.online)
        self.student, self.encoder = [*self.online, self.predictor], self.online[0]

    def network(self):
        backbone = self.backbone()
        return [backbone, Mlp(backbone.features, [self.own["projector_width"]], self.own["embedding_width"], True, False, False)]

    def loss(self, groups, step):
        first, second = groups[0].split(self.images)
        with torch.no_grad():
            targets = [self.target[1](self.target[0](view)) for view in (second, first)]
        predictions = [self.predictor(self.online[1](self.online[0](view))) for view in (first, second)]
        return sum(regression(p, t) for p, t in zip(predictions, targets, strict=True))

    def after(self, step):
        move_teacher(self.target, self.online, float(momentum_of(self.own, step, self.steps)))


METHODS = {"dino": Dino, "swav": Swav, "simclr": Simclr, "byol": Byol}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="cifar10-jpeg.tar.gz")
    parser.add_argument("--out", help="JSON lines; default: standard output")
    parser.add_argument("config", help="one of configs/pretrain/*-resnet18-cifar10.toml")
    parser.add_argument("--width", type=int, help="of the ResNet; default: the config's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop-after", type=int, help="epochs to run of the schedule; default: all")
    parser.add_argument("--per-class", type=int, default=1000)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--knn-temperature", type=float, default=0.07)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="processes that make views; 0: in line")
    return parser.parse_args()


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    with open(a.config, "rb") as file:
        config = tomllib.load(file)
    if a.width:
        config["backbone"]["resnet"]["width"] = a.width
    (name,) = config["objective"]
    splits = read_images(a.data, a.per_class)
    (train, train_labels), (test, test_labels) = splits["train"], splits["test"]
    train_labels, test_labels = torch.tensor(train_labels), torch.tensor(test_labels)
    train_pixels, test_pixels = stack(train), stack(test)
    dataset = Crops(train, config["views"], a.seed)
    batch = config["data"]["batch_images"]
    mean, std = (config["data"]["normalize"][key] for key in ("mean", "std"))

    torch.manual_seed(a.seed)
    method = METHODS[name](config, len(train) // batch)

    def knn():
        bank, queries = (features(method.encoder, x, mean, std) for x in (train_pixels, test_pixels))
        return knn_accuracy(bank, train_labels, queries, test_labels, a.k, a.knn_temperature)

    with open(a.out, "w") if a.out else contextlib.nullcontext(sys.stdout) as out:

        def line(record):
            print(json.dumps(record), file=out, flush=True)

        settings = {key: value for key, value in vars(a).items() if key not in ("data", "out")}
        line({"settings": settings, "torch": torch.__version__, "train": len(train), "test": len(test)})
        line({"epoch": 0, "loss": None, "knn": knn(), "lr": None, "seconds": 0.0})
        for epoch in range(a.stop_after or config["training"]["epochs"]):
            start, losses = time.monotonic(), []
            for number, views in enumerate(batches(dataset, batch, epoch, a.workers)):
                losses.append(method.train(by_size(views, mean, std), epoch * method.per_epoch + number))
            seconds = round(time.monotonic() - start, 2)
            rate_now = method.optimizer.param_groups[0]["lr"]
            line({"epoch": epoch + 1, "loss": float(np.mean(losses)), "knn": knn(), "lr": rate_now, "seconds": seconds})


if __name__ == "__main__":
    main()
