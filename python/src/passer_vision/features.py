"""Files of `passer features` in: one safetensors file, a folder of slices, a folder of NumPy's arrays, a Parquet table."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from passer_vision._errors import PasserError, require
from passer_vision._safetensors import Header, header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ABOUT = "passer_features"
_NOT_TAPS = ("labels", "keys", "key_offsets", "pixel_hashes")
_SLICE = re.compile(r"features-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True)
class Features:
    """An encoder's features of a data set. Row *n* of every array is record *n*."""

    #: Name of a tap (`pooled`, `class_token_1`, `res4`): its features, f32 or f16 `[records, width]`. Arrays of one safetensors
    #: file and of NumPy's folder are mapped from the disk and read-only; those of slices and tables are in memory.
    taps: dict[str, NDArray[np.floating[Any]]]
    #: The records' keys; `None` if another program wrote the file without them.
    keys: list[str] | None
    #: Classes, i64 `[records]`, -1: none; or sets of classes, u8 `[records, classes]` of 0, 1 and 2 (undecided). `None` if unlabeled.
    labels: NDArray[np.integer[Any]] | None
    #: Where all this came from: `origin` (encoder, data set, transforms, normalization), `class_names`, `bad_records`, …
    metadata: dict[str, Any]

    @property
    def pooled(self) -> NDArray[np.floating[Any]]:
        """The encoder's output, `[records, width]`.

        Raises:
            KeyError: the file has other taps alone.
        """
        return self.taps["pooled"]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by number; empty if unknown."""
        return list(self.metadata.get("class_names") or [])

    def __len__(self) -> int:
        """Records."""
        return next((len(rows) for rows in self.taps.values()), 0)


def read_features(path: str | os.PathLike[str]) -> Features:
    """Reads what `passer features` wrote, in any of its formats.

    Args:
        path: a `.safetensors` file, a folder of slices, a folder of `.npy` files, or a `.parquet` file.

    Raises:
        PasserError: the file is none of these, or is not whole; slices that are missing or of different work.
        ImportError: NumPy is not installed, or pyarrow for a Parquet table.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there are no features `{path}`")
    numpy = require("numpy", "read_features", "features")
    if path.is_dir():
        names = {file.name for file in path.iterdir()}
        if any(name.endswith(".safetensors") for name in names):
            return _slices(path, numpy)
        if any(name.endswith(".npy") for name in names):
            return _arrays(path, numpy)
        raise PasserError(f"`{path}` has neither slices (.safetensors) nor arrays (.npy)")
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return _table(path, numpy)
    features, about = _file(path, numpy)
    if cut := about.get("slice"):
        raise PasserError(
            f"{path} is slice {cut['number']} of {cut['count']}, not a features file",
            "pass the folder of the slices",
        )
    return features


def _file(path: Path, numpy: Any) -> tuple[Features, dict[str, Any]]:
    head = header(path)
    if "passer" in head.metadata and _ABOUT not in head.metadata:
        raise PasserError(f"{path} must be a features file, got an encoder's", "`passer features --encoder FILE` makes one")
    about = head.json_entry(_ABOUT) or {}
    taps = {name: head.array(name, numpy) for name in sorted(head.tensors) if name not in _NOT_TAPS}
    labels = head.array("labels", numpy) if "labels" in head.tensors else None
    return _checked(path, Features(taps, _keys(head, numpy), labels, about)), about


def _keys(head: Header, numpy: Any) -> list[str] | None:
    if "keys" not in head.tensors or "key_offsets" not in head.tensors:
        return None
    text = head.array("keys", numpy).tobytes()
    offsets = head.array("key_offsets", numpy).tolist()
    try:
        return [text[start:end].decode() for start, end in zip(offsets, offsets[1:])]
    except UnicodeDecodeError as error:
        raise PasserError(f"{head.path}: its keys are not UTF-8: {error}") from error


def _checked(path: Path, features: Features) -> Features:
    """The features, if all their parts have as many rows."""
    if not features.taps:
        raise PasserError(f"{path} holds no features")
    for name, tap in features.taps.items():
        if tap.ndim != 2:
            raise PasserError(f"{path}: tap `{name}` must be [records, width], got {list(tap.shape)}")
    if features.labels is not None and features.labels.ndim not in (1, 2):
        raise PasserError(f"{path}: `labels` must be [records] or [records, classes], got {list(features.labels.shape)}")
    rows = len(features)
    counts = {f"tap `{name}`": len(tap) for name, tap in features.taps.items()}
    counts |= {} if features.keys is None else {"keys": len(features.keys)}
    counts |= {} if features.labels is None else {"labels": len(features.labels)}
    for part, count in counts.items():
        if count != rows:
            raise PasserError(f"{path}: {part} must have {rows} rows, got {count}")
    return features


