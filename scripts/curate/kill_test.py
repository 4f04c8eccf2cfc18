"""A curation killed in every stage and in its release must end as one that never stopped.

    python3 scripts/curate/kill_test.py --passer target/release/passer --rows 1000000 --sample 1500 --out curations/kills \\
        --faces mobilenet0.25_Final.pth --persons yolox_nano.onnx

Makes rows in YFCC100M's layout (`synthetic_yfcc.py`), serves a small picture for each key on loopback in the layout of
Multimedia Commons (some are missing, truncated, of one color, or the same as another), and runs the stages source, licence,
balance, sample, fetch, integrity, duplicates, faces and persons, and then a release, twice: undisturbed, and with SIGKILL at
several moments of each stage and of the release, each time going on with the same command. Photos, decisions, scores and all
files of the release must be the same, to the byte but for the time of day in the data sheet. Without the weights both detectors are left out. Standard library only.
"""

import argparse
import collections
import hashlib
import http.server
import json
import pathlib
import random
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import zlib

HERE = pathlib.Path(__file__).parent
CONFIG = """
[source.yfcc100m]
files = ["{rows}"]

[[stages]]
[stages.licence]
attribution = ["photographer", "page_url"]
accept = [{{ name = "Attribution License", urls = ["http://creativecommons.org/licenses/by/2.0/"] }}]
[[stages]]
balance = {{ photos_per_photographer = 80, seed = 0 }}
[[stages]]
sample = {{ photos = {sample}, seed = 0 }}
[[stages]]
[stages.fetch]
concurrency = 8
requests_per_second_per_host = 100000.0
attempts = 3
pause_s = 0.1
max_pause_s = 1.0
timeout_s = 60.0
max_bytes = 1048576
max_redirects = 0
gone_addresses = []
give_up_after = 100
private_addresses = true
user_agent = "kill-test"
from = {{ multimedia_commons = {{ base = "{base}" }} }}
[[stages]]
integrity = {{ min_side_px = 64, max_side_px = 1000, max_pixels = 1000000, single_colour_levels = 0, placeholders = [] }}
[[stages]]
duplicates = {{ near = {{ max_distance = 8 }} }}
{detectors}
[release]
name = "kills"
description = "Made-up pictures."
publisher = "nobody"
contact = "nobody"
url = "https://example.org/kills"
licence_url = "https://creativecommons.org/licenses/by/2.0/"
records_per_shard = 200
shard_prefix = "photos"
coordinates = true
metadata = "strip_private"
"""
DETECTORS = """
[[stages]]
faces = {{ weights = "{faces}", score = 0.5, candidate_score = 0.02, nms_iou = 0.4, scale = "original", batch_images = 8 }}
[[stages]]
persons = {{ weights = "{persons}", class = 0, score = 0.5, candidate_score = 0.02, nms_iou = 0.45 }}
"""
# A stage is killed when it has begun, and when it has decided on so much of its photos; the release when it has begun, when
# there is one of its shards, one of its documents, and its folder.
MOMENTS = [0, 0.35, 0.7]
RELEASE_MOMENTS = [".partial-v1", ".partial-v1/photos-000000.tar", ".partial-v1/DATASHEET.md", "v1"]


