#!/usr/bin/env python3
"""Packs a built program and the Python package beside it as a wheel.

    python3 python/pack.py target/release/passer --out dist [--notices NOTICES.txt]
    pip install ./python                          # for this machine: target/release/passer, or the program that PASSER_PROGRAM names

Any build will do, of any features: one for a GPU (`scripts/build-gpu.sh cuda`) gets `--label cuda`, which makes it version
`X.Y.Z+cuda`. The wheel's platform is read from the program on Linux: the machine that it is for, and the glibc that it needs.
Elsewhere `--platform` names it. A program that needs libraries that not every such machine has (MPI's) is refused. The same
program gives the same bytes (with one version of zlib).

Needs Python 3.11 and nothing else. It is the package's build backend too (PEP 517), so that pip can build and install it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import pathlib
import re
import struct
import subprocess
import sys
import sysconfig
import zipfile
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:
    import tomli as tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
# What the platform tag `manylinux` promises; the dynamic loader has its machine in its name.
LIBRARIES = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"}
MACHINES = {62: "x86_64", 183: "aarch64"}


class Refused(Exception):
    """Why there is no wheel."""


# ---- The program


def linux_platform(program: bytes, allowed: set[str]) -> str:
    """The platform tag of a program for Linux, as in `manylinux_2_34_x86_64`.

    Reads the ELF file's dynamic section (libraries) and version requirements (glibc).
    """
    if program[:6] != b"\x7fELF\x02\x01":
        raise Refused("the program is not of 64-bit Linux: name its platform, as in `--platform macosx_11_0_arm64`")
    machine = MACHINES.get(struct.unpack_from("<H", program, 18)[0])
    if machine is None:
        raise Refused("the program must be for x86-64 or aarch64; `--platform` names another")
    (table,) = struct.unpack_from("<Q", program, 40)
    size, count = struct.unpack_from("<HH", program, 58)
    # Type, offset, length, and the section with its strings.
    sections = []
    for at in range(count):
        _, kind, _, _, offset, length, link = struct.unpack_from("<IIQQQQI", program, table + at * size)
        sections.append((kind, offset, length, link))

    def text(section: int, at: int) -> str:
        start = sections[section][1] + at
        return program[start : program.index(b"\0", start)].decode()

    needed, newest = set(), None
    for kind, offset, length, link in sections:
        if kind == 6:  # SHT_DYNAMIC
            for at in range(offset, offset + length, 16):
                tag, value = struct.unpack_from("<QQ", program, at)
                if tag == 0:
                    break
                if tag == 1:  # DT_NEEDED
                    needed.add(text(link, value))
        if kind == 0x6FFFFFFE:  # SHT_GNU_verneed
            while True:
                _, entries, _, first, following = struct.unpack_from("<HHIII", program, offset)
                entry = offset + first
                for _ in range(entries):
                    _, _, _, name, next_entry = struct.unpack_from("<IHHII", program, entry)
                    if version := re.fullmatch(r"GLIBC_(\d+)\.(\d+)(?:\.\d+)?", text(link, name)):
                        newest = max(newest or (0, 0), (int(version[1]), int(version[2])))
                    entry += next_entry
                if following == 0:
                    break
                offset += following
    foreign = sorted(name for name in needed - LIBRARIES - allowed if not name.startswith("ld-linux"))
    if foreign:
        raise Refused(
            f"the program needs {', '.join(foreign)}, which not every machine has: "
            "build it without the feature that needs it (`mpi` for libmpi), or pass `--allow-library NAME`"
        )
    if newest is None:
        raise Refused("the program is linked statically: name its platform, as in `--platform musllinux_1_2_x86_64`")
    return f"manylinux_{newest[0]}_{newest[1]}_{machine}"


def version_of(program: pathlib.Path) -> str:
    """The workspace's version. A program that runs here must be of it."""
    version: str = tomllib.loads((ROOT / "Cargo.toml").read_text("utf-8"))["workspace"]["package"]["version"]
    try:
        done = subprocess.run([program.resolve(), "--version"], capture_output=True, text=True, check=False)
    except OSError:
        # Built for another machine.
        return version
    if done.returncode != 0 or done.stdout.split() != ["passer", version]:
        said = (done.stdout or done.stderr).strip() or f"status {done.returncode}"
        raise Refused(f"`{program} --version` must print `passer {version}`, got `{said}`")
    return version


# ---- The wheel