def _slices(folder: Path, numpy: Any) -> Features:
    """Slices as one, in their order, if all are there and of one work."""
    found: dict[int, Path] = {}
    counts = set()
    for file in folder.iterdir():
        if match := _SLICE.fullmatch(file.name):
            found[int(match[1])] = file
            counts.add(int(match[2]))
    if len(counts) != 1:
        what = "no slices" if not counts else f"slices of {sorted(counts)}"
        raise PasserError(f"`{folder}` must have the slices of one division, got {what}")
    count = counts.pop()
    if missing := sorted(set(range(1, count + 1)) - set(found)):
        listed = ", ".join(map(str, missing[:10])) + (", …" if len(missing) > 10 else "")
        raise PasserError(
            f"`{folder}` lacks {len(missing)} of {count} slices: {listed}",
            f"make them with `passer features --slice N/{count} --out {folder}` and the other arguments as before",
        )
    parts, work = [], None
    for number in range(1, count + 1):
        part, about = _file(found[number], numpy)
        cut = about.pop("slice", {})
        same = (about.get("origin"), cut.get("records"), cut.get("batch_images"), sorted(part.taps))
        if cut.get("number") != number or cut.get("count") != count or (work is not None and same != work):
            raise PasserError(f"{found[number]} is not slice {number} of {count} of the others' work")
        work = same
        parts.append(part)
    metadata = {**parts[0].metadata, "bad_records": sum(part.metadata.get("bad_records", 0) for part in parts)}
    taps = {name: numpy.concatenate([part.taps[name] for part in parts]) for name in parts[0].taps}
    keys = None if any(part.keys is None for part in parts) else [key for part in parts for key in part.keys or []]
    labels = [part.labels for part in parts if part.labels is not None]
    joined = numpy.concatenate(labels) if labels else None
    return _checked(folder, Features(taps, keys, joined, metadata))


def _arrays(folder: Path, numpy: Any) -> Features:
    def load(file: Path) -> Any:
        try:
            return numpy.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError:
            # An array without numbers cannot be mapped.
            return numpy.load(file, allow_pickle=False)

    try:
        arrays = {file.stem: load(file) for file in sorted(folder.glob("*.npy"))}
        keys = (folder / "keys.txt").read_bytes().decode()
        about = json.loads((folder / "about.json").read_bytes())
        if not isinstance(about, dict):
            raise ValueError("about.json must be an object")
    except (ValueError, EOFError, OSError) as error:
        raise PasserError(f"`{folder}` is not a whole folder of arrays: {error}") from error
    labels = arrays.pop("labels", None)
    # A key may hold any character but a line break.
    return _checked(folder, Features(arrays, keys.split("\n")[:-1], labels, about))


def _table(path: Path, numpy: Any) -> Features:
    parquet = require("pyarrow.parquet", "read_features of a Parquet table", "parquet")
    arrow = require("pyarrow", "read_features of a Parquet table", "parquet")
    try:
        table = parquet.read_table(path)
    except (arrow.ArrowException, OSError) as error:
        raise PasserError(f"{path} is not a whole Parquet file: {error}") from error
    text = (table.schema.metadata or {}).get(_ABOUT.encode())
    if text is None or "key" not in table.column_names:
        raise PasserError(f"{path} is not a table of `passer features`: it has no `{_ABOUT}` in its metadata")

    def matrix(name: str, dtype: str) -> Any:
        # Group by group: one list of all numbers could have more than arrow's 2^31.
        chunks = [chunk for chunk in table.column(name).chunks if len(chunk)]
        rows = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), -1) for chunk in chunks]
        return numpy.concatenate(rows).astype(dtype, copy=False) if rows else numpy.zeros((0, 0), dtype)

    taps = {name: matrix(name, "<f4") for name in table.column_names if name not in ("key", "label", "labels")}
    labels = None
    if "label" in table.column_names:
        labels = table.column("label").to_numpy()
    elif "labels" in table.column_names:
        labels = matrix("labels", "u1")
    return _checked(path, Features(taps, table.column("key").to_pylist(), labels, json.loads(text)))
