"""The head of a safetensors file, and its tensors as arrays mapped from the disk."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from passer_vision._errors import PasserError

# The format's own limit.
_LONGEST_HEADER = 100_000_000
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1"}


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in its file."""

    dtype: str
    shape: tuple[int, ...]
    #: First byte in the file.
    offset: int
    length: int


@dataclass(frozen=True)
class Header:
    """What a file holds."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def json_entry(self, key: str) -> dict[str, Any] | None:
        """An entry of the metadata that is a JSON object; `None` if it is absent."""
        text = self.metadata.get(key)
        if text is None:
            return None
        try:
            entry = json.loads(text)
        except ValueError as error:
            raise PasserError(f"{self.path}: `{key}` in its metadata is not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise PasserError(f"{self.path}: `{key}` in its metadata must be an object")
        return entry

    def array(self, name: str, numpy: Any) -> Any:
        """A tensor as an array of NumPy that reads from the disk what is used, and cannot be written to."""
        tensor = self.tensors[name]
        dtype = _TYPES.get(tensor.dtype)
        if dtype is None:
            raise PasserError(f"{self.path}: tensor `{name}` has the type {tensor.dtype}, which NumPy lacks")
        size = numpy.dtype(dtype).itemsize
        for side in tensor.shape:
            size *= side
        if size != tensor.length:
            raise PasserError(f"{self.path}: tensor `{name}` has {tensor.length} bytes, its shape {size}")
        if size == 0:
            return numpy.zeros(tensor.shape, dtype)
        return numpy.memmap(self.path, dtype, mode="r", offset=tensor.offset, shape=tensor.shape)


def header(path: Path) -> Header:
    """Reads a file's head.

    Raises:
        PasserError: the file is not safetensors, or was cut off.
    """

    def wrong(reason: str) -> PasserError:
        return PasserError(f"{path} is not a whole safetensors file: {reason}")

    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            raise wrong("it has less than 8 bytes")
        length: int = struct.unpack("<Q", start)[0]
        if length > _LONGEST_HEADER:
            raise wrong(f"its header would have {length} bytes")
        text = file.read(length)
        end = file.seek(0, 2)
    if len(text) < length:
        raise wrong("it ends within its header")
    try:
        table = json.loads(text)
        metadata = table.pop("__metadata__", {})
        tensors = {}
        for name, entry in table.items():
            begin, stop = entry["data_offsets"]
            if not 0 <= begin <= stop or 8 + length + stop > end:
                raise wrong(f"tensor `{name}` lies behind its end")
            tensors[name] = Tensor(entry["dtype"], tuple(entry["shape"]), 8 + length + begin, stop - begin)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise wrong(f"its header cannot be read: {error}") from error
    return Header(path, tensors, metadata)
