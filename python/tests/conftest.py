"""The tests run on the installed wheel, with files that the repository has.

    PASSER_PROGRAM=/path/passer pytest      # another program than the wheel's
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import passer_vision

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files of version 0.1: runs, encoders, data, scores. The program renews the indices of shards."""
    copy = tmp_path_factory.mktemp("old") / "0.1"
    shutil.copytree(ROOT / "tests/old/0.1", copy)
    return copy


@pytest.fixture(scope="session")
def passer() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the program, which must succeed."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(passer_vision.find_program()), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    return run