def metadata(project: dict[str, Any], version: str, licenses: dict[str, bytes]) -> str:
    """`METADATA`, version 2.4, of the table `[project]` and the names of the license files."""
    lines = ["Metadata-Version: 2.4", f"Name: {project['name']}", f"Version: {version}"]
    lines += [f"Summary: {project['description']}", f"Keywords: {','.join(project['keywords'])}"]
    lines += [f"Classifier: {classifier}" for classifier in project["classifiers"]]
    lines += [f"License-Expression: {project['license']}"]
    lines += [f"License-File: {name}" for name in licenses]
    lines += [f"Requires-Python: {project['requires-python']}"]
    lines += [f"Requires-Dist: {name}" for name in project["dependencies"]]
    for extra, names in project["optional-dependencies"].items():
        lines += [f"Provides-Extra: {extra}", *(f'Requires-Dist: {name}; extra == "{extra}"' for name in names)]
    lines += ["Description-Content-Type: text/markdown", ""]
    return "\n".join(lines) + "\n" + (HERE / project["readme"]).read_text("utf-8")


def pack(
    program: pathlib.Path,
    out: pathlib.Path,
    platform: str | None = None,
    label: str | None = None,
    allowed: set[str] | None = None,
    notices: pathlib.Path | None = None,
) -> pathlib.Path:
    """Writes the wheel into a folder and returns its path.

    Raises:
        Refused: there is no such program, or no wheel can carry it.
    """
    if not program.is_file():
        raise Refused(f"there is no program `{program}`: build it with `cargo build --release`")
    project = tomllib.loads((HERE / "pyproject.toml").read_text("utf-8"))["project"]
    content = program.read_bytes()
    platform = platform or linux_platform(content, allowed or set())
    version = version_of(program)
    if label:
        if not re.fullmatch(r"[a-z0-9]+(\.[a-z0-9]+)*", label):
            raise Refused(f"`--label` must be small letters and digits, got `{label}`")
        version += f"+{label}"
    name = project["name"].replace("-", "_")
    info = f"{name}-{version}.dist-info"
    tag = f"py3-none-{platform}"

    files: dict[str, bytes] = {}
    for file in sorted((HERE / "src" / name).rglob("*")):
        if file.suffix == ".py" or file.name == "py.typed":
            files[file.relative_to(HERE / "src").as_posix()] = file.read_bytes()
    executable = f"{name}-{version}.data/scripts/passer" + (".exe" if platform.startswith("win") else "")
    files[executable] = content
    licenses = {file.name: file.read_bytes() for file in [ROOT / "LICENSE-APACHE", ROOT / "LICENSE-MIT", *filter(None, [notices])]}
    files |= {f"{info}/licenses/{file}": text for file, text in licenses.items()}
    files[f"{info}/METADATA"] = metadata(project, version, licenses).encode()
    files[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: passer\nRoot-Is-Purelib: false\nTag: {tag}\n".encode()
    commands = "".join(f"{command} = {target}\n" for command, target in project["scripts"].items())
    files[f"{info}/entry_points.txt"] = f"[console_scripts]\n{commands}".encode()
    record = ""
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()

    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"{name}-{version}-{tag}.whl"
    unfinished = wheel.with_suffix(".unfinished")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path, data in files.items():
            # The earliest time that the format can state.
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = (0o100755 if path == executable else 0o100644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data, compresslevel=9)
    unfinished.replace(wheel)
    return wheel


# ---- The build backend


def build_wheel(wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None) -> str:
    """PEP 517: packs `target/release/passer` (in CARGO_TARGET_DIR's folder), or the program that PASSER_PROGRAM names."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    program = pathlib.Path(os.environ.get("PASSER_PROGRAM") or target / "release" / "passer")
    # For machines like this one: no promise of older ones.
    local = re.sub(r"[-.]", "_", sysconfig.get_platform())
    try:
        return pack(program, pathlib.Path(wheel_directory), local).name
    except Refused as error:
        raise SystemExit(f"error: {error}") from error


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """PEP 517: there is none, because a wheel needs the whole workspace."""
    raise SystemExit("error: there is no source distribution: clone the repository and build there")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", type=pathlib.Path, help="the built program")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("dist"), help="folder of the wheel (dist)")
    parser.add_argument("--platform", help="platform tag, where it cannot be read from the program")
    parser.add_argument("--label", help="added to the version: `cuda`")
    parser.add_argument("--notices", type=pathlib.Path, help="licenses of the crates in the program, from scripts/notices.py")
    allow = "a shared library that every machine of yours has; may be given again"
    parser.add_argument("--allow-library", action="append", default=[], metavar="NAME", help=allow)
    arguments = parser.parse_args()
    try:
        allowed = set(arguments.allow_library)
        wheel = pack(arguments.program, arguments.out, arguments.platform, arguments.label, allowed, arguments.notices)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{wheel}  {wheel.stat().st_size / 1e6:.1f} MB, the program {arguments.program.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
