#!/usr/bin/env python3
"""Photos with every metadata field that exiftool can write, and a check with exiftool of a release of them.

    python3 every_field.py write FOLDER           # a JPEG, progressive JPEG, JPEG of inks, PNG of 16 bits, WebP, animated WebP, animated GIF, with sidecars
    python3 every_field.py check FOLDER RELEASE   # only fields of a list are left, credits with their values; pixels of all frames equal

Each text holds the word SECRET, each credit the word CREDIT. Needs Debian's `libimage-exiftool-perl`, Pillow and numpy.
`embedded_metadata.py` beside it writes what exiftool does not: maker notes, second pictures, trailers, gaps.
"""
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
from PIL import Image

from embedded_metadata import LICENCE, encoded, picture

CREDITS = {
    "IFD0:Artist": "CREDIT artist", "IFD0:Copyright": "CREDIT copyright", "IFD0:XPAuthor": "CREDIT author",
    "XMP-dc:Creator": "CREDIT creator", "XMP-dc:Rights": "CREDIT rights", "XMP-xmpRights:UsageTerms": "CREDIT terms",
    "XMP-xmpRights:WebStatement": "https://example.org/CREDIT", "XMP-xmpRights:Owner": "CREDIT owner", "XMP-xmpRights:Marked": "True",
    "XMP-cc:License": "https://creativecommons.org/licenses/by/4.0/", "XMP-cc:AttributionName": "CREDIT name",
    "XMP-cc:AttributionURL": "https://example.org/CREDIT", "XMP-photoshop:Credit": "CREDIT line", "XMP-photoshop:Source": "CREDIT source",
    "XMP-tiff:Artist": "CREDIT artist", "XMP-tiff:Copyright": "CREDIT copyright", "IPTC:By-line": "CREDIT by-line", "IPTC:Credit": "CREDIT credit",
    "IPTC:Source": "CREDIT source", "IPTC:CopyrightNotice": "CREDIT notice", "Photoshop:CopyrightFlag": "True", "Photoshop:URL": "https://example.org/CREDIT",
    "PNG:Author": "CREDIT author", "PNG:Copyright": "CREDIT copyright",
}
# Groups whose fields describe the file and its pixels, and fields beside the credits that may be left.
OWN_GROUPS = {"ExifTool", "System", "File", "Composite", "JFIF", "PNG", "PNG-pHYs", "RIFF", "GIF", "ICC_Profile", "ICC-header", "ICC-view", "ICC-meas", "Adobe"}
LEFT = {
    "IFD0": {"Orientation", "XResolution", "YResolution", "ResolutionUnit", "Artist", "Copyright", "XPAuthor", "TransferFunction", "WhitePoint",
             "PrimaryChromaticities", "YCbCrCoefficients", "YCbCrSubSampling", "YCbCrPositioning", "ReferenceBlackWhite"},
    "ExifIFD": {"ExifVersion", "ColorSpace", "Gamma", "Photographer"},
    "InteropIFD": {"InteropIndex", "InteropVersion"},
    "IPTC": {"By-line", "Credit", "Source", "CopyrightNotice", "CodedCharacterSet", "ApplicationRecordVersion"},
    "Photoshop": {"CopyrightFlag", "URL", "IPTCDigest"},
    "XMP-dc": {"Creator", "Rights"},
    "XMP-xmpRights": {"Certificate", "Marked", "Owner", "UsageTerms", "WebStatement"},
    "XMP-cc": {"License", "AttributionName", "AttributionURL", "MorePermissions", "UseGuidelines"},
    "XMP-photoshop": {"Credit", "Source"},
    "XMP-tiff": {"Artist", "Copyright", "Orientation"},
    "XMP-exif": {"ColorSpace"},
    "XMP-x": set(),
}
PNG_TEXTS = {"Author", "Copyright"}
# These would make the file another picture, or exiftool cannot write them.
NOT_WRITTEN = {"Orientation", "ImageWidth", "ImageHeight", "ImageLength", "AnimationIterations"}


