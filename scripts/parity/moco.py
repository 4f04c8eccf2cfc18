"""MoCo v1/v2 in plain PyTorch: the reference that the parity and benchmark scripts share.

Written from the papers (He et al., "Momentum Contrast for Unsupervised Visual Representation
Learning", 2020, eq. 1 and 2; Chen et al., "Improved Baselines with Momentum Contrastive Learning",
2020), not from their code. What the papers leave open and a comparison needs is fixed here:

* Batch norm is split: consecutive slices of `batch_norm_images` images share statistics (image `i`
  is in group `i // batch_norm_images`), in the query and in the key encoder. Running statistics move
  once a step, by the mean over groups of the groups' means and of their unbiased variances.
* Keys are shuffled across those groups: the key encoder sees `views[order]`, and row `j` of what it
  gives back belongs to image `order[j]`.
* The key encoder's EMA follows each optimizer step, which is the same arithmetic as before the next
  forward pass. It moves parameters only; running statistics are the key encoder's own.
* The queue holds keys as rows `[K, D]` and is first in, first out from row 0.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class SplitBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of slices of `group_images` images."""

    def __init__(self, features, group_images=None):
        super().__init__(features)
        self.group_images = group_images  # None: the whole batch

    def forward(self, x):
        size = self.group_images or x.shape[0]
        if not self.training or size == x.shape[0]:
            return super().forward(x)
        if x.shape[0] % size:
            raise ValueError(f"batch of {x.shape[0]} images does not divide into groups of {size}")
        groups = x.shape[0] // size
        # With momentum 1 the call stores each group's mean and unbiased variance as they are.
        means, variances = x.new_zeros(2, groups, x.shape[1])
        outputs = [
            F.batch_norm(part, means[g], variances[g], self.weight, self.bias, True, 1.0, self.eps)
            for g, part in enumerate(x.split(size))
        ]
        self.running_mean.lerp_(means.mean(0), self.momentum)
        self.running_var.lerp_(variances.mean(0), self.momentum)
        self.num_batches_tracked += 1
        return torch.cat(outputs)


DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}


def resnet(depth, width=64, stem="imagenet", batch_norm_images=None):
    """torchvision's ResNet with `width` base channels and no classifier.

    The stem "small" is a 3x3 convolution of stride 1 without pooling, for images of 28 to 64 px.
    """
    block, layers = DEPTHS[depth]
    norm = functools.partial(SplitBatchNorm2d, group_images=batch_norm_images)
    net = ResNet(block, list(layers), norm_layer=norm)
    if width != 64:
        net.inplanes = width
        net.bn1 = norm(width)
        net.layer1 = net._make_layer(block, width, layers[0])
        net.layer2 = net._make_layer(block, 2 * width, layers[1], stride=2)
        net.layer3 = net._make_layer(block, 4 * width, layers[2], stride=2)
        net.layer4 = net._make_layer(block, 8 * width, layers[3], stride=2)
    if stem == "small":
        net.conv1 = nn.Conv2d(3, width, 3, stride=1, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif stem == "imagenet":
        net.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
    else:
        raise ValueError(f"unknown stem {stem!r}: expected 'imagenet' or 'small'")
    net.fc = nn.Identity()
    # torchvision's own initial distribution, for the layers made again above.
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    net.features = 8 * width * block.expansion
    return net


class Branch(nn.Module):
    """Encoder and projection head; forward gives L2-normalised embeddings `[B, dim]`."""

    def __init__(self, encoder, dim=128, mlp=True):
        super().__init__()
        width = encoder.features
        hidden = [nn.Linear(width, width), nn.ReLU()] if mlp else []
        self.encoder = encoder
        self.head = nn.Sequential(*hidden, nn.Linear(width, dim))

    def forward(self, images):
        return F.normalize(self.head(self.encoder(images)), dim=1)


def info_nce(query, positive, queue, temperature):
    """InfoNCE with a queue, eq. 1 of MoCo: rows of all three are L2-normalised already.

    `query` and `positive` are `[N, D]`, `queue` is `[K, D]`; the mean over the N queries.
    """
    positives = (query * positive).sum(1, keepdim=True)  # [N, 1]
    negatives = query @ queue.T  # [N, K]
    logits = torch.cat([positives, negatives], 1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


class Moco:
    """Query and key branch, the queue, and one training step."""

    def __init__(self, query, key, queue, momentum, temperature, optimizer):
        key.load_state_dict(query.state_dict())
        key.requires_grad_(False)
        self.query, self.key, self.queue = query.train(), key.train(), queue
        self.momentum, self.temperature, self.optimizer = momentum, temperature, optimizer
        self.pointer = 0

    def step(self, query_images, key_images, order):
        """One optimizer step on two normalised views `[B, 3, H, W]`; gives the loss before it."""
        loss, keys = self.loss(query_images, key_images, order)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for k, q in zip(self.key.parameters(), self.query.parameters(), strict=True):
                k.mul_(self.momentum).add_(q, alpha=1 - self.momentum)
        self.push(keys)
        return loss.item()

    def loss(self, query_images, key_images, order):
        embedded = self.query(query_images)
        with torch.no_grad():
            shuffled = self.key(key_images[order])
            keys = torch.empty_like(shuffled)
            keys[order] = shuffled
        return info_nce(embedded, keys, self.queue, self.temperature), keys

    def push(self, keys):
        if len(self.queue) % len(keys):
            raise ValueError(f"queue of {len(self.queue)} is no multiple of the batch, {len(keys)}")
        self.queue[self.pointer : self.pointer + len(keys)] = keys
        self.pointer = (self.pointer + len(keys)) % len(self.queue)


def cosine_per_epoch(base, epoch, epochs):
    """MoCo-v2's learning rate: constant within an epoch, `epoch` counted from 0."""
    return base * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def random_queue(size, dim, generator):
    """Standard normal rows, L2-normalised."""
    return F.normalize(torch.randn(size, dim, generator=generator), dim=1)


def normalise(images, mean, std, dtype=torch.float32):
    """u8 `[B, 3, H, W]` to `(x / 255 - mean) / std`."""
    mean = torch.tensor(mean, dtype=dtype).view(1, 3, 1, 1)
    std = torch.tensor(std, dtype=dtype).view(1, 3, 1, 1)
    return (images.to(dtype) / 255 - mean) / std
