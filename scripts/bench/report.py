"""What the PyTorch sides of the step benchmarks print: one JSON object."""

import json
import resource
import statistics

import torch


def report(a, seconds, batch, settings):
    """Rate, step time and peak memory of timed steps, with the settings.

    `a` holds the arguments `warm_up`, `threads`, `steps` and `channels_last`, `seconds` each step's time, the warm-up's first.
    """
    step = statistics.median(seconds[a.warm_up :])
    measured = {
        "images_per_second": round(batch / step, 3),
        "seconds_per_step": round(step, 4),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    run = {
        "threads": a.threads,
        "steps": a.steps,
        "layout": "channels_last" if a.channels_last else "contiguous",
        "torch": torch.__version__,
    }
    print(json.dumps(measured | settings | run))
