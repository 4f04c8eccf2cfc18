"""Measures a build of Passer on this machine's GPU, beside PyTorch on the same GPU.

    scripts/gpu/run.sh BINARY [--out FOLDER] [--device cuda] [--minutes 14] [--parts NAME,NAME] [--small]

Makes its inputs, runs one part after the other, the most telling first, and writes FOLDER/report.json and FOLDER/report.md after
each. A part that is done is not run again: the same command continues, with the kernels that are compiled by then. Parts that find
no time left are named as missing. On a machine with many cores `--parts compile` before the first run saves minutes.
--small: sizes with which a CPU that stands in for a GPU can rehearse the whole; its figures mean nothing.
"""

import argparse
import functools
import json
import math
import multiprocessing
import os
import pathlib
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
CONFIGS = HERE.parents[1] / "configs" / "pretrain"
METHODS = ["moco-v2", "moco-v2-cld", "moco-v3", "simclr", "byol", "simsiam", "barlow-twins", "vicreg", "swav", "dino"]
SMOKE = [f"{name}-resnet18-cifar10" for name in METHODS] + ["dino-vit-cifar10", "ibot-vit-cifar10", "mae-vit-cifar10", "moco-v3-vit-cifar10"]
MOCO, DINO = "moco-v2-resnet50-pass", "dino-vit-small-16-pass"
OPTIONAL = ["compile"]
PARITY = ["moco-v2-resnet18-cifar10", "swav-resnet18-cifar10", "dino-vit-cifar10"]


class Kit:
    """The arguments, the clock and the folder of one measurement."""

    def __init__(self, a):
        self.a = a
        self.binary = pathlib.Path(a.binary).resolve()
        self.out = pathlib.Path(a.out).resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.parts = self.out / "parts"
        self.parts.mkdir(exist_ok=True)
        self.ends = time.monotonic() + 60 * a.minutes
        self.cache = self.out / "kernels"
        self.photos = self.out / "photos"
        self.workers = max(1, (os.cpu_count() or 2) - 2)
        self.environment = {**os.environ, **cuda_of_wheels()}

    def left(self):
        return self.ends - time.monotonic()

    def passer(self, *arguments, limit, cache=None, env=None, log=None, enough=None):
        """Runs the program; returns status, output and seconds. At the limit, or when `enough` says so, it is interrupted, then killed."""
        limit = min(limit, max(5.0, self.left()))
        environment = {**self.environment, "PASSER_CACHE_DIR": str(cache or self.cache), **(env or {})}
        started = time.monotonic()
        output = open(log, "w+") if log else open(self.out / f"log-{os.getpid()}-{threading.get_ident()}", "w+")
        with output:
            process = subprocess.Popen(
                [str(self.binary), *map(str, arguments)], stdout=output, stderr=subprocess.STDOUT, env=environment
            )
            status = "ok"
            while process.poll() is None and time.monotonic() - started < limit and not (enough and enough()):
                time.sleep(0.2)
            if process.poll() is None:
                status = "enough" if enough and enough() else "limit"
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            seconds = time.monotonic() - started
            output.seek(0)
            text = re.sub(r"\x1b\[[0-9;]*m", "", output.read())
        if not log:
            os.unlink(output.name)
        if status == "ok" and process.returncode != 0:
            status = f"failed ({process.returncode})"
        return {"status": status, "seconds": round(seconds, 2), "output": text}

    def device(self):
        return ["--device", self.a.device]


def cuda_of_wheels():
    """Where the system has no CUDA, the NVRTC and the headers among the Python packages that torch brings."""
    wheels = [pathlib.Path(folder) / "nvidia" for folder in sys.path]
    wheels = [folder for parent in wheels if parent.is_dir() for folder in sorted(parent.glob("cu1*"))]
    paths = {}
    for folder in wheels:
        if any((folder / "lib").glob("libnvrtc.so*")):
            paths["LD_LIBRARY_PATH"] = ":".join(filter(None, [os.environ.get("LD_LIBRARY_PATH"), str(folder / "lib")]))
    if "CUDA_PATH" not in os.environ:
        for folder in [pathlib.Path("/usr/local/cuda"), pathlib.Path("/opt/cuda"), *wheels]:
            if (folder / "include" / "cuda_fp16.h").exists() and (folder / "include" / "crt" / "mma.h").exists():
                paths["CUDA_PATH"] = str(folder)
                break
    return paths


