"""From two packages of photos to an encoder, with every step checked: release, Croissant, training, takedown.

    apt-get install lomiri-wallpapers-16.04
    pip install mlcroissant pillow; pip install --no-deps scikit-image
    python3 scripts/curate/open_photos.py --passer target/release/passer --out curations/open \\
        --faces mobilenet0.25_Final.pth --persons yolox_nano.onnx

Lists the photos of Debian's lomiri-wallpapers-16.04 (9 CC BY, 5 CC BY-SA, 1 CC0) and scikit-image's astronaut (public domain)
and camera (CC0), runs `configs/curate/folder.toml` and `open-photos.toml` over them, and stops at the first thing that is not
as it must be. Needs mlcroissant, Pillow and scikit-image.
"""

import argparse
import csv
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parent.parent / "configs"
SCIKIT_IMAGE = {"astronaut", "camera"}


def call(*words):
    print("$", *words, flush=True)
    subprocess.run([str(word) for word in words], check=True)


def must(what, found, expected):
    print(f"{'ok' if found == expected else 'WRONG'}: {what}: {sorted(found) if isinstance(found, set) else found}", flush=True)
    if found != expected:
        sys.exit(f"expected {expected}")


def keys_of(release):
    with open(release / "pass_metadata.csv", newline="") as file:
        return {row["hash"] for row in csv.DictReader(file)}


def fingerprint_of(encoder):
    with open(encoder, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(json.loads(file.read(length))["__metadata__"]["passer"])["fingerprint"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("passer", "out", "faces", "persons"):
        arguments.add_argument(f"--{name}", type=pathlib.Path, required=True)
    options = arguments.parse_args()
    passer, out = options.passer.resolve(), options.out.resolve()
    if out.exists():
        sys.exit(f"{out} is there already")
    photos = out / "photos"
    call(sys.executable, HERE / "debian_sidecars.py", "lomiri-wallpapers-16.04", "16.04", photos)
    call(sys.executable, HERE / "skimage_sidecars.py", photos)
    licences = {path.stem: json.loads(path.read_text())["licence"] for path in photos.glob("*.json")}
    wallpapers = {key for key, licence in licences.items() if licence in ("CC-BY-4.0", "CC0-1.0")} - SCIKIT_IMAGE
    must("photos, those under a licence that is accepted", (len(licences), len(wallpapers)), (17, 10))

    source = f"source.folder.folder={photos}"
    detectors = [f"stages.3.faces.weights={options.faces.resolve()}", f"stages.4.persons.weights={options.persons.resolve()}"]
    facts = ["release.publisher=open_photos.py", "release.contact=nobody@example.org", "release.url=https://example.org/open-photos"]
    expected = {"folder": wallpapers | {"camera"}, "open-photos": wallpapers}
    for name, edits in (("folder", [source]), ("open-photos", [source, *detectors])):
        edits = [word for edit in [*edits, *facts] for word in ("--set", edit)]
        call(passer, "curate", "run", CONFIGS / f"curate/{name}.toml", "--out", out / name, *edits)
        call(passer, "curate", "release", out / name)
        must(f"{name} keeps", keys_of(out / name / "releases/v1"), expected[name])

    # mlcroissant keeps what it extracted by the name of the archive alone: without this, version 2 would be version 1's photos.
    cache = out / "croissant"
    os.environ["CROISSANT_CACHE"] = str(cache)
    import mlcroissant

    def published(version):
        shutil.rmtree(cache, ignore_errors=True)
        description = out / f"open-photos/releases/v{version}/croissant.json"
        data = mlcroissant.Dataset(str(description))
        must(f"what mlcroissant says against version {version}", list(data.metadata.issues.errors), [])
        return {row["photos/hash"].decode(): (row["photos/licence"].decode(), row["photos/image"].size) for row in data.records("photos")}

    rows = published(1)
    must("licences as mlcroissant reads them", {key: row[0] for key, row in rows.items()}, {key: licences[key] for key in wallpapers})

    call(
        passer, "pretrain", CONFIGS / "pretrain/moco-v2-resnet18-cifar10.toml", "--data", out / "open-photos/releases/v1", "--out", out / "run",
        *(word for edit in ("data.batch_images=5", "objective.moco.queue_images=10", "training.epochs=1", "training.batch_norm_images=5") for word in ("--set", edit)),
    )  # fmt: skip
    status = json.loads(subprocess.check_output([passer, "curate", "status", "--json", out / "open-photos"]))
    fingerprint = status["releases"][0]["fingerprint"]
    must("the encoder's fingerprint", fingerprint_of(out / "run/encoder.safetensors"), fingerprint)

    gone = sorted(wallpapers)[0]
    takedown = [passer, "curate", "takedown", out / "open-photos", "--keys", gone, "--encoders", out / "run", "--json"]
    report = json.loads(subprocess.check_output(takedown))
    must("encoders that saw the photo", {found for _, found in report["encoders"]}, {fingerprint})
    must("photos of version 2", set(published(2)), wallpapers - {gone})


if __name__ == "__main__":
    main()
