"""Makes the files that tests/old_files.rs opens: what one version of Passer leaves on disk, small.

    python3 scripts/old_files.py --passer target/release/passer --out tests/old/VERSION

Run it once for each release, with that release's program, before its successor changes anything. Pictures are made up here.
The folder's README.md says what is in it; `expected.json` holds what the program itself said when it made the files.
Standard library only.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
import urllib.request
import zlib

# The curation keeps absolute paths; this stands for the folder that holds them.
HOME = "/old-files"
# The index of a shard is good only for the shard's time, which a checkout does not keep.
SHARD_TIME = 1_700_000_000

MOCO = """
seed = 3

[data]
batch_images = 8
workers = 1
order = "global"
max_bad_fraction = 0.0

[data.normalize]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[[views]]
count = 2
transforms = [
  { random_resized_crop = { size_px = 16, scale = [0.2, 1.0], ratio = [0.75, 1.3333333333333333], filter = "bilinear" } },
  { color_jitter = { probability = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.4, hue = 0.1 } },
  { grayscale = { probability = 0.2 } },
  { horizontal_flip = { probability = 0.5 } },
]

[backbone.resnet]
depth = 18
width = 1
stem = "small"

[objective.moco]
head = "mlp"
embedding_width = 8
queue_images = 32
momentum = 0.9
temperature = 0.2
shuffle = true

[optimizer.sgd]
learning_rate_per_256 = 0.5
momentum = 0.9
weight_decay = 1e-4
nesterov = false

[schedule.cosine_per_epoch]

[training]
epochs = 6
batch_norm_images = 4
checkpoint_every_epochs = 1
keep_checkpoints = 1
log_every_steps = 1
"""

DINO = """
seed = 4

[data]
batch_images = 8
workers = 2
order = { blocks = 8 }
max_bad_fraction = 0.0

[data.normalize]
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]

[[views]]
count = 2
transforms = [
  { random_resized_crop = { size_px = 16, scale = [0.3, 1.0], ratio = [0.75, 1.3333333333333333], filter = "bicubic" } },
  { horizontal_flip = { probability = 0.5 } },
  { color_jitter = { probability = 0.8, brightness = 0.4, contrast = 0.4, saturation = 0.2, hue = 0.1 } },
]

[[views]]
count = 2
transforms = [
  { random_resized_crop = { size_px = 8, scale = [0.1, 0.3], ratio = [0.75, 1.3333333333333333], filter = "bicubic" } },
  { solarize = { probability = 0.5, threshold = 128 } },
]

[backbone.vit]
width = 8
depth = 2
heads = 2
patch_px = 4
image_px = 16
position = "learned"
interpolation = "offset"
registers = 1
layer_scale = 0.1
drop_path = 0.1
pooling = "class_token"
initialization = "truncated_normal"

[objective.dino]
student_temperature = 0.1
teacher_temperature = 0.04
centering = { mean = { momentum = 0.9 } }
freeze_last_layer_epochs = 1
momentum = 0.9
momentum_end = 1.0

[objective.dino.head]
hidden_width = 16
bottleneck_width = 8
prototypes = 32
batch_norm = false
norm_last_layer = true

[optimizer.adamw]
learning_rate_per_256 = 0.002
betas = [0.9, 0.999]
epsilon = 1e-8
weight_decay = 0.04
weight_decay_end = 0.4
decay_biases_and_norms = false

[schedule.cosine_per_step]
warmup = { epochs = 1, start_learning_rate = 0.0, reaches_peak = "at_its_last_step" }
end_learning_rate = 1e-6

[training]
epochs = 6
clip_gradients = { per_parameter_norm = 3.0 }
checkpoint_every_epochs = 1
keep_checkpoints = 1
log_every_steps = 1
"""

EVALUATE = """
test_transforms = [{ resize_exact = { width_px = 16, height_px = 16, filter = "bilinear" } }]

[data]
batch_images = 8
workers = 1
max_bad_fraction = 0.0

[[protocols]]
[protocols.knn-dino]
neighbors = [1, 3]
headline_neighbors = 3
temperature = 0.07

[[protocols]]
[protocols.linear-cached]
scaling = "standardize"
batch_records = 8
epochs = 5
seeds = [0, 1]
[protocols.linear-cached.optimizer.sgd]
learning_rate_per_256 = 0.1
momentum = 0.9
weight_decay = 0.0
nesterov = false
[protocols.linear-cached.schedule.cosine_per_epoch]
"""

CURATE = """
[source.folder]
folder = "{photos}"
class_folders = false

