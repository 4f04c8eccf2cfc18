#!/usr/bin/env python3
"""Time in exchange and efficiency of data-parallel training, predicted from your own numbers.

    scripts/exchange_model.py --parameters 25.6e6 --step-s 0.105 --network-gbit-s 100

Give the parameters of the whole student (backbone and head), and the seconds of a step on one device with its share of the batch:
images of that share divided by `images_per_second` in `metrics.jsonl`. The model adds up the bytes that cross and the messages; it knows no overlap with the backward pass, no stragglers,
no loader and no synchronized batch normalization. docs/distributed.md has its table beside measured and published figures.
Needs Python alone.
"""

import argparse

BUCKET_BYTES = 25 * (1 << 20)
# Passes over host memory of one rank's gradients: device to host, two writes and two reads of an exchange, host to device.
HOST_PASSES = 6

# What is published, with the model's inputs where they are published too: parameters, seconds of a step, devices before and after.
PUBLISHED = [
    ("SwAV, ResNet-50, 64 images a V100", "102 -> 91 images/s a GPU from 4 to 64, 89 %", "its README", 28.3e6, 64 / 102, 4, 64),
    ("DINO, ViT-S/16, 64 images a GPU", "106 -> 107 images/s a GPU from 8 to 16, 101 %", "its README", 43.0e6, 64 / 106, 8, 16),
    ("Horovod, ResNet-101 and Inception V3", "90 % on 512 P100 at 25 Gbit/s, with overlap", "its docs/benchmarks.rst", None, None, 1, 512),
    ("Horovod, VGG-16", "68 % on 512 P100 at 25 Gbit/s, with overlap", "its docs/benchmarks.rst", None, None, 1, 512),
]


def exchange_s(engine, ranks, value_bytes, options):
    """Seconds of one exchange of the gradients."""
    if ranks == 1:
        return 0.0
    size = options.parameters * value_bytes
    node = min(ranks, options.ranks_per_node)
    nodes = -(-ranks // options.ranks_per_node)
    network = options.network_gbit_s * 1e9 / 8
    buckets = max(1, round(size / BUCKET_BYTES))
    inside = HOST_PASSES * node * size / (options.memory_gb_s * 1e9)
    if engine == "flat":
        # Every rank exchanges a chunk with every other rank, twice; a node's ranks share its network.
        between = 2 * node * size * (ranks - node) / ranks / network
        messages = 2 * (ranks - 1)
    else:
        # One exchange a node.
        between = 2 * (nodes - 1) / nodes * size / network
        messages = 2 * (node - 1) + 2 * (nodes - 1)
    if engine == "nccl":
        inside = 2 * (node - 1) / node * size / (options.gpu_link_gb_s * 1e9)
    return inside + between + buckets * messages * options.latency_us * 1e-6


ENGINES = [
    ("as built: host memory, f32", "flat", 4),
    ("two levels, f32 (not built)", "levels", 4),
    ("two levels, 16 bits (not built)", "levels", 2),
    ("NCCL inside nodes, f32 (not built)", "nccl", 4),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=25.6e6, help="of the student (default: ResNet-50)")
    parser.add_argument("--step-s", type=float, default=0.105, help="seconds of a step on one device (default: MoCo, 32 images, RTX 4090)")
    parser.add_argument("--ranks", default="8,64,1024", help="numbers of devices, separated by commas")
    parser.add_argument("--ranks-per-node", type=int, default=8)
    parser.add_argument("--memory-gb-s", type=float, default=150, help="bandwidth of a node's memory, GB/s")
    parser.add_argument("--network-gbit-s", type=float, default=100, help="bandwidth of a node's network, Gbit/s")
    parser.add_argument("--latency-us", type=float, default=2, help="of one message, microseconds")
    parser.add_argument("--gpu-link-gb-s", type=float, default=200, help="between GPUs of a node, for NCCL, GB/s")
    options = parser.parse_args()
    ranks = [int(count) for count in options.ranks.split(",")]
    for name in ["parameters", "step_s", "ranks_per_node", "memory_gb_s", "network_gbit_s", "gpu_link_gb_s"]:
        if getattr(options, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0")
    if options.latency_us < 0 or min(ranks) < 1:
        parser.error("--latency-us must be at least 0, and --ranks at least 1")

    print(
        f"{options.parameters / 1e6:.1f} million parameters, {options.step_s * 1e3:.0f} ms a step, nodes of {options.ranks_per_node} "
        f"with {options.memory_gb_s:g} GB/s memory and {options.network_gbit_s:g} Gbit/s network, {options.latency_us:g} us a message\n"
    )
    print("| exchange per step and efficiency | " + " | ".join(f"{count} devices" for count in ranks) + " |")
    print("|---|" + "---|" * len(ranks))
    for name, engine, value_bytes in ENGINES:
        cells = []
        for count in ranks:
            seconds = exchange_s(engine, count, value_bytes, options)
            cells.append(f"{seconds * 1e3:.0f} ms, {100 * options.step_s / (options.step_s + seconds):.0f} %")
        print(f"| {name} | " + " | ".join(cells) + " |")

    print("\n| published | figure | source | the model, two levels at 100 Gbit/s |")
    print("|---|---|---|---|")
    for name, figure, source, parameters, step_s, before, after in PUBLISHED:
        model = "no step time published"
        if parameters:
            case = argparse.Namespace(**{**vars(options), "parameters": parameters, "network_gbit_s": 100.0})
            rate = [step_s + exchange_s("levels", count, 4, case) for count in (before, after)]
            model = f"{100 * rate[0] / rate[1]:.0f} % from {before} to {after}"
        print(f"| {name} | {figure} | {source} | {model} |")


if __name__ == "__main__":
    main()
