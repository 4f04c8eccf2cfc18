"""Launches of each part of a step, from the log of a run on a GPU:

    CUBECL_DEBUG_LOG=stderr CUBECL_DEBUG_OPTION=profile-full PASSER_LOG=training=trace \
        passer pretrain CONFIG --smoke --device wgpu 2>log && python3 scripts/gpu/count_launches.py log

With --kernels N it also prints the N kernels that are launched most often in the last step."""

import argparse
import re
from collections import Counter

arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
arguments.add_argument("log")
arguments.add_argument("--kernels", type=int, default=0)
arguments = arguments.parse_args()

# Launches since the last of the trainer's lines belong to the part that the next one ends.
parts, launches, step = [], Counter(), None
with open(arguments.log, errors="replace") as log:
    for line in log:
        if trace := re.match(r"TRACE\s+[\d.]+ s (.*) step=(\d+)", line):
            parts.append((int(trace[2]), trace[1], launches))
            launches = Counter()
        elif line.startswith("| "):
            name = line.split("|")[2].strip().split(": ")[0]
            launches[re.sub(r"<.*", "", name).rsplit("::", 1)[-1]] += 1

last = max(step for step, part, _ in parts if part.startswith("optimizer"))
total = Counter()
for step, part, launches in parts:
    if step == last or (step == last + 1 and part.startswith("scalars")):
        print(f"{sum(launches.values()):6}  {part}")
        total += launches
print(f"{sum(total.values()):6}  a step")
for name, count in total.most_common(arguments.kernels):
    print(f"        {count:6}  {name}")