class Card:
    """What nvidia-smi says of the card while a part runs, twice a second."""

    def __enter__(self):
        self.rows = []
        query = "utilization.gpu,power.draw,memory.used,clocks.sm"
        try:
            self.process = subprocess.Popen(
                ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "-lms", "500"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            self.process = None
            return self
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        return self

    def read(self):
        for line in self.process.stdout:
            try:
                self.rows.append((time.monotonic(), *map(float, line.split(","))))
            except ValueError:
                pass

    def __exit__(self, *_):
        if self.process:
            self.process.terminate()

    def summary(self, since=0.0):
        rows = [row[1:] for row in self.rows if row[0] >= since]
        if not rows:
            return {}
        busy, power, memory, clock = zip(*rows)
        return {
            "gpu_busy_percent": round(statistics.mean(busy)),
            "power_watts": round(statistics.mean(power)),
            "memory_used_mib": round(max(memory)),
            "sm_clock_mhz": round(statistics.mean(clock)),
        }


def tail(text, lines=12):
    return "\n".join(text.strip().splitlines()[-lines:])[-3000:]


# Inputs


def photo(path_and_seed):
    """A picture with large shapes and fine grain, 480 × 360, so that decoding costs what a photograph's does."""
    import numpy as np
    from PIL import Image

    path, seed = path_and_seed
    draw = np.random.default_rng(seed)
    coarse = Image.fromarray(draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((480, 360), Image.BICUBIC)
    grain = draw.normal(0, 12, (360, 480, 1))
    Image.fromarray((np.asarray(coarse) + grain).clip(0, 255).astype("uint8")).save(path, quality=90)


def inputs(kit):
    count = 64 if kit.a.small else 2048
    kit.photos.mkdir(exist_ok=True)
    have = {path.name for path in kit.photos.iterdir()}
    todo = [(str(kit.photos / f"{i:05}.jpg"), i) for i in range(count) if f"{i:05}.jpg" not in have]
    with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
        pool.map(photo, todo, chunksize=16)
    sizes = [path.stat().st_size for path in kit.photos.iterdir()]
    return {"photos": count, "mean_bytes": round(statistics.mean(sizes))}


# Parts


def machine(kit):
    facts = {"python": platform.python_version(), "cpus": os.cpu_count(), "system": platform.platform()}
    facts["binary_mib"] = kit.binary.stat().st_size >> 20
    facts["version"] = kit.passer("--version", limit=60)["output"].strip()
    try:
        query = "name,driver_version,memory.total,power.limit,compute_cap"
        facts["nvidia_smi"] = subprocess.run(
            ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        facts["nvidia_smi"] = "none"
    try:
        import torch

        facts["torch"], facts["cuda_of_torch"] = torch.__version__, torch.version.cuda
        if torch.cuda.is_available():
            facts["ceilings"] = ceilings(torch)
    except ImportError:
        facts["torch"] = "none"
    return facts


def ceilings(torch):
    """TFLOP/s of a square product in each type, GB/s of a device copy (bytes read and written)."""

    def seconds(run):
        for _ in range(3):
            run()
        times = []
        for _ in range(10):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times)

    found = {}
    for name, dtype, side, tf32 in [
        ("f32", torch.float32, 4096, False),
        ("tf32", torch.float32, 8192, True),
        ("bf16", torch.bfloat16, 8192, True),
    ]:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        a, b = (torch.randn(side, side, device="cuda", dtype=dtype) for _ in range(2))
        found[f"product_{name}_tflops"] = round(2 * side**3 / seconds(lambda: a @ b) / 1e12, 1)
    a = torch.randn(1 << 29, device="cuda")
    b = torch.empty_like(a)
    found["copy_gb_per_s"] = round(2 * a.numel() * 4 / seconds(lambda: b.copy_(a)) / 1e9)
    return found


def devices(kit):
    result = kit.passer("devices", limit=150)
    rates = re.findall(r"(f32|bf16|f16)\s*: (\d+) GFLOP/s in a matrix product, (\d+)", result["output"])
    return {
        "status": result["status"],
        "seconds": result["seconds"],
        "gflops": [{"type": name, "product": int(p), "convolution": int(c)} for name, p, c in rates],
        "output": tail(result["output"], 40),
    }


def start(kit):
    """The first run on a machine, and the second."""
    cache = kit.out / "kernels-of-start"
    shutil.rmtree(cache, ignore_errors=True)
    config = CONFIGS / "moco-v2-resnet18-cifar10.toml"
    result = {}
    for name in ["cold", "warm"]:
        run = kit.passer("pretrain", config, "--smoke", *kit.device(), limit=240, cache=cache)
        result[name] = {"status": run["status"], "seconds": run["seconds"], "output": tail(run["output"], 4)}
    result["cache_mib"] = round(sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) / 2**20, 1)
    return result


def recipe(kit, config, precision, batch, window):
    """The flags that turn a recipe of `configs/pretrain` into steps to measure: many, until the part's time is over."""
    sets = {
        "training.epochs": 12 if kit.a.small else 200,
        "training.log_every_steps": window,
        "training.checkpoint_every_epochs": 1000,
        "training.precision": f'"{precision}"',
        "data.workers": kit.workers,
        "data.batch_images": batch,
    }
    if "moco" in config and kit.a.small:
        sets |= {"training.batch_norm_images": 2, "objective.moco.queue_images": 64}
    return [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]


def steps(config, precision, batch, kit):
    """A run of a recipe: images per second of its later windows, the loader's share, time to the first window, memory."""
    name = f"{config}-{precision}"
    run = kit.out / "runs" / name
    shutil.rmtree(run, ignore_errors=True)
    run.parent.mkdir(exist_ok=True)
    batch = 4 if kit.a.small else batch
    arguments = recipe(kit, config, precision, batch, window=1 if kit.a.small else 4)
    metrics = run / "metrics.jsonl"

    def enough():
        """Fifteen windows; three where they come late."""
        if not metrics.exists():
            return False
        text = metrics.read_text()
        return text.count("\n") >= 15 or (text.count("\n") >= 3 and time.time() - os.stat(run / "config.toml").st_mtime > 0.8 * kit.a.seconds)

    started = time.monotonic()
    with Card() as card:
        log = kit.parts / f"{name}.log"
        result = kit.passer(
            *("pretrain", CONFIGS / f"{config}.toml", "--data", kit.photos, "--out", run, *kit.device(), *arguments),
            limit=kit.a.seconds,
            log=log,
            env={"PASSER_LOG": "training=trace"},
            enough=enough,
        )
        wall = time.monotonic() - started
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    text = result["output"]
    times = [float(t) for t in re.findall(r"([\d.]+) s scalars read", text)]
    late = lines[len(lines) // 2 :]
    summary = {
        "status": result["status"] if lines else f"{result['status']}: no step ended in {result['seconds']:.0f} s, kernels compile",
        "config": config,
        "precision": precision,
        "batch": batch,
        "windows": len(lines),
        "first_window_seconds": times[0] if times else None,
        "first_losses": [round(line["loss"], 5) for line in lines[:3]],
    }
    if late:
        summary |= {
            "images_per_second": round(statistics.median(line["images_per_second"] for line in late), 1),
            "data_wait": round(statistics.median(line["data_wait"] for line in late), 3),
            "last_loss": late[-1]["loss"],
        }
    memory = re.search(r"peak memory (\d+) MiB(?:, (\d+) MiB on the device)?", text)
    if memory:
        summary["host_memory_mib"], summary["device_memory_mib"] = memory.groups()
    summary |= card.summary(since=started + wall * 0.6)
    summary["trace"] = phases(text)
    summary["output"] = tail("\n".join(line for line in text.splitlines() if "TRACE" not in line), 6)
    return summary


def phases(text):
    """Milliseconds of the host in each phase of a step, medians of the run's second half."""
    rows = re.findall(r"TRACE\s+([\d.]+) s (.+?) (?:step|self\.done)=(\d+)", text)
    phases, last = {}, None
    for seconds, name, _ in rows[len(rows) // 2 :]:
        if last is not None:
            phases.setdefault(name, []).append(1e3 * (float(seconds) - last))
        last = float(seconds)
    return {name: round(statistics.median(values), 2) for name, values in phases.items()}


def torch_steps(kit, *arguments, limit=100):
    arguments = list(arguments)
    if kit.a.small:
        arguments += ["--batch", "2", "--warm-up", "1", "--steps", "1", "--device", "cpu"]
    limit = min(limit, max(5.0, kit.left()))
    with Card() as card:
        began = time.monotonic()
        try:
            done = subprocess.run([sys.executable, HERE / "torch_steps.py", *arguments], capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return {"status": "limit"}
        wall = time.monotonic() - began
    if done.returncode != 0:
        return {"status": f"failed ({done.returncode})", "output": tail(done.stderr)}
    return {"status": "ok", **json.loads(done.stdout.splitlines()[-1]), **card.summary(since=began + wall * 0.7)}


def smoke(kit):
    """Every method on this device, several at once: whether it runs, not how fast."""
    results = {}
    lock = threading.Lock()
    names = list(SMOKE)

    def work():
        while True:
            with lock:
                if not names or kit.left() < 10:
                    return
                name = names.pop(0)
            run = kit.passer("pretrain", CONFIGS / f"{name}.toml", "--smoke", *kit.device(), limit=150)
            results[name] = {"status": run["status"], "seconds": run["seconds"], "output": tail(run["output"], 3)}

    threads = [threading.Thread(target=work) for _ in range(2 if kit.a.small else 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"passed": sum(r["status"] == "ok" for r in results.values()), "of": len(SMOKE), "methods": results}


def parity(kit):
    """The losses of the same steps on the CPU and on this device: a step's loss holds all gradients of the steps before it."""
    results = {}
    for name in PARITY:
        losses = {}
        for device in ["flex", kit.a.device]:
            run = kit.out / "runs" / f"parity-{name}-{device.replace(':', '-')}"
            shutil.rmtree(run, ignore_errors=True)
            run.parent.mkdir(exist_ok=True)
            batch = 8 if kit.a.small else 64
            sets = {"training.log_every_steps": 1, "data.batch_images": batch, "data.workers": 4}
            if "resnet" in name:
                sets["training.batch_norm_images"] = batch // 2
            if name.startswith("moco"):
                sets["objective.moco.queue_images"] = 4 * batch
            arguments = [part for key, value in sets.items() for part in ("--set", f"{key}={value}")]
            metrics = run / "metrics.jsonl"
            result = kit.passer(
                *("pretrain", CONFIGS / f"{name}.toml", "--data", kit.photos, "--out", run, "--device", device, *arguments),
                limit=100,
                enough=lambda: metrics.exists() and metrics.read_text().count("\n") >= 16,
            )
            losses[device] = [json.loads(line)["loss"] for line in metrics.read_text().splitlines()] if metrics.exists() else []
            if not losses[device]:
                results[name] = {"status": result["status"], "device": device, "output": tail(result["output"], 5)}
                break
        else:
            pairs = list(zip(losses["flex"], losses[kit.a.device]))
            errors = [abs(a - b) / max(abs(a), 1e-12) for a, b in pairs]
            results[name] = {
                "status": "ok",
                "steps": len(pairs),
                "first_loss_error": errors[0],
                "largest_error_of_5": max(errors[:5]),
                "largest_error": max(errors),
                "losses": [(round(a, 6), round(b, 6)) for a, b in pairs[:8]],
            }
    return results


def compile_first(kit):
    """Compiles and tunes the kernels of the four training runs at once, as far as a part's seconds go. One process compiles on one
    thread, so this is four times as fast on a machine with cores to spare; the tuner then measures on a busy card."""
    runs = [(config, precision) for config in (MOCO, DINO) for precision in ("bf16", "f32")]
    threads = [threading.Thread(target=steps, args=(config, precision, 256, kit)) for config, precision in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"status": "ok", "cache_mib": round(sum(f.stat().st_size for f in kit.cache.rglob("*") if f.is_file()) / 2**20)}


def features(kit):
    """`passer features` of one encoder on both devices: their difference, and images per second on this one."""
    import numpy
    from safetensors.numpy import load_file

    results = {}
    for config, precision in [(MOCO, "f32"), (DINO, "f32")]:
        run = kit.out / "runs" / f"encoder-{config}"
        shutil.rmtree(run, ignore_errors=True)
        made = kit.passer("pretrain", CONFIGS / f"{config}.toml", "--smoke", "--out", run, "--device", "flex", limit=120)
        encoder = run / "encoder.safetensors"
        if not encoder.exists():
            results[config] = {"status": made["status"], "output": tail(made["output"], 5)}
            continue
        found = {}
        for device in ["flex", kit.a.device]:
            for round_ in range(1 if device == "flex" else 2):
                out = kit.out / "runs" / f"features-{config}-{device.replace(':', '-')}-{round_}.safetensors"
                out.unlink(missing_ok=True)
                result = kit.passer("features", "--encoder", encoder, "--data", kit.photos, "--out", out, "--device", device, limit=100)
                found[device] = {"status": result["status"], "seconds": result["seconds"], "output": tail(result["output"], 4)}
                if out.exists():
                    found[device]["values"] = load_file(out)
        entry = {device: {k: v for k, v in f.items() if k != "values"} for device, f in found.items()}
        values = [found[device].get("values") for device in ["flex", kit.a.device]]
        if all(values):
            errors = {}
            for name in values[0]:
                a, b = (v[name] for v in values)
                if a.ndim >= 2 and a.dtype.kind == "f":
                    a, b = a.astype("f8"), b.astype("f8")
                    errors[name] = float(numpy.linalg.norm(a - b) / max(numpy.linalg.norm(a), 1e-30))
            entry["relative_error"] = errors
        results[config] = entry
    return results


def kernels(config, precision, batch, kit):
    """Where the device's time goes in one run: the summed time of each kernel, from Burn's profiler, which slows the run down."""
    run = kit.out / "runs" / f"kernels-{config}-{precision}"
    shutil.rmtree(run, ignore_errors=True)
    log = kit.parts / f"kernels-{config}-{precision}.log"
    arguments = recipe(kit, config, precision, 4 if kit.a.small else batch, window=1)
    profile = kit.out / f"profile-{config}-{precision}.log"
    profile.unlink(missing_ok=True)
    result = kit.passer(
        *("pretrain", CONFIGS / f"{config}.toml", "--data", kit.photos, "--out", run, *kit.device(), *arguments),
        limit=60,
        log=log,
        env={"CUBECL_DEBUG_LOG": str(profile), "CUBECL_DEBUG_OPTION": "profile-medium"},
    )
    if not profile.exists():
        return {"status": result["status"], "output": tail(result["output"])}
    text = profile.read_text(errors="replace")
    (kit.parts / f"profile-{config}-{precision}-sample.txt").write_text(text[:20000] + "\n…\n" + text[-120000:])
    size = len(text)
    profile.unlink()
    return {"status": result["status"], "log_bytes": size, "output": tail(result["output"], 4)}


def plan():
    """Each part by its name, in their order; those of `OPTIONAL` only by request."""
    moco, dino = MOCO, DINO
    return {
        "compile": compile_first,
        "machine": machine,
        "inputs": inputs,
        "moco-bf16": functools.partial(steps, moco, "bf16", 256),
        "torch-moco-bf16": lambda kit: torch_steps(kit, "moco", "--precision", "bf16", "--channels-last"),
        "dino-bf16": functools.partial(steps, dino, "bf16", 256),
        "torch-dino-bf16": lambda kit: torch_steps(kit, "dino", "--precision", "bf16"),
        "moco-f32": functools.partial(steps, moco, "f32", 256),
        "torch-moco-f32": lambda kit: torch_steps(kit, "moco", "--precision", "f32"),
        "torch-moco-tf32": lambda kit: torch_steps(kit, "moco", "--precision", "tf32", "--channels-last"),
        "dino-f32": functools.partial(steps, dino, "f32", 256),
        "torch-dino-f32": lambda kit: torch_steps(kit, "dino", "--precision", "f32"),
        "parity": parity,
        "smoke": smoke,
        "kernels-moco-bf16": functools.partial(kernels, moco, "bf16", 256),
        "kernels-dino-bf16": functools.partial(kernels, dino, "bf16", 256),
        "devices": devices,
        "start": start,
        "features": features,
        "torch-features-resnet50": lambda kit: torch_steps(kit, "features-resnet50", "--precision", "f32"),
        "torch-features-vit": lambda kit: torch_steps(kit, "features-vit", "--precision", "f32"),
        "torch-moco-bf16-compiled": lambda kit: torch_steps(kit, "moco", "--precision", "bf16", "--channels-last", "--compile", limit=150),
        "torch-dino-bf16-compiled": lambda kit: torch_steps(kit, "dino", "--precision", "bf16", "--compile", limit=150),
    }


# Report


def flat(value):
    if isinstance(value, dict):
        return ", ".join(f"{key} {flat(v)}" for key, v in value.items() if key not in ("output", "methods", "losses"))
    if isinstance(value, list):
        return "; ".join(flat(v) for v in value)
    if isinstance(value, float):
        return f"{value:.3g}" if not math.isfinite(value) or abs(value) < 100 else f"{value:.0f}"
    return str(value)


def report(kit, results):
    (kit.out / "report.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = ["| work | Passer | PyTorch | ratio | waits for data | memory of the device |", "|---|---|---|---|---|---|"]
    for name in [n for n in results if f"torch-{n}" in results]:
        ours, theirs = results[name], results[f"torch-{name}"]
        mine, other = (r.get("images_per_second") for r in (ours, theirs))
        ratio = f"{mine / other:.3f}" if mine and other else ""
        wait = f"{100 * ours['data_wait']:.0f} %" if "data_wait" in ours else ""
        lines.append(
            f"| {name} | {mine or ours['status']} images/s | {other or theirs['status']} | {ratio} | {wait} "
            f"| {ours.get('memory_used_mib', '')} / {theirs.get('memory_used_mib', '')} MiB |"
        )
    lines.append("")
    for name, result in results.items():
        lines.append(f"- **{name}** ({result.get('part_seconds', '?')} s): {flat({k: v for k, v in result.items() if k != 'part_seconds'})}")
    missing = [name for name in plan() if name not in results and name not in OPTIONAL]
    if missing:
        lines.append(f"\nNot run: {', '.join(missing)}.")
    (kit.out / "report.md").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--out", default="gpu-report")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=14, help="all parts together")
    parser.add_argument("--seconds", type=float, default=100, help="of each run of training steps, compiling its kernels included")
    parser.add_argument("--parts", help="only these, in this order, separated by commas")
    parser.add_argument("--small", action="store_true", help="a rehearsal on a CPU that stands in for a GPU")
    kit = Kit(parser.parse_args())
    parts = plan()
    wanted = kit.a.parts.split(",") if kit.a.parts else [name for name in parts if name not in OPTIONAL]
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}; there are {', '.join(parts)}")
    results = {}
    for name in parts:
        file = kit.parts / f"{name}.json"
        if file.exists():
            results[name] = json.loads(file.read_text())
            # Its kernels were still being compiled: they are on disk now.
            if results[name].get("windows") == 0:
                del results[name]
    for name in wanted:
        if name in results:
            continue
        if kit.left() < 15:
            break
        print(f"{name} …", flush=True)
        began = time.monotonic()
        try:
            results[name] = parts[name](kit)
        except Exception as error:  # One part's failure must not cost the others their minutes.
            results[name] = {"status": f"error: {type(error).__name__}: {error}"}
        results[name]["part_seconds"] = round(time.monotonic() - began, 1)
        (kit.parts / f"{name}.json").write_text(json.dumps(results[name], indent=1) + "\n")
        print(f"  {results[name].get('status', '')} {flat(results[name])[:300]}", flush=True)
        report(kit, results)
    report(kit, results)
    print(f"report: {kit.out / 'report.md'}")


if __name__ == "__main__":
    main()