def fields(tables):
    """Assignments for all writable fields of some of exiftool's tables."""
    lines = ["-n"]
    for name in tables:
        text = subprocess.run(["exiftool", "-listx", f"-{name}"], capture_output=True, check=True).stdout
        for table in xml.etree.ElementTree.fromstring(text).iter("table"):
            for tag in table.iter("tag"):
                name, kind = tag.get("name"), tag.get("type")
                group = tag.get("g1") or table.get("g1")
                if tag.get("writable") != "true" or name in NOT_WRITTEN or kind in ("?", "struct"):
                    continue
                group = {"All": "EXIF", "Composite": "EXIF"}.get(group, group)
                if name in LEFT.get(group, ()) or (group == "EXIF" and name in LEFT["IFD0"] | LEFT["ExifIFD"] | LEFT["InteropIFD"]):
                    continue
                number = kind.startswith(("int", "rational", "real", "float", "double"))
                value = "7" if number else {"boolean": "True", "date": "2024:01:02 03:04:05"}.get(kind, f"SECRET {name}")
                lines.append(f"-{group}:{name}={value}")
    return lines


SINGLE = {"GPSLatitude": 51.5, "GPSLatitudeRef": "N", "GPSLongitude": 0.12, "GPSLongitudeRef": "W", "IFD0:Orientation": 6, "Comment": "SECRET comment"}
XMP_LISTS = {"XMP-dc:Title-de": "SECRET title", "XMP-iptcExt:PersonInImage": "SECRET person"}


def assignments(values, is_xmp):
    return [f"-{name}={value}" for name, value in values.items() if name.startswith("XMP") == is_xmp]


def segments(jpeg):
    """The segments of metadata behind the start of a JPEG."""
    at = 2
    while jpeg[at + 1] >= 0xE0:
        at += 2 + struct.unpack(">H", jpeg[at + 2 : at + 4])[0]
    return jpeg[2:at]


def packet(png):
    """The packet of XMP in a PNG."""
    head = b"XML:com.adobe.xmp\0\0\0\0\0"
    at = png.index(head)
    length = struct.unpack(">I", png[at - 8 : at - 4])[0]
    return png[at + len(head) : at + length]


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    frames = [picture(seed) for seed in (4, 6, 8)]
    deep = Image.fromarray((np.array(picture(2).convert("L")).astype(np.uint16) * 257 + 3).astype(np.uint16))
    animation = {"save_all": True, "append_images": frames[1:]}
    made = {
        "baseline.jpg": encoded(picture(1), "JPEG", quality=90), "progressive.jpg": encoded(picture(2), "JPEG", progressive=True),
        "inks.jpg": encoded(picture(3).convert("CMYK"), "JPEG"), "deep.png": encoded(deep, "PNG"), "plain.png": encoded(picture(5), "PNG"),
        "lossy.webp": encoded(picture(6), "WEBP", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"), "moving.webp": encoded(frames[0], "WEBP", **animation),
        "moving.gif": encoded(frames[0], "GIF", **animation),
    }
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "thumbnail.jpg").write_bytes(encoded(picture(9, (24, 16)), "JPEG", comment=b"SECRET thumbnail"))
        others = fields(("EXIF:All", "GPS:All", "IPTC:All", "Photoshop:All", "PNG:All", "JFIF:All"))
        others += [*assignments(SINGLE, False), *assignments(CREDITS, False), f"-ThumbnailImage<={home}/thumbnail.jpg", f"-PhotoshopThumbnail<={home}/thumbnail.jpg"]
        xmp = [*fields(("XMP:All",)), *assignments(XMP_LISTS, True), *assignments(CREDITS, True)]
        (Path(home) / "others").write_text("\n".join(others))
        (Path(home) / "all").write_text("\n".join(others + xmp))

        def exiftool(*arguments):
            subprocess.run(["exiftool", "-q", "-q", "-m", "-overwrite_original", *map(str, arguments)], stderr=subprocess.DEVNULL)

        for name, content in made.items():
            (folder / name).write_bytes(content)
            (folder / (name + ".json")).write_text(json.dumps(LICENCE))
        # exiftool takes a minute to write a packet of 3,800 fields, so it is written twice and copied.
        exiftool("-@", f"{home}/all", folder / "baseline.jpg", folder / "deep.png")
        (Path(home) / "packet").write_bytes(packet((folder / "deep.png").read_bytes()))
        exiftool("-@", f"{home}/others", f"-XMP<={home}/packet", *(folder / name for name in made if name.split(".")[1] != "jpg" and name != "deep.png"))
        written = segments((folder / "baseline.jpg").read_bytes())
        for name in ("progressive.jpg", "inks.jpg"):
            (folder / name).write_bytes(made[name][:2] + written + made[name][2:])
    for name, content in made.items():
        print(f"{name}: {len(content)} -> {(folder / name).stat().st_size} bytes, {len(tags(folder / name))} fields")


def tags(path):
    """All fields that exiftool reads: (group, name) and value."""
    command = ["exiftool", "-j", "-G1", "-a", "-u", "-U", "-ee", "-struct", "-n", str(path)]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
    return {tuple(name.split(":", 1)) if ":" in name else ("", name): value for name, value in found.items()}


def frames_of(path):
    image = Image.open(path)
    kept = []
    for frame in range(getattr(image, "n_frames", 1)):
        image.seek(frame)
        kept.append(np.array(image))
    return kept


def check(folder, release):
    faults, seen = [], 0
    with tempfile.TemporaryDirectory() as home:
        for path in sorted(release.glob("*.tar")):
            with tarfile.open(path) as archive:
                for member in archive.getmembers():
                    key, _, kind = member.name.rpartition(".")
                    if kind in ("json", "cls"):
                        continue
                    now, source = Path(home) / member.name, folder / member.name
                    now.write_bytes(archive.extractfile(member).read())
                    before, after = tags(source), tags(now)
                    seen += 1
                    for (group, name), value in after.items():
                        own = group in OWN_GROUPS and (group != "PNG" or name in PNG_TEXTS or "SECRET" not in str(value))
                        if "SECRET" in str(value) or not (own or group == "" or name in LEFT.get(group, ())):
                            faults.append(f"{member.name}: {group}:{name} = {value}")
                    for credit, value in CREDITS.items():
                        group, name = credit.split(":")
                        kept = {place for place in before if place == (group, name)}
                        faults.extend(f"{member.name}: {credit} was {before[place]}, is {after.get(place)}" for place in kept if after.get(place) != before[place])
                    if after.get(("IFD0", "Orientation")) != before.get(("IFD0", "Orientation")):
                        faults.append(f"{member.name}: another orientation")
                    content = now.read_bytes()
                    if b"SECRET" in content or b"S\0E\0C\0R\0E\0T" in content:
                        faults.append(f"{member.name}: a private text is in its bytes")
                    old, new = frames_of(source), frames_of(now)
                    if len(old) != len(new) or any(a.dtype != b.dtype or a.tolist() != b.tolist() for a, b in zip(old, new)):
                        faults.append(f"{member.name}: other pixels")
                    credits = sum("CREDIT" in str(value) for value in after.values())
                    print(f"{member.name}: {len(before)} -> {len(after)} fields, {credits} credits, {len(new)} frames equal")
    print("\n".join(faults) or f"{seen} photos: nothing private, credits there, pixels equal")
    return 1 if faults or seen != len([path for path in folder.iterdir() if path.suffix != ".json"]) else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder]:
            write(Path(folder))
        case ["check", folder, release]:
            sys.exit(check(Path(folder), Path(release)))
        case _:
            sys.exit(__doc__)
