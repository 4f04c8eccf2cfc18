"""What goes wrong: an error of the program or of a file, a package that is missing, lines of a log that were left out."""

from __future__ import annotations

import importlib
from typing import Any

DISTRIBUTION = "passer-vision"


class PasserError(Exception):
    """The program gave an error, or a file is not what it should be.

    ``str(error)`` is the message, followed by the hint where there is one.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        #: What went wrong.
        self.message = message
        #: What to do about it, if known.
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"


class UnfinishedLineWarning(UserWarning):
    """A log ends in half a line, as while a run writes it or after a crash; that line was left out."""


class DamagedLinesWarning(UserWarning):
    """Lines within a log are damaged, as after a full disk or by an editor; they were left out."""


def require(module: str, purpose: str, extra: str) -> Any:
    """Imports an optional module.

    Raises:
        ImportError: with what to install; an error within an installed package is passed on as it is.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        message = f"{purpose} needs {package}: pip install '{DISTRIBUTION}[{extra}]', or {package} by itself"
        raise ImportError(message, name=package) from error
