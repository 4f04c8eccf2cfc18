#!/usr/bin/env python3
"""Photos with every kind of metadata that a script can write into them, and a check of a release of them with Pillow.

    python3 embedded_metadata.py write FOLDER           # photos of 48 x 32 px with sidecars
    python3 embedded_metadata.py check FOLDER RELEASE   # nothing private, credits there, pixels equal
    python3 embedded_metadata.py small FOLDER           # JPEGs of 1 to 3 KB in every coding, for tests that damage them

All private texts hold the word SECRET, all credits the word CREDIT, so that a search of the bytes finds what any reader missed.
The files in crates/curation/fixtures/embedded are its output. Needs Pillow and numpy.
"""
import io
import json
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

LICENCE = {"photographer": "CREDIT Ann", "licence": "CC-BY-4.0", "licence_url": "https://creativecommons.org/licenses/by/4.0/"}


def picture(seed=0, size=(48, 32)):
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    planes = [127 + 90 * np.sin(x / (5 + seed + c) + y / (6 + c) + seed) for c in range(3)]
    return Image.fromarray(np.stack(planes, -1).clip(0, 255).astype(np.uint8))


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


# --- EXIF

def ascii_(text):
    return 2, (text + "\0").encode()


def short(*values):
    return 3, values


def rational(*values):
    return 5, values


def undefined(data):
    return 7, data


class Tiff:
    """A TIFF file of nested directories: {tag: (kind, values) | directory}."""

    def __init__(self, big):
        self.order = ">" if big else "<"
        self.out = bytearray((b"MM\0*" if big else b"II*\0") + struct.pack(self.order + "I", 8))

    def value(self, kind, values):
        if isinstance(values, bytes):
            return len(values), values
        if kind == 5:
            return len(values), b"".join(struct.pack(self.order + "II", round(v * 1000), 1000) for v in values)
        return len(values), struct.pack(f"{self.order}{len(values)}{'H' if kind == 3 else 'I'}", *values)

    def directory(self, tags, then=None):
        at = len(self.out)
        self.out += b"\0" * (2 + 12 * len(tags) + 4)
        entries = []
        for tag, content in sorted(tags.items()):
            if isinstance(content, dict):
                entries.append(struct.pack(self.order + "HHII", tag, 4, 1, self.directory(content)))
                continue
            kind, values = content
            count, data = self.value(kind, values)
            if len(data) <= 4:
                place = data.ljust(4, b"\0")
            else:
                place = struct.pack(self.order + "I", len(self.out))
                self.out += data + b"\0" * (len(data) % 2)
            entries.append(struct.pack(self.order + "HHI", tag, kind, count) + place)
        following = 0
        if then is not None:
            following = len(self.out)
            thumbnail = then.pop("thumbnail")
            size = 2 + 12 * (len(then) + 2) + 4
            then[0x0201], then[0x0202] = (4, [following + size]), (4, [len(thumbnail)])
            self.directory(then)
            self.out += thumbnail
        self.out[at : at + 2 + 12 * len(tags) + 4] = (
            struct.pack(self.order + "H", len(tags)) + b"".join(entries) + struct.pack(self.order + "I", following)
        )
        return at


def exif(big=False, orientation=6):
    tiff = Tiff(big)
    gps = {0: (1, b"\2\3\0\0"), 1: ascii_("N"), 2: rational(51, 30, 12), 3: ascii_("W"), 4: rational(0, 7, 39), 6: rational(35), 27: undefined(b"ASCII\0\0\0SECRET-METHOD")}
    details = {
        0x9000: undefined(b"0232"), 0x9003: ascii_("2024:01:02 03:04:05"), 0x9286: undefined(b"ASCII\0\0\0SECRET user comment"),
        0x927C: undefined(b"Maker\0SECRET maker note, owner SECRET"), 0xA001: short(1), 0xA002: short(48), 0xA003: short(32),
        0xA005: {1: ascii_("R98"), 2: undefined(b"0100")}, 0xA420: ascii_("SECRET-UNIQUE-ID"), 0xA430: ascii_("SECRET Owner"),
        0xA431: ascii_("SECRET-BODY-123"), 0xA435: ascii_("SECRET-LENS-456"), 0xA434: ascii_("A lens SECRET"), 0xA436: ascii_("SECRET title"),
        0xA437: ascii_("CREDIT Photographer"),
    }
    main = {
        0x010E: ascii_("SECRET description"), 0x010F: ascii_("SECRET Make"), 0x0110: ascii_("SECRET Model"), 0x0112: short(orientation),
        0x011A: rational(72), 0x011B: rational(72), 0x0128: short(2), 0x0131: ascii_("SECRET Software"), 0x0132: ascii_("2024:01:02 03:04:05"),
        0x013B: ascii_("CREDIT Artist"), 0x013C: ascii_("SECRET-computer"), 0x8298: ascii_("CREDIT Copyright"),
        0x8769: details, 0x8825: gps, 0x9C9C: (1, "SECRET comment\0".encode("utf-16le")), 0x9C9D: (1, "CREDIT Author\0".encode("utf-16le")),
        0x9C9E: (1, "SECRET keywords\0".encode("utf-16le")), 0xC62F: ascii_("SECRET-CAMERA-789"),
    }
    thumbnail = encoded(picture(9, (24, 16)), "JPEG", comment=b"SECRET thumbnail")
    tiff.directory(main, {0x0103: short(6), "thumbnail": thumbnail})
    return bytes(tiff.out)


# --- XMP and IPTC

def xmp(extended=None):
    note = f' xmlns:xmpNote="http://ns.adobe.com/xmp/note/" xmpNote:HasExtendedXMP="{extended}"' if extended else ""
    return f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="SECRET toolkit"><!-- SECRET remark -->
<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<r:Description r:about="uuid:SECRET-about" xmlns:dublin="http://purl.org/dc/elements/1.1/" xmlns:exif="http://ns.adobe.com/exif/1.0/"
 xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/" xmlns:cc="http://creativecommons.org/ns#"
 xmlns:aux="http://ns.adobe.com/exif/1.0/aux/" xmlns:core="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/" xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:xmpGImg="http://ns.adobe.com/xap/1.0/g/img/" xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"
 xmlns:mwg="http://www.metadataworkinggroup.com/schemas/regions/" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"{note}
 exif:GPSLatitude="51,30.2N SECRET" exif:GPSLongitude="0,7.65W SECRET" photoshop:City="SECRET city" photoshop:Credit="CREDIT line" photoshop:Headline="SECRET"
 aux:SerialNumber="SECRET-1" aux:OwnerName="SECRET owner" xmpMM:DocumentID="SECRET-2" xmpRights:Marked="True" tiff:Orientation="6">
<dublin:creator><r:Seq><r:li>CREDIT Ann &amp; Bob</r:li></r:Seq></dublin:creator>
<dublin:rights><r:Alt><r:li xml:lang="x-default">CREDIT © &lt;Ann&gt;</r:li></r:Alt></dublin:rights>
<dublin:description><r:Alt><r:li xml:lang="x-default">SECRET description</r:li></r:Alt></dublin:description>
<dublin:subject><r:Bag><r:li>SECRET keyword</r:li></r:Bag></dublin:subject>
<xmpRights:UsageTerms><r:Alt><r:li xml:lang="en">CREDIT terms</r:li></r:Alt></xmpRights:UsageTerms>
<cc:license r:resource="https://creativecommons.org/licenses/by/4.0/?CREDIT"/>
<core:Location>SECRET location</core:Location>
<ext:LocationShown><r:Bag><r:li r:parseType="Resource"><ext:City>SECRET</ext:City></r:li></r:Bag></ext:LocationShown>
<ext:PersonInImage><r:Bag><r:li>SECRET person</r:li></r:Bag></ext:PersonInImage>
<mwg:Regions r:parseType="Resource"><mwg:RegionList><r:Bag><r:li><r:Description mwg:Name="SECRET person" mwg:Type="Face"/></r:li></r:Bag></mwg:RegionList></mwg:Regions>
<xmp:Thumbnails><r:Alt><r:li r:parseType="Resource"><xmpGImg:image>SECRETxxxx</xmpGImg:image></r:li></r:Alt></xmp:Thumbnails>
</r:Description></r:RDF></x:xmpmeta>{' ' * 64}
<?xpacket end="w"?>""".encode()


EXTENSION = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
 xmlns:GImage="http://ns.google.com/photos/1.0/image/" GImage:Mime="image/jpeg" GImage:Data="SECRET original"/></rdf:RDF></x:xmpmeta>"""