def picture(number):
    """A PNG of 128 × 96 px: 48 blocks of random colours."""
    draw = random.Random(number)
    blocks = [[bytes(draw.randrange(256) for _ in range(3)) for _ in range(8)] for _ in range(6)]
    if number % 97 == 0:
        blocks = [[b"\x20\x40\x60"] * 8] * 6
    rows = b"".join(b"\0" + b"".join(block * 16 for block in blocks[y // 16]) for y in range(96))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", 128, 96, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def serve(pictures):
    class Pictures(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            key = self.path.rsplit("/", 1)[-1].removesuffix(".jpg")
            number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % pictures
            time.sleep(0.005)
            body = picture(number)
            if number % 53 == 0:
                body = body[: len(body) // 2]
            self.send_response(404 if number % 31 == 0 else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_):
            pass  # clients are killed

    server = Quiet(("127.0.0.1", 0), Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/data/images"


def look(folder, query):
    """Rows of the ledger; none where there is no such table yet."""
    try:
        ledger = sqlite3.connect(f"file:{folder}/ledger.sqlite?mode=ro", uri=True, timeout=5)
        rows = ledger.execute(query).fetchall()
        ledger.close()
        return rows
    except sqlite3.OperationalError:
        return []


def digest(folder):
    found = hashlib.sha256()
    for query in (
        # Names and not their numbers, which are in the order in which they came.
        "SELECT p.id, p.key, p.photographer, p.photographer_id, p.title, p.date_taken, p.latitude, p.longitude, p.page_url, "
        "p.image_url, l.name, l.url FROM photos p LEFT JOIN licences l ON l.id = p.licence ORDER BY p.id",
        "SELECT stage, photo, kept, reason, score, detail FROM decision_log ORDER BY stage, photo",
        "SELECT id, name, kept, dropped, done FROM stages ORDER BY id",
        "SELECT * FROM images ORDER BY photo",
        "SELECT * FROM pairs ORDER BY photo, other",
        "SELECT version, fingerprint, records, added, removed FROM releases",
        "SELECT * FROM release_photos ORDER BY version, shard, place",
    ):
        for row in look(folder, query):
            found.update(repr(row).encode())
    return found.hexdigest()


def files(folder):
    """Hashes of all files below `releases`, without the time of day at which a data sheet was made."""
    found = {}
    for path in sorted(folder.glob("releases/**/*")):
        if path.is_file():
            content = path.read_bytes()
            if path.name == "DATASHEET.md":
                content = re.sub(rb"made [-0-9T:Z]+,", b"", content)
            if path.name == "SHA256SUMS":
                content = re.sub(rb".*DATASHEET.md\n", b"", content)
            found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--passer", type=pathlib.Path, required=True)
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--sample", type=int, default=1500)
    arguments.add_argument("--faces", type=pathlib.Path)
    arguments.add_argument("--persons", type=pathlib.Path)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    options = arguments.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True)
    rows = out / "yfcc.tsv"
    subprocess.run([sys.executable, HERE / "synthetic_yfcc.py", "--rows", str(options.rows), "--out", rows], check=True)
    detectors = ""
    if options.faces and options.persons:
        detectors = DETECTORS.format(faces=options.faces.resolve(), persons=options.persons.resolve())
    config = out / "config.toml"
    config.write_text(CONFIG.format(rows=rows, sample=options.sample, base=serve(2 * options.sample), detectors=detectors))

    def start(folder, verb):
        words = ["run", config, "--out", folder] if verb == "run" else ["release", folder]
        with open(out / "log", "a") as log:
            return subprocess.Popen([options.passer.resolve(), "curate", *words], stdout=log, stderr=log)

    def finish(folder, verb):
        started = time.perf_counter()
        if start(folder, verb).wait() != 0:
            sys.exit(f"`curate {verb}` failed: {(out / 'log').read_text()[-2000:]}")
        return time.perf_counter() - started

    whole, killed = out / "whole", out / "killed"
    finish(whole, "run")
    release_seconds = finish(whole, "release")
    stages = look(whole, "SELECT id, name, kept, dropped, seconds FROM stages ORDER BY id")
    for _, name, kept, dropped, seconds in stages:
        print(f"{name:12} kept {kept:8} dropped {dropped:8} {seconds:6.1f} s")
    print(f"release      {release_seconds:.1f} s", flush=True)

    kills = collections.Counter()
    draw = random.Random(0).random
    for stage, name, kept, dropped, _ in stages:
        for moment in MOMENTS:
            # The photo at which the stage is so far. By progress and not by time: a busy machine is slow now and fast then.
            there = f"SELECT 1 FROM stages WHERE id = {stage}"
            if moment > 0:
                place = int(moment * (kept + dropped))
                photo = look(whole, f"SELECT photo FROM decisions WHERE stage = {stage} ORDER BY photo LIMIT 1 OFFSET {place}")[0][0]
                there = f"SELECT 1 FROM decisions WHERE stage = {stage} AND photo >= {photo} LIMIT 1"
            process = start(killed, "run")
            while process.poll() is None and not look(killed, there):
                time.sleep(0.002)
            time.sleep(0.05 * draw())
            if process.poll() is not None:
                if process.returncode != 0:
                    sys.exit(f"`curate run` failed in {name}: {(out / 'log').read_text()[-2000:]}")
                print(f"the run ended before it could be killed in {name}")
                continue
            process.send_signal(signal.SIGKILL)
            process.wait()
            at, done, number = look(killed, "SELECT name, done, id FROM stages ORDER BY id DESC LIMIT 1")[0]
            decisions = look(killed, f"SELECT count(*) FROM decisions WHERE stage = {number}")[0][0]
            print(f"killed in {at}{', done' if done else ''}, {decisions} decisions", flush=True)
            kills[at] += 1
    finish(killed, "run")
    for path in RELEASE_MOMENTS:
        process = start(killed, "release")
        while process.poll() is None and not (killed / "releases" / path).exists():
            time.sleep(0.0005)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            there = sorted(path.name for path in (killed / "releases").glob("*"))
            known = bool(look(killed, "SELECT 1 FROM releases"))
            print(f"killed in release once {path} was there; {there} there, {'known' if known else 'not known'} to the ledger", flush=True)
            kills["release"] += 1
            if known:
                break
    if not look(killed, "SELECT 1 FROM releases"):
        finish(killed, "release")

    print(f"{sum(kills.values())} kills: {dict(kills)}")
    same = digest(whole) == digest(killed)
    print(f"{'same' if same else 'OTHER'} photos, decisions and scores: {digest(whole)}, {digest(killed)}")
    first, second = files(whole), files(killed)
    other = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    print(f"{len(first)} files of the release, {len(other)} not the same to the byte: {other}")
    left = [path.name for path in (killed / "releases").iterdir() if path.name not in {p.name for p in (whole / "releases").iterdir()}]
    print(f"left behind by kills: {left}")
    truth = subprocess.run([sys.executable, HERE / "check_truth.py", f"{rows}.truth.json", killed / "ledger.sqlite"], stdout=subprocess.PIPE, text=True)
    print(truth.stdout)
    sys.exit(0 if same and not other and not left and truth.returncode == 0 else 1)


if __name__ == "__main__":
    main()
