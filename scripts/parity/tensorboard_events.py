"""Kills and resumes a run five times and reads its directory with TensorBoard's own reader: every number of `metrics.jsonl` must
come back, equal (as a 32-bit float), at its step and time, and once; the config as text and the views as a picture too. A
TensorBoard that serves the directory over all kills must show the same in the end.

    pip install tensorboard
    python scripts/parity/tensorboard_events.py --passer target/release/passer
"""

import argparse
import json
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

import numpy
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

KILLS = 5
SETS = [
    "data.batch_images=16", "training.batch_norm_images=8", "training.epochs=40", "training.log_every_steps=1",
    "training.keep_checkpoints=2", "training.checkpoint_every_epochs=1", "backbone.resnet.width=4", "objective.moco.queue_images=64",
    "objective.moco.embedding_width=16", "views.0.transforms.0.random_resized_crop.size_px=16",
]


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def expected(run):
    """(last part of the tag, step) -> (time, value) of every number of the log."""
    found = {}
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        step, at = line.pop("step"), line.pop("unix_seconds")
        for name, value in {**line.pop("signals"), **line}.items():
            assert (name, step) not in found, f"{name} at step {step} is in the log twice"
            found[name, step] = (at, float32(value))
    return found


def read(reader):
    found = {}
    for tag in reader.Tags()["scalars"]:
        for event in reader.Scalars(tag):
            key = (tag.split("/")[-1], event.step)
            assert key not in found, f"{key} comes back twice"
            found[key] = (event.wall_time, event.value)
    return found


def served(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/{path}", timeout=20) as answer:
        return json.loads(answer.read())


def all_served(port):
    """The same from a TensorBoard over HTTP, or None while it is not ready."""
    try:
        runs = served(port, "plugin/scalars/tags")
        assert len(runs) <= 1, runs
        found = {}
        for run, tags in runs.items():
            for tag in tags:
                query = urllib.parse.urlencode({"run": run, "tag": tag})
                for at, step, value in served(port, f"plugin/scalars/scalars?{query}"):
                    key = (tag.split("/")[-1], step)
                    assert key not in found, f"TensorBoard shows {key} twice"
                    found[key] = (at, value)
        return found
    except OSError:
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--passer", type=pathlib.Path, required=True)
    passer = parser.parse_args().passer.resolve()
    draws = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        photos, run = folder / "photos", folder / "run"
        photos.mkdir()
        noise = numpy.random.default_rng(0)
        for picture in range(64):
            Image.fromarray(noise.integers(0, 255, (36, 40, 3), dtype=numpy.uint8)).save(photos / f"{picture}.png")
        command = [str(passer), "pretrain", "configs/pretrain/moco-v2-resnet18-cifar10.toml", "--device", "flex", "--data", str(photos)]
        command += ["--out", str(run), "--resume"] + [word for key in SETS for word in ("--set", key)]
        log, lines = run / "metrics.jsonl", 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        board = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run), "--port", str(port), "--reload_interval", "1"]
        board = subprocess.Popen(board + ["--samples_per_plugin", "scalars=100000"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for kill in range(KILLS):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            # Behind a few more lines, in the middle of anything.
            while not log.exists() or log.read_bytes().count(b"\n") < lines + 4:
                assert process.poll() is None, "the run ended before it was killed"
                time.sleep(0.01)
            time.sleep(draws.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
            process.wait()
            lines = log.read_bytes().count(b"\n")
            time.sleep(3)
            shown = all_served(port) or {}
            print(f"kill {kill + 1} at {lines} lines; TensorBoard shows {len({step for _, step in shown})} steps")
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        files = sorted(path.name for path in run.glob("*tfevents*"))
        assert len(files) == 1, files
        wanted = expected(run)
        reader = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0, "images": 0})
        reader.Reload()
        found = read(reader)
        assert found == wanted, [key for key in wanted if wanted[key] != found.get(key)][:5]
        [text] = reader.Tensors("run/config")
        config = text.tensor_proto.string_val[0].decode()
        assert config == "".join(f"    {line}\n" for line in (run / "config.toml").read_text().splitlines())
        [picture] = reader.Images("views")
        assert picture.encoded_image_string == (run / ".views.jpg").read_bytes()
        assert (picture.width, picture.height) == Image.open(run / ".views.jpg").size
        print(f"TensorBoard's reader: {len(found)} scalars of {len({step for _, step in found})} lines, each equal and once; tags "
              f"{', '.join(sorted(reader.Tags()['scalars']))}")
        for _ in range(60):
            shown = all_served(port)
            if shown == wanted:
                break
            time.sleep(1)
        board.terminate()
        differing = [key for key in wanted.keys() | (shown or {}).keys() if wanted.get(key) != (shown or {}).get(key)]
        assert not differing, f"the TensorBoard that ran all the time differs in {len(differing)}, e.g. {sorted(differing)[:3]}"
        print(f"the TensorBoard that ran over all kills shows the same {len(shown)} scalars")


main()
