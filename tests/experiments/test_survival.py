"""Runs that are killed, stopped, or left without disk go on to the result of the run that was left alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rl_forecast.train import main
from tests.kill_and_resume import Kills, differences, small_run, start_train

STEPS = 4096
JOB = small_run("gridworld", STEPS)


@pytest.fixture(scope="module")
def gridworld(tmp_path_factory: pytest.TempPathFactory) -> Kills:
    return Kills("gridworld", tmp_path_factory.mktemp("gridworld"), STEPS)


@pytest.mark.parametrize(("seed", "trained"), [pytest.param(0, False, marks=pytest.mark.slow), (1, True)])
def test_a_killed_run_of_ppo_and_forecast_ppo_goes_on_to_the_bit(gridworld: Kills, seed: int, trained: bool) -> None:
    trial = gridworld.trial(seed, trained=trained)
    assert not trial.faults
    assert trial.killed_at
    assert trial.steps_before > 0 or not trained, "the run that went on is shorter than the whole"


@pytest.mark.slow
def test_a_killed_run_of_the_language_model_goes_on_to_the_bit(tmp_path: Path) -> None:
    trial = Kills("language", tmp_path, 12).trial(0)
    assert not trial.faults
    assert trial.steps_before > 0


def _begin(tmp_path: Path, **more: Any) -> tuple[Any, Path, Path]:
    """A run that has come to its first checkpoint; its folder, and what it prints."""
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(JOB))
    output, folder = tmp_path / "output.txt", tmp_path / "runs" / "kill-0"
    process = start_train(["--config", str(tmp_path / "run.yaml"), "--log-dir", str(tmp_path / "runs")], output, **more)
    while process.is_alive() and not (folder / "checkpoints" / "base.safetensors").is_file():
        time.sleep(0.01)
    return process, folder, output


def _resume(folder: Path, output: Path) -> str:
    process = start_train(["--resume", str(folder)], output)
    process.join()
    assert process.exitcode == 0, output.read_text()
    return output.read_text()


def _last_line(output: Path) -> str:
    """The only line beside those of a run's phases."""
    (line,) = (line for line in output.read_text().splitlines() if not line.startswith(("run folder:", "train ")))
    return line


@pytest.mark.parametrize(
    ("sent", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_ends_with_one_line_that_tells_how_to_go_on(
    gridworld: Kills, tmp_path: Path, sent: signal.Signals, code: int, word: str
) -> None:
    process, folder, output = _begin(tmp_path)
    os.kill(process.pid, sent)
    process.join()
    assert process.exitcode == code
    assert _last_line(output) == f"{word}; resume with: python -m rl_forecast.train --resume {folder}"
    assert not (folder / ".lock").exists()
    if sent == signal.SIGTERM:
        assert "resumed at step" in _resume(folder, output)
        assert differences(gridworld.whole, folder) == []


def test_a_second_process_is_refused_and_a_killed_one_frees_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process, folder, _ = _begin(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    assert main(["--resume", str(folder)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {str(folder)!r} is in use by process {process.pid} on ")
    assert len(error.splitlines()) == 1
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    process.kill()
    process.join()
    assert (folder / ".lock").exists()
    # What a killed process was writing is removed by the next one.
    (folder / "checkpoints" / ".partial-abc.safetensors").write_bytes(b"half")
    (folder / "agents" / ".partial-def").mkdir(parents=True)
    assert "resumed at step" in _resume(folder, tmp_path / "output.txt")
    assert not list(folder.rglob(".partial-*"))


@pytest.mark.slow
def test_no_room_for_a_file_ends_with_one_line_and_a_run_that_goes_on(gridworld: Kills, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the write itself fails, in whichever library it is."""
    (size,) = {p.stat().st_size for p in gridworld.whole.glob("agents/base/agent.zip")}
    process, folder, output = _begin(tmp_path, file_size=size - 1000)
    process.join()
    assert process.exitcode == 1, output.read_text()
    line = _last_line(output)
    assert line.startswith(f"error: File too large: {folder}/")
    assert line.endswith(f"; resume with: python -m rl_forecast.train --resume {folder}")
    assert not list(folder.rglob(".partial-*"))
    _resume(folder, output)
    assert differences(gridworld.whole, folder) == []


def test_a_full_disk_ends_with_one_line(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()

    def on_disk(command: str) -> subprocess.CompletedProcess[str]:
        """Run a command with a small file system at that path, which an unprivileged user may have."""
        script = f"mount -t tmpfs -o size=900k none {disk} && {command}"
        return subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True)

    if shutil.which("unshare") is None or on_disk("true").returncode:
        pytest.skip("a file system of one's own needs unshare and user namespaces")
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(JOB | {"agents": ["base"]}))
    train = f"{sys.executable} -m rl_forecast.train --config {tmp_path}/run.yaml --log-dir {disk}"
    result = on_disk(f"head -c 700k /dev/zero > {disk}/other && {train}")
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: No space left on device: {disk}/kill-0/")
    assert line.endswith(f"; resume with: python -m rl_forecast.train --resume {disk}/kill-0")


def test_a_removed_folder_ends_with_one_line(tmp_path: Path) -> None:
    process, folder, output = _begin(tmp_path)
    os.kill(process.pid, signal.SIGSTOP)  # nothing is made in it while it is removed
    shutil.rmtree(folder)
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 1
    assert _last_line(output) == f"error: the run folder is gone: {folder}"
    assert not folder.exists()


def test_a_finished_run_says_so_and_prints_its_table(gridworld: Kills, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in gridworld.whole.rglob("*") if p.is_file()}
    text = _resume(gridworld.whole, tmp_path / "output.txt")
    whole = (gridworld.home / "whole.txt").read_text()
    assert "finished before, nothing to do" in text
    assert text.splitlines()[1:] == whole.splitlines()[-len(text.splitlines()[1:]) :]
    assert {p: p.stat().st_mtime_ns for p in gridworld.whole.rglob("*") if p.is_file()} == before