def iptc():
    fields = [
        (1, 90, b"\x1b%G"), (2, 0, b"\0\4"), (2, 5, b"SECRET title"), (2, 25, b"SECRET keyword"), (2, 80, b"CREDIT by-line"), (2, 90, b"SECRET city"),
        (2, 92, b"SECRET sublocation"), (2, 101, b"SECRET country"), (2, 110, b"CREDIT credit"), (2, 115, b"CREDIT source"), (2, 116, b"CREDIT copyright"),
        (2, 118, b"SECRET contact"), (2, 120, b"SECRET caption"),
    ]
    return b"".join(bytes([0x1C, record, field]) + struct.pack(">H", len(value)) + value for record, field, value in fields)


def resources():
    thumbnail = struct.pack(">IIIIIIHH", 1, 24, 16, 72, 1152, 100, 24, 1) + encoded(picture(8, (24, 16)), "JPEG", comment=b"SECRET resource")
    blocks = [(0x0404, iptc()), (0x0409, thumbnail), (0x040A, b"\1"), (0x040B, b"https://example.org/CREDIT"), (0x040C, thumbnail), (0x0425, b"SECRET digest!!!"), (0x0424, xmp())]
    out = b""
    for number, data in blocks:
        out += b"8BIM" + struct.pack(">H", number) + b"\0\0" + struct.pack(">I", len(data)) + data + b"\0" * (len(data) % 2)
    return out


# --- formats

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def jpeg(**options):
    plain = encoded(picture(1), "JPEG", quality=90, icc_profile=PROFILE, **options)

    def segment(mark, data):
        return bytes([0xFF, mark]) + struct.pack(">H", len(data) + 2) + data

    guid = b"0123456789ABCDEF0123456789ABCDEF"
    head = b"http://ns.adobe.com/xmp/extension/\0" + guid
    half = len(EXTENSION) // 2
    parts = [head + struct.pack(">II", len(EXTENSION), at) + EXTENSION[at : at + half] for at in range(0, len(EXTENSION), half)]
    added = segment(0xE1, b"Exif\0\0" + exif()) + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(guid.decode()))
    for part in parts:
        added += segment(0xE1, part)
    block = resources()
    added += segment(0xED, b"Photoshop 3.0\0" + block[:3000]) + segment(0xED, b"Photoshop 3.0\0" + block[3000:])
    added += segment(0xE0, b"JFXX\0\x10" + encoded(picture(7, (24, 16)), "JPEG", comment=b"SECRET jfxx"))
    added += segment(0xE2, b"MPF\0" + b"II*\0SECRET index") + segment(0xE3, b"Meta\0SECRET") + segment(0xEB, b"JP\0\1SECRET jumbf") + segment(0xFE, b"SECRET comment")
    added += segment(0xEE, b"Adobe\0\x64\0\0\0\0\1")
    end = encoded(picture(5), "JPEG", comment=b"SECRET uncropped") + b"\0\0\0\x18ftypmp42SECRET motion photo"
    return plain[:20] + added + plain[20:] + end


