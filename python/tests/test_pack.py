"""`pack.py`: what a wheel holds, and which programs it refuses."""

import base64
import csv
import hashlib
import importlib.util
import io
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest

import passer_vision

linux = pytest.mark.skipif(sys.platform != "linux", reason="a program for Linux")


@pytest.fixture(scope="module")
def pack():
    spec = importlib.util.spec_from_file_location("pack", Path(__file__).parents[1] / "pack.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@linux
def test_a_wheel_is_whole_and_its_bytes_are_those_of_the_program(pack, tmp_path):
    program = passer_vision.find_program()
    notices = tmp_path / "NOTICES.txt"
    notices.write_text("theirs")
    wheel = pack.pack(program, tmp_path / "a", label="cuda.1", allowed={"libmpi.so.40"}, notices=notices)
    again = pack.pack(program, tmp_path / "b", label="cuda.1", allowed={"libmpi.so.40"}, notices=notices)
    assert wheel.read_bytes() == again.read_bytes() and [file.name for file in wheel.parent.iterdir()] == [wheel.name]
    name, version, python, abi, platform = wheel.stem.split("-")
    assert (name, python, abi) == ("passer_vision", "py3", "none") and version.endswith("+cuda.1")
    assert platform.startswith("manylinux_2_") and platform.endswith(os.uname().machine)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"{name}-{version}.dist-info"
        assert archive.read(f"{name}-{version}.data/scripts/passer") == program.read_bytes()
        assert archive.getinfo(f"{name}-{version}.data/scripts/passer").external_attr >> 16 == 0o100755
        assert archive.read(f"{info}/licenses/NOTICES.txt") == b"theirs"
        assert "passer_vision/py.typed" in names and not any("__pycache__" in file for file in names)
        about = archive.read(f"{info}/METADATA").decode()
        assert f"\nVersion: {version}\n" in about and "\nLicense-File: NOTICES.txt\n" in about
        assert 'Requires-Dist: timm>=1.0; extra == "timm"\n' in about
        rows = list(csv.reader(io.StringIO(archive.read(f"{info}/RECORD").decode())))
        assert [row[0] for row in rows] == names
        for file, digest, size in rows[:-1]:
            data = archive.read(file)
            sha = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            assert (digest, size) == (f"sha256={sha}", str(len(data)))


@linux
def test_what_the_program_needs_is_read_from_it(pack):
    """The interpreter needs glibc too, and libraries of its own."""
    content = Path(sys.executable).resolve().read_bytes()
    with pytest.raises(pack.Refused) as error:
        pack.linux_platform(content.replace(b"libc.so.6\0", b"libx.so.6\0"), set())
    assert "libx.so.6" in str(error.value) and "--allow-library" in str(error.value)


def test_what_is_no_program_of_this_version_is_refused(pack, tmp_path):
    with pytest.raises(pack.Refused, match="there is no program `nowhere`: build it with `cargo build --release`"):
        pack.pack(Path("nowhere"), tmp_path)
    with pytest.raises(pack.Refused, match="not of 64-bit Linux"):
        pack.linux_platform(b"\xcf\xfa\xed\xfe" + bytes(100), set())
    other = tmp_path / "other"
    other.write_text("#!/bin/sh\necho passer 0.0.1\n")
    other.chmod(0o755)
    with pytest.raises(pack.Refused, match=r"must print `passer [\d.]+`, got `passer 0.0.1`"):
        pack.pack(other, tmp_path, platform="any")
    with pytest.raises(pack.Refused, match="`--label` must be"):
        pack.pack(passer_vision.find_program(), tmp_path, platform="any", label="CUDA 13")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["other"]


def test_the_citation_has_the_workspaces_version(pack):
    cargo, citation = ((pack.ROOT / name).read_text("utf-8") for name in ("Cargo.toml", "CITATION.cff"))
    [version] = re.findall(r'(?m)^version = "([\d.]+)"$', cargo)
    assert re.findall(r"(?m)^version: (.+)$", citation) == [version]
