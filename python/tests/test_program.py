"""The commands of the wheel: the program's own arguments, status and signals."""

import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest

import passer_vision

MODULE = [sys.executable, "-m", "passer_vision"]
COMMAND = [str(Path(sysconfig.get_path("scripts")) / "passer-vision")]


def test_the_package_is_the_installed_one():
    assert "site-packages" in passer_vision.__file__


@pytest.mark.parametrize("command", [MODULE, COMMAND, [str(passer_vision.find_program())]])
def test_every_command_is_the_program(command):
    done = subprocess.run([*command, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("passer "), done
    wrong = subprocess.run([*command, "pretrian"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "pretrian" in wrong.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be replaced")
def test_a_signal_reaches_the_program_which_ends_with_a_checkpoint(old, tmp_path):
    statuses = []
    for number, command in enumerate([MODULE, [str(passer_vision.find_program())]]):
        run = tmp_path / str(number)
        arguments = ["pretrain", old / "dino.toml", "--data", old / "train", "--out", run, "--device", "flex"]
        arguments += ["--set", "training.epochs=1000000"]
        running = subprocess.Popen([*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").stat().st_size:
            assert running.poll() is None, running.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
        statuses.append(running.returncode)
        assert list((run / "checkpoints").iterdir())
        assert passer_vision.read_metrics(run)
    assert statuses[0] == statuses[1]


def test_importing_the_package_imports_the_standard_library_alone():
    script = (
        "import sys; before = set(sys.modules); import passer_vision; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['passer_vision']"


def test_a_program_that_is_missing_is_named_with_the_cure(monkeypatch):
    monkeypatch.setenv("PASSER_PROGRAM", "/nowhere/passer")
    with pytest.raises(passer_vision.PasserError, match="`PASSER_PROGRAM` must name the program's file"):
        passer_vision.find_program()
    done = subprocess.run([*MODULE, "--version"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: `PASSER_PROGRAM` must name")