def small():
    """JPEGs of few bytes: each coding that decoders read in a way of its own, with a little of each kind of metadata."""

    def segment(mark, data):
        return bytes([0xFF, mark]) + struct.pack(">H", len(data) + 2) + data

    tiff = Tiff(True)
    main = {0x010E: ascii_("SECRET"), 0x0112: short(6), 0x013B: ascii_("CREDIT"), 0x8825: {1: ascii_("N"), 2: rational(51, 30, 12)}}
    thumbnail = encoded(picture(9, (8, 8)).convert("L"), "JPEG", optimize=True, comment=b"SECRET thumbnail")
    tiff.directory(main, {0x0103: short(6), "thumbnail": thumbnail})
    packet = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about=""
 xmlns:dc="http://purl.org/dc/elements/1.1/" dc:title="SECRET" dc:rights="CREDIT"/></r:RDF></x:xmpmeta>"""
    added = segment(0xE1, b"Exif\0\0" + bytes(tiff.out)) + segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet)
    added += segment(0xE2, b"ICC_PROFILE\0\1\1" + bytes(16) + b"mntrRGB XYZ ") + segment(0xFE, b"SECRET comment")
    image = picture(1, (40, 24))
    inks = image.convert("CMYK")
    kinds = {
        "gray.jpg": (image.convert("L"), {}),
        "plain.jpg": (image, {"subsampling": "4:4:4", "optimize": True}),
        "halved.jpg": (image, {"subsampling": "4:2:0"}),
        "sideways.jpg": (image, {"subsampling": "4:2:2", "optimize": True}),
        "restarts.jpg": (image, {"subsampling": "4:2:0", "restart_marker_blocks": 1}),
        "progressive.jpg": (image, {"progressive": True, "subsampling": "4:2:0"}),
        "progressive_restarts.jpg": (image, {"progressive": True, "restart_marker_blocks": 2}),
        "progressive_gray.jpg": (image.convert("L"), {"progressive": True}),
        "inks.jpg": (inks, {"optimize": True}),
        "progressive_inks.jpg": (inks, {"progressive": True}),
    }
    made = {}
    for name, (picture_, options) in kinds.items():
        plain = encoded(picture_, "JPEG", quality=60, **options)
        at = 20 if plain[2:4] == b"\xff\xe0" else 2
        made[name] = plain[:at] + added + plain[at:-2] + segment(0xFE, b"SECRET behind a scan") + plain[-2:]
    return made


def png():
    plain = encoded(picture(2), "PNG", icc_profile=PROFILE, dpi=(72, 72))

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def raw(kind, block):
        text = block.hex()
        lines = "\n".join(text[at : at + 72] for at in range(0, len(text), 72))
        return f"\n{kind}\n{len(block):8}\n{lines}\n".encode()

    added = chunk(b"eXIf", exif(big=True)) + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp())) + chunk(b"tIME", bytes([7, 232, 1, 2, 3, 4, 5]))
    added += chunk(b"tEXt", b"Author\0CREDIT Ann") + chunk(b"tEXt", b"Copyright\0CREDIT text") + chunk(b"tEXt", b"Comment\0SECRET comment") + chunk(b"tEXt", b"Software\0SECRET")
    added += chunk(b"zTXt", b"Description\0\0" + zlib.compress(b"SECRET description")) + chunk(b"iTXt", b"Title\0\0\0en\0Titel\0SECRET title")
    added += chunk(b"zTXt", b"Raw profile type iptc\0\0" + zlib.compress(raw("iptc", resources()))) + chunk(b"tEXt", b"Raw profile type exif\0" + raw("exif", b"Exif\0\0" + exif()))
    added += chunk(b"prVt", b"SECRET private chunk")
    at = plain.index(b"IDAT") - 4
    return plain[:at] + added + plain[at:-12] + chunk(b"tEXt", b"Late\0SECRET") + plain[-12:] + b"SECRET behind the end"


def webp(**options):
    plain = encoded(picture(3), "WEBP", quality=90, icc_profile=PROFILE, exif=exif(big=True), xmp=xmp(), **options)
    extra = b"JUNK" + struct.pack("<I", 7) + b"SECRET!\0"
    body = plain[8:] + extra
    return b"RIFF" + struct.pack("<I", len(body)) + body + b"SECRET behind the end"


def gif():
    frames = [picture(4).quantize(16), picture(6).quantize(16)]
    plain = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], loop=3, comment=b"SECRET comment")
    packet = xmp()
    magic = b"\1" + bytes(range(255, -1, -1)) + b"\0"
    added = b"\x21\xff\x0bXMP DataXMP" + packet + magic + b"\x21\xfe\x06SECRET\0" + b"\x21\xff\x0bVENDOR  1.0\x06SECRET\0"
    at = plain.index(b"\x21\xff\x0bNETSCAPE")
    return plain[:at] + added + plain[at:] + b"SECRET behind the end"


def bmp():
    plain = bytearray(encoded(picture(5), "BMP"))
    gap = b"SECRET gap "
    at = struct.unpack("<I", plain[10:14])[0]
    plain[10:14] = struct.pack("<I", at + len(gap))
    return bytes(plain[:at]) + gap + bytes(plain[at:]) + b"SECRET behind the end"


def files():
    return {
        "baseline.jpg": jpeg(), "progressive.jpg": jpeg(progressive=True), "chunks.png": png(), "lossy.webp": webp(), "lossless.webp": webp(lossless=True),
        "animation.gif": gif(), "gap.bmp": bmp(),
    }


def write(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (folder / name).write_bytes(content)
        (folder / (name + ".json")).write_text(json.dumps(LICENCE))


def everything(content):
    """The bytes, and what its compressed texts unpack to."""
    found = content
    if content.startswith(b"\x89PNG"):
        at = 8
        while at < len(content):
            length, name = struct.unpack(">I", content[at : at + 4])[0], content[at + 4 : at + 8]
            data = content[at + 8 : at + 8 + length]
            for start in range(len(data) if name in (b"zTXt", b"iTXt") else 0):
                try:
                    found += zlib.decompress(data[start:])
                except zlib.error:
                    pass
            at += 12 + length
            if name == b"IEND":
                break
        lines = [line for line in found.split(b"\n") if line and not line.strip(b"0123456789abcdef")]
        found += b"".join(bytes.fromhex(line.decode()) for line in lines if len(line) % 2 == 0)
    return found + found.replace(b"\0", b"")


def check(folder, release):
    faults, seen = [], 0
    originals = {content.stem: content for content in folder.iterdir() if content.suffix != ".json"}
    for path in sorted(release.glob("*.tar")):
        with tarfile.open(path) as archive:
            for member in archive.getmembers():
                key, _, kind = member.name.rpartition(".")
                if kind in ("json", "cls"):
                    continue
                seen += 1
                content = archive.extractfile(member).read()
                source = next(p for p in folder.iterdir() if p.suffix == "." + kind and p.stem == key)
                before, now = Image.open(source), Image.open(io.BytesIO(content))

                def wrong(reason):
                    faults.append(f"{source.name}: {reason}")

                for frame in range(getattr(before, "n_frames", 1)):
                    if kind == "jpg" and frame:
                        break  # MPF
                    before.seek(frame), now.seek(frame)
                    if np.array(before).tolist() != np.array(now).tolist():
                        wrong(f"frame {frame} has other pixels")
                before.seek(0), now.seek(0)
                if b"SECRET" in everything(content):
                    wrong("a private text is there")
                ours = now.getexif()
                if dict(ours.get_ifd(0x8825)):
                    wrong(f"a position: {dict(ours.get_ifd(0x8825))}")
                if kind in ("jpg", "png", "webp"):
                    if ours.get(0x0112) != before.getexif().get(0x0112):
                        wrong("another orientation")
                    for tag, text in ((0x013B, "CREDIT Artist"), (0x8298, "CREDIT Copyright")):
                        if ours.get(tag) != text:
                            wrong(f"tag {tag:x} is {ours.get(tag)!r}")
                    if now.info.get("icc_profile") != before.info.get("icc_profile") or not now.info.get("icc_profile"):
                        wrong("another color profile")
                    if np.array(ImageOps.exif_transpose(now)).tolist() != np.array(ImageOps.exif_transpose(before)).tolist():
                        wrong("turned differently")
                if kind != "bmp":
                    for text in ("CREDIT Ann &amp; Bob", "CREDIT © &lt;Ann&gt;", "CREDIT line", "CREDIT terms"):
                        if text.encode() not in content:
                            wrong(f"XMP lacks {text}")
                if kind == "jpg":
                    for text in (b"CREDIT by-line", b"CREDIT credit", b"CREDIT copyright"):
                        if text not in content:
                            wrong(f"IPTC lacks {text}")
                print(f"{source.name}: {source.stat().st_size} -> {len(content)} bytes, {len(ours)} EXIF tags, XMP {len(now.info.get('xmp', b''))} bytes")
    print("\n".join(faults) or f"{seen} photos: nothing private, credits there, pixels equal")
    return 1 if faults or seen != len(originals) else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["write", folder]:
            write(Path(folder))
        case ["small", folder]:
            Path(folder).mkdir(parents=True, exist_ok=True)
            for name, content in small().items():
                (Path(folder) / name).write_bytes(content)
        case ["check", folder, release]:
            sys.exit(check(Path(folder), Path(release)))
        case _:
            sys.exit(__doc__)
