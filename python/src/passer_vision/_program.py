"""The program `passer` of this wheel: where it is, and calls of it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from passer_vision._errors import DISTRIBUTION, PasserError

#: Names another program in place of the wheel's.
VARIABLE = "PASSER_PROGRAM"


def find_program() -> Path:
    """The program's file: that of the environment variable ``PASSER_PROGRAM``, else the wheel's.

    The search path is not searched, because another program there may have the same name.

    Raises:
        PasserError: if there is none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise PasserError(f"`{VARIABLE}` must name the program's file, got `{named}`")
        return Path(named)
    for folder in _folders():
        path = folder / ("passer.exe" if os.name == "nt" else "passer")
        if path.is_file():
            return path
    raise PasserError(
        "the program `passer` was not installed with this package",
        f"install the wheel of {DISTRIBUTION} for this platform, or set `{VARIABLE}` to a built program",
    )


def _folders() -> Iterator[Path]:
    """Where installers put a wheel's programs: the environment's, the user's, or beside `--target` and `--prefix`."""
    yield Path(sysconfig.get_path("scripts"))
    yield Path(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    packages = Path(__file__).resolve().parent.parent
    yield packages / "bin"
    # PREFIX/lib/pythonX.Y/site-packages, PREFIX\Lib\site-packages
    yield packages.parents[min(2, len(packages.parents) - 1)] / "bin"
    yield packages.parents[min(1, len(packages.parents) - 1)] / "Scripts"


def call(arguments: Sequence[str | os.PathLike[str]]) -> str:
    """Runs the program and returns what it wrote to stderr: notes and warnings.

    Raises:
        PasserError: with the program's message and hint, if it fails.
    """
    command = [find_program(), *arguments]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError as error:
        raise PasserError(f"cannot run `{command[0]}`: {error.strerror}") from error
    said = done.stderr.decode("utf-8", "replace")
    if done.returncode != 0:
        raise _error(said, done.returncode)
    return said


def _error(said: str, status: int) -> PasserError:
    """The error that the program printed: its last `error:` with the lines of its causes, and its hint."""
    lines = said.strip().splitlines()
    starts = [at for at, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        end = f"signal {-status}" if status < 0 else f"status {status}"
        return PasserError("\n".join([f"the program ended with {end}", *lines[-5:]]))
    message, hint = [lines[starts[-1]].removeprefix("error: ")], None
    for line in lines[starts[-1] + 1 :]:
        if hint is None and line.startswith("hint: "):
            hint = line.removeprefix("hint: ")
        elif hint is not None:
            hint += "\n" + line
        elif line.strip():
            message.append(line)
    return PasserError("\n".join(message), hint.rstrip() if hint else None)


def become(arguments: Sequence[str]) -> int:
    """Runs the program in place of this process, with its terminal, signals and exit status.

    Returns only where a process cannot be replaced (Windows): the program's exit status.
    """
    command = [str(find_program()), *arguments]
    if os.name == "nt":
        running = subprocess.Popen(command)
        while True:
            try:
                return running.wait()
            except KeyboardInterrupt:
                # The program has it as well, and ends when it has saved.
                continue
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)
