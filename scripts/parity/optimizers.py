"""Makes crates/training/fixtures/optimizers.json: parameters after 20 steps on gradients by formula, in float64.

    python scripts/parity/optimizers.py

Parameter number t, element i starts at sin(0.7 i + 1.3 t + 0.5), its gradient in step s (from 1) is
sin(0.7 i + 1.3 t + 0.15 s + 0.5); `zero` starts at zero and has no gradient in the first five steps.
SGD and AdamW are torch's. LARS is written here from algorithm 1 of arXiv:1708.03888 as MoCo-v3's and Barlow Twins' papers
use it, LARC from the documentation of apex (trust ‖w‖ / (‖g‖ + wd ‖w‖ + eps), no clipping). lightly's class LARS computes
what is called LARC here; that the two agree is asserted. Learning rates come from numpy's linspace and cosine as
DINO writes them, and from MoCo-v3's fractional epochs.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch

FIXTURE = Path(__file__).resolve().parents[2] / "crates/training/fixtures/optimizers.json"
STEPS, PER_EPOCH, BATCH = 20, 4, 512
SHAPES = {"weight": (5, 3), "kernel": (2, 3, 2, 2), "bias": (7,), "zero": (2, 2)}


def wave(number, step, shape):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    values = torch.sin(0.7 * index + 1.3 * number + 0.15 * step + 0.5)
    # Both sides start from the same float32 numbers.
    return values.float().double().reshape(shape)


def learning_rate(schedule, peak, step):
    (name, options), = schedule.items()
    epochs = STEPS // PER_EPOCH
    if name == "constant":
        return peak
    if name == "steps":
        return peak * options["factor"] ** sum(step // PER_EPOCH >= m for m in options["milestones_epochs"])
    end = options.get("end_learning_rate", 0.0)
    per_step = name == "cosine_per_step"
    units = STEPS if per_step else epochs
    warm = options.get("warmup", {"epochs": 0, "start_learning_rate": 0.0, "reaches_peak": "after_it"})
    count = warm["epochs"] * (PER_EPOCH if per_step else 1)
    if warm["reaches_peak"] == "at_its_last_step":  # DINO's cosine_scheduler
        rise = np.linspace(warm["start_learning_rate"], peak, count)
    else:  # MoCo-v3: lr * epoch / warmup_epochs with fractional epochs
        rise = np.array([warm["start_learning_rate"] + (peak - warm["start_learning_rate"]) * i / count for i in range(count)])
    fall = np.arange(units - count)
    fall = end + 0.5 * (peak - end) * (1 + np.cos(np.pi * fall / max(len(fall), 1)))
    return float(np.concatenate((rise, fall))[step if per_step else step // PER_EPOCH])


class Lars(torch.optim.Optimizer):
    def __init__(self, params, trust, momentum, kind, adapt_vectors):
        super().__init__(params, {"lr": 0.0, "weight_decay": 0.0})
        self.trust, self.momentum, self.kind, self.adapt_vectors = trust, momentum, kind, adapt_vectors

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g, decay = p.grad, group["weight_decay"]
                if p.dim() > 1 or self.adapt_vectors:
                    if self.kind == "lars":
                        g = g + decay * p
                        scale = self.trust * p.norm() / g.norm() if p.norm() > 0 and g.norm() > 0 else 1.0
                        g = g * scale
                    elif p.norm() > 0 and g.norm() > 0:
                        g = (g + decay * p) * (self.trust * p.norm() / (g.norm() + decay * p.norm() + 1e-8))
                state = self.state[p]
                state["mu"] = self.momentum * state["mu"] + g if "mu" in state else g.clone()
                p -= group["lr"] * state["mu"]


def run(case, lightly_lars=False):
    config, schedule, clip = case["config"], case["schedule"], case["clip"]
    (kind, options), = config.items()
    parameters = {name: torch.nn.Parameter(wave(number, 0, shape)) for number, (name, shape) in enumerate(SHAPES.items())}
    parameters["zero"].data.zero_()
    vectors = [p for p in parameters.values() if p.dim() == 1]
    matrices = [p for p in parameters.values() if p.dim() > 1]
    groups = [{"params": matrices}, {"params": vectors}]
    if kind == "sgd":
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=options["momentum"], nesterov=options["nesterov"])
    elif kind == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=1.0, betas=options["betas"], eps=options["epsilon"])
    elif lightly_lars:
        from lightly.utils.lars import LARS

        optimizer = LARS(groups, lr=1.0, momentum=options["momentum"], trust_coefficient=options["trust"])
    else:
        optimizer = Lars(groups, options["trust"], options["momentum"], options["adaptation"], options["adapt_biases_and_norms"])
    peak = options["learning_rate_per_256"] * BATCH / 256
    rates = []
    for step in range(STEPS):
        rate = learning_rate(schedule, peak, step)
        rates.append(rate)
        start = options["weight_decay"]
        end = options.get("weight_decay_end", start)
        decay = end + 0.5 * (start - end) * (1 + math.cos(math.pi * step / STEPS))
        bare = kind == "lars" and not options["adapt_biases_and_norms"] or kind == "adamw" and not options["decay_biases_and_norms"]
        for group, of_vectors in zip(optimizer.param_groups, (False, True), strict=True):
            group["lr"] = rate
            group["weight_decay"] = 0.0 if of_vectors and bare else decay
            other = options.get("biases_and_norms_learning_rate_per_256")
            if of_vectors and other is not None:
                group["lr"] = rate * other / options["learning_rate_per_256"]
        for number, (name, shape) in enumerate(SHAPES.items()):
            hidden = name == "zero" and step < 5
            parameters[name].grad = None if hidden else wave(number, step + 1, shape)
        if clip and "global_norm" in clip:
            torch.nn.utils.clip_grad_norm_(parameters.values(), clip["global_norm"])
        if clip and "per_parameter_norm" in clip:
            for p in parameters.values():
                if p.grad is not None:
                    coefficient = clip["per_parameter_norm"] / (p.grad.norm() + 1e-6)
                    p.grad.mul_(min(coefficient, 1.0))
        optimizer.step()
    return rates, {name: p.detach().flatten().tolist() for name, p in parameters.items()}


def main():
    sgd = {"learning_rate_per_256": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": False}
    adamw = {
        "learning_rate_per_256": 2e-3,
        "betas": [0.9, 0.999],
        "epsilon": 1e-8,
        "weight_decay": 0.04,
        "decay_biases_and_norms": False,
    }
    lars = {
        "learning_rate_per_256": 2.4,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "trust": 0.001,
        "adaptation": "lars",
        "adapt_biases_and_norms": False,
    }
    larc = lars | {"adaptation": "larc", "adapt_biases_and_norms": True}
    warm = {"epochs": 1, "start_learning_rate": 0.0, "reaches_peak": "at_its_last_step"}
    after = warm | {"reaches_peak": "after_it", "start_learning_rate": 0.01}
    constant = {"constant": {}}
    cases = [
        ("sgd", {"sgd": sgd}, {"cosine_per_epoch": {}}, None),
        ("sgd, nesterov", {"sgd": sgd | {"nesterov": True}}, {"steps": {"milestones_epochs": [2, 4], "factor": 0.1}}, None),
        ("sgd without momentum", {"sgd": sgd | {"momentum": 0.0}}, constant, {"global_norm": 1.5}),
        ("adamw", {"adamw": adamw}, constant, None),
        ("adamw, all decay", {"adamw": adamw | {"decay_biases_and_norms": True, "betas": [0.9, 0.95]}}, constant, {"global_norm": 0.5}),
        ("adamw, DINO's courses", {"adamw": adamw | {"weight_decay_end": 0.4}}, {"cosine_per_step": {"warmup": warm, "end_learning_rate": 1e-6}}, {"per_parameter_norm": 0.3}),
        ("lars", {"lars": lars}, {"cosine_per_step": {"warmup": after}}, None),
        ("lars, Barlow Twins' rates", {"lars": lars | {"biases_and_norms_learning_rate_per_256": 0.0048}}, {"cosine_per_step": {"warmup": after, "end_learning_rate": 0.002}}, None),
        ("lars, all adapted", {"lars": lars | {"adapt_biases_and_norms": True, "weight_decay_end": 1e-2}}, constant, None),
        ("larc", {"lars": larc}, {"cosine_per_step": {"warmup": warm, "end_learning_rate": 0.0048}}, None),
        ("larc, vectors bare", {"lars": larc | {"adapt_biases_and_norms": False}}, {"cosine_per_epoch": {"warmup": after}}, None),
    ]
    made = []
    for name, config, schedule, clip in cases:
        case = {"name": name, "config": config, "schedule": schedule, "clip": clip}
        rates, parameters = run(case)
        if name == "larc, vectors bare":
            _, theirs = run(case, lightly_lars=True)
            for key, values in parameters.items():
                worst = max(abs(a - b) for a, b in zip(values, theirs[key], strict=True))
                print(f"lightly's LARS, {key}: {worst:.1e}")
                assert worst < 1e-9 or key == "zero", key
        made.append(case | {"learning_rates": rates, "parameters": parameters})
    text = {"generator": "scripts/parity/optimizers.py", "torch": torch.__version__, "cases": made}
    FIXTURE.parent.mkdir(exist_ok=True)
    FIXTURE.write_text(json.dumps(text) + "\n")
    print(FIXTURE.name, FIXTURE.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
