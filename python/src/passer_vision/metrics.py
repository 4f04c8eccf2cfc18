"""The log of a training run in: `metrics.jsonl`, and `validation.jsonl` of fine-tuning."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from passer_vision._errors import DamagedLinesWarning, PasserError, UnfinishedLineWarning, require

if TYPE_CHECKING:
    import pandas


@overload
def read_metrics(run: str | os.PathLike[str], *, as_frame: Literal[False] = False) -> list[dict[str, Any]]: ...
@overload
def read_metrics(run: str | os.PathLike[str], *, as_frame: Literal[True]) -> pandas.DataFrame: ...


def read_metrics(run: str | os.PathLike[str], *, as_frame: bool = False) -> list[dict[str, Any]] | pandas.DataFrame:
    """Reads a run's log, also while the run goes on.

    The keys are those of docs/watching.md: `step`, `epoch`, `loss`, `learning_rate`, `signals` (a dict), `images_per_second`, …
    A number that was not finite is `None`.

    Args:
        run: a run directory, whose `metrics.jsonl` is read, or a file of such lines, as `validation.jsonl`.
        as_frame: return pandas' table with the index `step`; signals are columns `signals/NAME`, as in TensorBoard.

    Returns:
        A dict per line, or the table.

    Warns:
        UnfinishedLineWarning: the file ends in half a line, which is left out.
        DamagedLinesWarning: lines within it are no JSON objects, or their `step` is no whole number; they are left out.

    Raises:
        PasserError: no line is whole, though the file has some.
        ImportError: `as_frame` without pandas.
    """
    path = Path(run)
    if path.is_dir():
        path = path / "metrics.jsonl"
    if not path.exists():
        raise FileNotFoundError(f"there is no log `{path}`")
    lines = _lines(path)
    if not as_frame:
        return lines
    pandas = require("pandas", "read_metrics(…, as_frame=True)", "pandas")
    frame = pandas.DataFrame([_flat(line) for line in lines])
    # Where all values are `None`, the column has no number to take its type from.
    frame = frame.apply(lambda column: column.astype(float) if column.isna().all() else column)
    return frame.set_index("step") if "step" in frame else frame


def _lines(path: Path) -> list[dict[str, Any]]:
    raw = path.read_bytes().split(b"\n")
    # What follows the last line break is empty, or not written to its end.
    rest = raw.pop()
    lines, damaged = [], []
    for number, text in enumerate(raw, 1):
        line = _parsed(text)
        if line is None:
            damaged.append(number)
        else:
            lines.append(line)
    if damaged and not lines:
        raise PasserError(f"{path} must have a JSON object with a `step` per line, and none of its {len(damaged)} lines has")
    if damaged:
        listed = ", ".join(map(str, damaged[:10])) + (", …" if len(damaged) > 10 else "")
        message = f"{path}: {len(damaged)} damaged lines are left out (lines {listed}); {len(lines)} are whole"
        warnings.warn(message, DamagedLinesWarning, stacklevel=3)
    if rest:
        last = _parsed(rest)
        if last is None:
            message = f"{path} ends in an unfinished line, which is left out; {len(lines)} lines are whole"
            warnings.warn(message, UnfinishedLineWarning, stacklevel=3)
        else:
            lines.append(last)
    return lines


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    step = line.get("step")
    return line if isinstance(step, int) and not isinstance(step, bool) else None


def _flat(line: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in line.items():
        if isinstance(value, dict):
            flat |= {f"{key}/{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat
