"""Scores in: the `result.json` of an evaluation or a fine-tuning."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from passer_vision._errors import PasserError


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How much a score varies with the seed."""

    #: The seeds.
    seeds: list[int]
    #: The score of each.
    values: list[float]
    #: Their sample standard deviation (n - 1); `None` for one seed.
    standard_deviation: float | None = None


@dataclass(frozen=True, kw_only=True)
class ListingNote:
    """Files of a data set that became no record, or became one by a guess."""

    #: Why; docs/formats.md lists the reasons.
    reason: str
    #: How many.
    count: int
    #: The first one.
    example: str
    #: What kind of files: an extension such as `.heic`, or empty.
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """How far a test set is new to the encoder and the protocol."""

    #: `images`: by their bytes; `features`: by their rows, from features files.
    compared: str
    #: Test records that were compared.
    test_records: int
    #: Test records that lie in the training set too.
    test_in_training: int
    #: Test records that repeat an earlier one.
    test_repeated: int
    #: The encoder's data: `training_set`, `test_set`, `other_data` or `not_stated`.
    pretraining: str
    #: `test_compared` test records were looked for in the pretraining data, `test_in_pretraining` were there; `None`: unknown.
    pretraining_sample: dict[str, int] | None = None
    #: `test_in_training` and `test_repeated` by the pixels that the encoder saw; `None`: not compared.
    by_pixels: dict[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one protocol, with everything that decides it."""

    #: The protocol's name, as in the config: `knn-dino`.
    protocol: str
    #: `top1`, `top5`, `mean_class`, or a name of the protocol's own.
    metric: str
    #: In 0..1 for shares; the mean over seeds if there are several. `None`: not finite.
    value: float | None
    #: Whether this is the headline metric of its protocol.
    headline: bool
    #: The encoder's SHA-256.
    encoder: str
    #: The encoder's name, for people.
    encoder_name: str
    #: Distinct classes among the training records; 0 if labels were not read.
    classes: int
    #: Records that the protocol learned from.
    train_records: int
    #: Records that the score is over.
    test_records: int
    #: Training records that could not be read.
    train_bad_records: int
    #: Test records that could not be read.
    test_bad_records: int
    #: Fingerprint of the training set.
    train_fingerprint: str
    #: Fingerprint of the test set.
    test_fingerprint: str
    #: Every setting of the protocol, and values that it determined.
    settings: dict[str, Any]
    #: The transforms that resized test images.
    test_transforms: Any
    #: How images were normalized.
    normalize: Any
    #: Commit of the program.
    commit: str
    #: Device that the encoder ran on.
    device: str
    #: Optimizer steps of the encoder's training, where known.
    encoder_step: int | None = None
    #: Variation over seeds; `None` for protocols without randomness.
    spread: Spread | None = None
    #: How far the test images are new; `None` in results of earlier versions.
    overlap: Overlap | None = None
    #: Files of the training set that became no record.
    train_listing: list[ListingNote] = field(default_factory=list)
    #: Files of the test set that became no record.
    test_listing: list[ListingNote] = field(default_factory=list)
    #: SHA-256 over all that decides this score.
    asked: str = ""
    #: Keys of a later version of Passer.
    more: dict[str, Any] = field(default_factory=dict)


def read_result(path: str | os.PathLike[str]) -> list[Score]:
    """Reads the scores of an evaluation or a fine-tuning.

    Args:
        path: a `result.json`, or the folder that has one.

    Returns:
        A score per number, in the order of the file; those with `headline` are what a protocol is quoted by.

    Raises:
        PasserError: the file is no `result.json`.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"there is no `{path}`")
    try:
        entries = json.loads(path.read_bytes())
    except ValueError as error:
        raise PasserError(f"{path} is not JSON: {error}") from error
    if not isinstance(entries, list):
        raise PasserError(f"{path} is not a `result.json`: it must be a list of scores")
    return [_score(entry, f"{path}: score {number}") for number, entry in enumerate(entries, 1)]


_T = TypeVar("_T", Spread, ListingNote, Overlap, Score)


def _score(entry: Any, place: str) -> Score:
    known = dict(_object(entry, place))
    if known.get("spread") is not None:
        known["spread"] = _filled(Spread, known["spread"], f"{place}, `spread`")
    if known.get("overlap") is not None:
        known["overlap"] = _filled(Overlap, known["overlap"], f"{place}, `overlap`")
    for key in ("train_listing", "test_listing"):
        notes = known.get(key, [])
        known[key] = [_filled(ListingNote, note, f"{place}, `{key}`") for note in notes]
    names = {part.name for part in fields(Score)} - {"more"}
    known["more"] = {key: known.pop(key) for key in list(known) if key not in names}
    return _filled(Score, known, place)


def _filled(kind: type[_T], entry: Any, place: str) -> _T:
    """An object of a class, of the keys that it knows."""
    names = {part.name for part in fields(kind)}
    known = {key: value for key, value in _object(entry, place).items() if key in names}
    try:
        return kind(**known)
    except TypeError as error:
        missing = str(error).rpartition(": ")[2]
        raise PasserError(f"{place} is not one of a `result.json`: it lacks {missing}") from error


def _object(entry: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise PasserError(f"{place} must be an object, got {type(entry).__name__}")
    return entry