[[stages]]
[stages.licence]
attribution = ["photographer"]
[[stages.licence.accept]]
name = "CC-BY-4.0"
urls = ["https://creativecommons.org/licenses/by/4.0/"]

[[stages]]
[stages.integrity]
min_side_px = 16
max_side_px = 16384
max_pixels = 178956970
single_colour_levels = 0
placeholders = []

[[stages]]
[stages.duplicates]

[[stages]]
[stages.review]
drop = ["person"]
labelled_twice = 0.5
disagreement = "drop"
seed = 0

[release]
name = "old-files"
description = "Pictures that a script made."
publisher = "nobody"
contact = "nobody"
url = "https://example.org/old"
licence_url = "https://creativecommons.org/licenses/by/4.0/"
records_per_shard = 3
shard_prefix = "photos"
coordinates = false
"""


def write_png(path, number, side, hue):
    """Waves: distinct for distinct numbers, and one channel that tells the classes apart."""

    def level(x, y, channel):
        wave = math.sin(0.21 * x * (1 + number % 5) + 0.17 * y * (1 + number // 5) + number)
        # Few levels, so that the file is small.
        return int(60 + (120 if channel == hue else 0) + 8 * round(6 * wave)) & 255

    rows = b"".join(b"\0" + bytes(level(x, y, c) for x in range(side) for c in range(3)) for y in range(side))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


class Maker:
    def __init__(self, passer, out):
        self.passer, self.out, self.scratch = passer, out, out / "scratch"
        self.expected = {}

    def run(self, *arguments, status=0):
        done = subprocess.run(["passer", *map(str, arguments)], executable=self.passer, capture_output=True, text=True, cwd=self.out)
        if done.returncode != status:
            sys.exit(f"passer {' '.join(map(str, arguments))} ended with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def shards(self):
        for part, first in (("train", 0), ("test", 16)):
            photos = self.scratch / part
            for at in range(first, first + (16 if part == "train" else 8)):
                write_png(photos / ("blue", "red")[at % 2] / f"{at:02}.png", at, 20, (2, 0)[at % 2])
            self.run("shards", "pack", photos, "--out", part, "--records-per-shard", 9)
            for shard in sorted((self.out / part).glob("*.tar")):
                os.utime(shard, (SHARD_TIME, SHARD_TIME))
            for index in (self.out / part).glob("*.idx"):
                index.unlink()
            self.expected[part] = json.loads(self.run("shards", "inspect", "--json", part))
            # Memory, which any version may need more or less of.
            self.expected[part].pop("index_bytes")

    def pretraining(self, name, config):
        """A whole run, for its losses and its encoder, and the same killed half-way."""
        path = self.out / f"{name}.toml"
        path.write_text(config.lstrip())
        pretrain = ["pretrain", path.name, "--device", "flex", "--data", "train", "--out"]
        whole = self.scratch / name
        self.run(*pretrain, whole)
        lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
        self.expected[name] = {"losses": [line["loss"] for line in lines], "steps": [line["step"] for line in lines]}
        shutil.copy(whole / "encoder.safetensors", self.out / f"{name}-encoder.safetensors")
        for attempt in range(200):
            out = self.out / name
            shutil.rmtree(out, ignore_errors=True)
            child = subprocess.Popen(["passer", *pretrain, name], executable=self.passer, cwd=self.out,
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while child.poll() is None and not any(out.glob("checkpoints/step-*")):
                pass
            time.sleep(0.002 * attempt)
            child.kill()
            child.wait()
            steps = [int(folder.name.removeprefix("step-")) for folder in out.glob("checkpoints/step-*")]
            # A kill may leave a folder that is being removed, too: larger, and tests/runs.rs has those.
            if list(out.glob("checkpoints/.partial*")):
                continue
            if len(steps) == 1 and 4 <= steps[0] <= 8 and not (out / "encoder.safetensors").exists():
                self.expected[name]["checkpoint"] = steps[0]
                return
        sys.exit(f"{name} was never killed half-way")

    def evaluation(self):
        (self.out / "evaluate.toml").write_text(EVALUATE.lstrip())
        self.run("evaluate", "run", "evaluate.toml", "--device", "flex", "--encoder", "moco-encoder.safetensors",
                 "--train", "train", "--test", "test", "--no-report", "--out", "scores")

    def answer(self, folder, names, count):
        """Answers of annotators on the review page: the first photo of each shows a person."""
        server = subprocess.Popen([self.passer, "curate", "review", folder, "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        address = server.stdout.readline().strip()

        def call(path, body):
            headers = {"Origin": address.rstrip("/"), "Content-Type": "application/json"}
            request = urllib.request.Request(address + path, json.dumps(body).encode(), headers)
            return json.load(urllib.request.urlopen(request))

        people = [call("api/join", {"name": name})["id"] for name in names]
        for turn in range(count):
            who = people[turn % len(people)]
            for photo in call("api/next", {"annotator": who, "count": 1})["photos"]:
                person = ["person"] if (photo["title"] or "").endswith("with a person") else []
                picture = urllib.request.urlopen(f"{address}thumb/{photo['photo']}?annotator={who}")
                answer = {"photo": photo["photo"], "categories": person, "shown": picture.headers["X-Photo-Sha256"]}
                call("api/answers", {"annotator": who, "page": "old", "number": turn + 1, "answers": [answer]})
        server.send_signal(signal.SIGTERM)
        server.wait()

    def curation(self, name, answers):
        home = self.out / name
        photos = home / "photos"
        for number in range(10):
            write_png(photos / f"p{number}.png", number, 24, number % 3)
            (photos / f"p{number}.json").write_text(json.dumps({
                "photographer": ("Ann", "Bob")[number % 2],
                "title": f"picture {number}" + (" with a person" if number == 4 else ""),
                "licence": "CC-BY-SA-4.0" if number == 9 else "CC-BY-4.0",
                "source_url": f"https://example.org/{number}",
            }))
        shutil.copy(photos / "p0.png", photos / "same.png")
        shutil.copy(photos / "p0.json", photos / "same.json")
        config = home / "curate.toml"
        config.write_text(CURATE.lstrip().format(photos=photos))
        out = home / "out"
        self.run("curate", "run", config, "--out", out, status=3)
        self.answer(out, ("Ann", "Bob"), answers)
        return config, out

    def curations(self):
        begun, out = self.curation("curation-begun", 5)
        self.run("curate", "run", begun, "--out", out, status=3)
        self.expected["curation-begun"] = self.status(out)

        made, out = self.curation("curation", 40)
        self.run("curate", "run", made, "--out", out)
        self.run("curate", "audit", out, "--draw", 3, "--seed", 5)
        self.run("curate", "release", out, "--note", "the first")
        self.run("curate", "takedown", out, "--keys", "p3", "--reason", "asked by its photographer")
        self.expected["curation"] = self.status(out)
        # What the same version says to one more.
        again = self.scratch / "curation"
        shutil.copytree(self.out / "curation", again)
        for path in (again / "curate.toml", again / "out/config.toml"):
            path.write_text(path.read_text().replace(str(self.out / "curation"), str(again)))
        self.move(again / "out/ledger.sqlite", self.out / "curation", again)
        third = json.loads(self.run("curate", "takedown", again / "out", "--keys", "p5", "--json"))["release"]
        third.pop("folder")
        self.expected["third"] = third
        for name in ("curation", "curation-begun"):
            home = self.out / name
            for path in (home / "curate.toml", home / "out/config.toml"):
                path.write_text(path.read_text().replace(str(home), f"{HOME}/{name}"))
            self.move(home / "out/ledger.sqlite", home, f"{HOME}/{name}")
            for left in home.glob("out/*.lock"):
                left.unlink()

    def status(self, out):
        found = json.loads(self.run("curate", "status", out, "--json"))
        for stage in found["stages"]:
            stage.pop("seconds", None)
        return found

    @staticmethod
    def move(ledger, before, after):
        db = sqlite3.connect(ledger)
        for table, column in (("stages", "settings"), ("facts", "value"), ("releases", "folder"), ("photos", "locator")):
            db.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(before), str(after)))
        db.commit()
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.close()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--passer", type=pathlib.Path, required=True)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    options = arguments.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for path in out.iterdir():
        if path.name != "README.md":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    maker = Maker(options.passer.resolve(), out)
    maker.shards()
    maker.pretraining("moco", MOCO)
    maker.pretraining("dino", DINO)
    maker.evaluation()
    maker.curations()
    shutil.rmtree(maker.scratch)
    (out / "expected.json").write_text(json.dumps(maker.expected, indent=1) + "\n")
    print(sum(path.stat().st_size for path in out.rglob("*") if path.is_file()), "bytes in", out)


if __name__ == "__main__":
    main()
