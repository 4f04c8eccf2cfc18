"""Times training steps and feature extraction in PyTorch on a GPU, to compare with Passer's in the same run.

    python torch_steps.py moco|dino|features-resnet50|features-vit --precision f32|tf32|bf16 [--channels-last] [--compile] [--batch 256]

Prints one JSON object: images_per_second (images, not views), seconds_per_step (median), first_step_seconds, peak_memory_mib
(allocated) and reserved_memory_mib. A step is what a run does once views are made: normalize u8 views that are on the device
already, all networks, loss, backward, optimizer, moving average, queue or center. Images are noise. Batch statistics are taken
over the whole batch, as PyTorch users do on one GPU.
"""

import argparse
import copy
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Moco(nn.Module):
    """MoCo v2 with a ResNet-50 (He et al. 2020; Chen et al. 2020)."""

    views = [(2, 224)]

    def __init__(self, queue=65536, dim=128):
        super().__init__()
        import torchvision

        self.query = torchvision.models.resnet50(num_classes=dim)
        width = self.query.fc.in_features
        self.query.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1))
        self.pointer = 0

    def student(self):
        return self.query

    def optimizer(self):
        return torch.optim.SGD(self.query.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4)

    def loss(self, groups):
        first, second = groups[0].chunk(2)
        q = F.normalize(self.query(first), dim=1)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.key.parameters()), list(self.query.parameters()), 0.001)
            order = torch.randperm(len(second), device=second.device)
            k = F.normalize(self.key(second[order]), dim=1)[torch.argsort(order)]
        logits = torch.cat([(q * k).sum(1, keepdim=True), q @ self.queue.T.to(q.dtype)], dim=1).float() / 0.2
        self.new_keys = k
        return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))

    @torch.no_grad()
    def commit(self):
        keys = self.new_keys.to(self.queue.dtype)
        self.queue[self.pointer : self.pointer + len(keys)] = keys
        self.pointer = (self.pointer + len(keys)) % len(self.queue)


class DinoHead(nn.Module):
    def __init__(self, width, prototypes=65536):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 2048), nn.GELU(), nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 256))
        self.last = nn.Parameter(torch.randn(prototypes, 256) * 0.02)

    def forward(self, x):
        x = F.normalize(self.mlp(x), dim=1)
        return F.linear(x, F.normalize(self.last, dim=1))


class Dino(nn.Module):
    """DINO with a ViT-S/16, two global and eight local views (Caron et al. 2021)."""

    views = [(2, 224), (8, 96)]

    def __init__(self):
        super().__init__()
        import timm

        def vit(drop_path):
            return timm.create_model("vit_small_patch16_224", num_classes=0, dynamic_img_size=True, drop_path_rate=drop_path)

        self.backbone, self.head = vit(0.1), DinoHead(384)
        self.teacher, self.teacher_head = vit(0.0), copy.deepcopy(self.head)
        self.teacher.load_state_dict(self.backbone.state_dict())
        for module in (self.teacher, self.teacher_head):
            module.requires_grad_(False)
        self.register_buffer("center", torch.zeros(1, 65536))

    def student(self):
        return nn.ModuleList([self.backbone, self.head])

    def optimizer(self):
        return torch.optim.AdamW(self.student().parameters(), lr=5e-4, weight_decay=0.04)

    def loss(self, groups):
        features = torch.cat([self.backbone(group) for group in groups])
        student = (self.head(features).float() / 0.1).chunk(10)
        with torch.no_grad():
            logits = self.teacher_head(self.teacher(groups[0])).float()
            teacher = ((logits - self.center) / 0.04).softmax(1).chunk(2)
            self.batch_center = logits.mean(0, keepdim=True)
        student = [s.log_softmax(1) for s in student]
        total = 0.0
        for i, t in enumerate(teacher):
            for j, s in enumerate(student):
                if i != j:
                    total = total - (t * s).sum(1).mean()
        return total / 18

    @torch.no_grad()
    def commit(self):
        self.center.lerp_(self.batch_center, 0.1)
        teacher = [*self.teacher.parameters(), *self.teacher_head.parameters()]
        torch._foreach_lerp_(teacher, [p for p in self.student().parameters()], 0.004)

    def clip(self):
        gradients = [p.grad for p in self.student().parameters() if p.grad is not None]
        norms = torch._foreach_norm(gradients)
        torch._foreach_mul_(gradients, [(3.0 / (n + 1e-6)).clamp(max=1.0) for n in norms])


def features(name, a, amp):
    if name == "resnet50":
        import torchvision

        network = torchvision.models.resnet50(num_classes=10)
        network.fc = nn.Identity()
    else:
        import timm

        network = timm.create_model("vit_small_patch16_224", num_classes=0)
    network = network.to(a.device).eval()
    if a.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if a.compile:
        network = torch.compile(network)
    images = noise(a.batch, 224, a.device)
    mean, std = (torch.tensor(v, device=a.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))

    @torch.no_grad()
    def step():
        x = (images.float() - mean) / std
        if a.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        with amp():
            network(x)

    return step


def noise(count, side, device):
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)


def training(method, a, amp):
    method = method.to(a.device)
    if a.channels_last:
        method = method.to(memory_format=torch.channels_last)
    optimizer = method.optimizer()
    loss_of = torch.compile(method.loss) if a.compile else method.loss
    views = [noise(count * a.batch, side, a.device) for count, side in method.views]
    mean, std = (torch.tensor(v, device=a.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))

    def step():
        groups = [(group.float() - mean) / std for group in views]
        if a.channels_last:
            groups = [group.contiguous(memory_format=torch.channels_last) for group in groups]
        with amp():
            loss = loss_of(groups)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if hasattr(method, "clip"):
            method.clip()
        optimizer.step()
        method.commit()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", choices=["moco", "dino", "features-resnet50", "features-vit"])
    parser.add_argument("--precision", choices=["f32", "tf32", "bf16"], default="f32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda", help="cpu only to try this script out")
    a = parser.parse_args()
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = a.precision != "f32"

    def amp():
        return torch.autocast(a.device, dtype=torch.bfloat16, enabled=a.precision == "bf16")

    if a.work.startswith("features-"):
        step = features(a.work.removeprefix("features-"), a, amp)
    else:
        step = training({"moco": Moco, "dino": Dino}[a.work](), a, amp)
    synchronize = torch.cuda.synchronize if a.device == "cuda" else lambda: None
    seconds = []
    for _ in range(a.warm_up + a.steps):
        synchronize()
        start = time.perf_counter()
        step()
        synchronize()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[a.warm_up :])
    print(
        json.dumps(
            {
                "images_per_second": round(a.batch / median, 1),
                "seconds_per_step": round(median, 5),
                "first_step_seconds": round(seconds[0], 2),
                "peak_memory_mib": torch.cuda.max_memory_allocated() >> 20,
                "reserved_memory_mib": torch.cuda.max_memory_reserved() >> 20,
                "torch": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
