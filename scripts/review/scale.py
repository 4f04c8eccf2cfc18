"""How fast the review page's server is with very many photos.

    python3 scripts/review/scale.py --passer target/release/passer --photos 1000000 --answers 500000 --out curations/large

Makes a curation of a handful of pictures, writes as many rows as asked for into its ledger (each shows one of the pictures;
detectors' scores fall from row to row, so that the queue is in their order), with answers of two annotators to the first of
them, starts `passer curate review` and measures it from outside. A folder that is there already is taken as it is.
Standard library only.
"""

import argparse
import os
import pathlib
import random
import sqlite3
import statistics
import struct
import time
import zlib

from driver import Client, Server, curation

PICTURES = 8


def write_png(path, number):
    width, height = 240, 160
    rows = b"".join(b"\0" + bytes((x * number, y, x ^ y)[c] & 255 for x in range(width) for c in range(3)) for y in range(height))
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def make(options, out):
    pictures = options.out.resolve() / "pictures"
    pictures.mkdir(parents=True)
    for number in range(PICTURES):
        write_png(pictures / f"p{number}.png", number + 1)
    curation(options.passer, pictures, options.out.resolve(), PICTURES, 0.05)
    draw = random.Random(0).random
    db = sqlite3.connect(out / "ledger.sqlite")
    db.execute("PRAGMA synchronous = OFF")
    for table in ("photos", "decisions", "answers", "annotators"):
        db.execute(f"DELETE FROM {table}")
    licence = db.execute("SELECT id FROM licences").fetchone()[0]
    # Beside the config's stages: what a detector said.
    db.execute("INSERT INTO stages (id, name, settings, done) VALUES (9, 'persons', '{}', 1)")
    photos = range(1, options.photos + 1)
    db.executemany(
        "INSERT INTO photos (id, key, photographer, title, licence, locator) VALUES (?, ?, ?, ?, ?, ?)",
        ((row, f"{row * 0x9E3779B97F4A7C15 & (1 << 64) - 1:016x}", f"nick {row % 9973}", f"Photo {row}", licence, f"p{row % PICTURES}.png") for row in photos),
    )
    for stage in (1, 2):
        db.executemany(f"INSERT INTO decisions VALUES ({stage}, ?, 1, NULL, NULL)", ((row,) for row in photos))
    db.executemany("INSERT INTO decisions VALUES (9, ?, 1, NULL, ?)", ((row, 1 - row / options.photos) for row in photos))
    for number, name in ((1, "Ann"), (2, "Bob")):
        db.execute("INSERT INTO annotators VALUES (?, ?, '2026-01-01T00:00:00Z')", (number, name))

    def answers():
        for row in range(1, options.answers + 1):
            for who in (1, 2) if draw() < 0.05 else (1 + row // 24 % 2,):
                yield row, who, "person" if draw() < 0.1 else "", row // 24 + 1

    db.executemany(
        """INSERT INTO answers (sample, key, annotator, categories, batch, answered)
           SELECT 0, key, ?2, ?3, ?4, '2026-01-01T00:00:00.000Z' FROM photos WHERE id = ?1""",
        answers(),
    )
    db.commit()
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()


def cpu_seconds(process):
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mib(process):
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if line.startswith(("VmHWM", "VmRSS"))}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--passer", required=True)
    arguments.add_argument("--photos", type=int, default=1_000_000)
    arguments.add_argument("--answers", type=int, default=500_000)
    arguments.add_argument("--rounds", type=int, default=100)
    arguments.add_argument("--out", type=pathlib.Path, required=True)
    options = arguments.parse_args()
    out = options.out.resolve() / "out"
    if not (out / "ledger.sqlite").exists():
        make(options, out)
    started = time.perf_counter()
    server = Server(options.passer, out, 0)
    try:
        client = Client(server.start())
        print(f"listens after {time.perf_counter() - started:.1f} s, {cpu_seconds(server.process):.1f} s of CPU time; {peak_mib(server.process)} MiB", flush=True)
        people = [client.call("/api/join", {"name": name})["id"] for name in ("Ann", "Bob", "Eve")]
        for round in range(options.rounds):
            who = people[round % len(people)]
            photos = client.call("/api/next", {"annotator": who, "count": 24}, "next page, first" if round < 3 else "next page")["photos"]
            assert len(photos) == 24
            ids = [photo["photo"] for photo in photos]
            client.change("/api/answers", who, "one answer", client.answers(who, ids[:1], ["person"]))
            client.change("/api/answers", who, "23 answers at once", client.answers(who, ids[1:], []))
            client.call("/api/state", name="state, first" if round == 0 else "state")
            if round % 10 == 9:
                client.change("/api/undo", who, "undo")
                photos = client.call("/api/next", {"annotator": who, "count": 24}, "next page after undo")["photos"]
                assert {photo["photo"] for photo in photos} >= set(ids[1:])
                client.change("/api/answers", who, "23 answers at once", client.answers(who, ids[1:], []))
        state = client.call("/api/state")
        print({key: state[key] for key in ("photos", "done", "labels_open", "wait_for_second")}, state["pairs"], state["annotators"])
        for name, times in client.times.items():
            print(f"{name:22} {len(times):4} times, ms: median {statistics.median(times):8.2f}, longest {max(times):8.2f}")
        print(f"{cpu_seconds(server.process):.1f} s of CPU time in all; {peak_mib(server.process)} MiB")
    finally:
        server.process.terminate()
        server.process.wait()


if __name__ == "__main__":
    main()
