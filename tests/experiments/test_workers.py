"""Workers of sweeps: failures and killed processes, here and on a real Ray cluster; nothing lost or left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import psutil
import pytest

from rl_forecast.errors import InputError
from rl_forecast.experiments.run_folder import RunFolder
from rl_forecast.experiments.sweep.config import SweepConfig
from rl_forecast.experiments.sweep.workers import Failure, LocalWorkers, RayWorkers, run_jobs
from tests.experiments.conftest import SWEEP

# Name of an environment variable by which the processes of a test are known.
_MARK = "RL_FORECAST_TEST_MARK"


@dataclass(frozen=True)
class Trouble:
    """A job that writes a file, then fails, or kills its process, or writes another with the content of its inputs."""

    name: str
    does: str = ""
    inputs: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"out/{self.name}.txt"

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        read = "".join(path.read_text() for name in self.inputs for path in (folder.path / name).iterdir())
        folder.write_text(f"out/{self.name}-half.txt", read)
        if self.does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "raise":
            raise ValueError(f"{self.name} went\nwrong")
        time.sleep(0.3)
        folder.write_text(self.key, read)


def test_a_job_that_fails_or_kills_its_process_is_named_and_takes_no_other_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    (folder / "given").mkdir(parents=True)
    (folder / "given" / "file.txt").write_text("given ")
    jobs = [
        Trouble("killer", does="kill"),
        *(Trouble(f"good{i}", inputs=("given",)) for i in range(3)),
        Trouble("bad", does="raise"),
        Trouble("waits", inputs=("out/nobody.txt",)),
    ]
    advanced: list[int] = []
    workers = LocalWorkers(2)
    failures = run_jobs(jobs, SweepConfig(), RunFolder(folder), workers, lambda: advanced.append(1))
    workers.close()
    assert len(advanced) == len(jobs)
    assert sorted(failures) == [
        Failure("out/bad.txt", "ValueError: bad went wrong"),
        Failure("out/killer.txt", "its worker died (killed, or out of memory)"),
        Failure("out/waits.txt", "it needs out/nobody.txt"),
    ]
    texts = {path.name: path.read_text() for path in (folder / "out").iterdir()}
    # A job that failed leaves nothing in the sweep's folder, not even what it had written.
    assert texts == {f"good{i}{end}.txt": "given " for i in range(3) for end in ("", "-half")}


# -- real sweeps, from outside --------------------------------------------------------------------------------------


class _Sweep:
    """A sweep in a process of its own, all of whose processes carry a mark."""

    def __init__(self, log_dir: Path, *arguments: str) -> None:
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.folder = log_dir / "rl-study-smoke"
        environment = os.environ | {_MARK: self.mark, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        # Ray gives way to all other processes of its machine: beside the other tests its jobs would take minutes.
        environment["RAY_worker_niceness"] = "0"
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "rl_forecast.sweep", *SWEEP, "--log-dir", str(log_dir), "--n-jobs", "2"]
        command += ["--report", "false", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def processes(self) -> dict[int, str]:
        """Pid to command line of everything that carries the mark."""
        ours = [p.info for p in psutil.process_iter(["pid", "cmdline", "environ"]) if p.info["environ"]]
        return {info["pid"]: " ".join(info["cmdline"]) for info in ours if info["environ"].get(_MARK) == self.mark}

    def until(self, ready: Callable[[], object]) -> None:
        """Wait for something that the sweep does."""
        deadline = time.monotonic() + 300
        while not ready():
            assert self.process.poll() is None, self.process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def kill_a_worker(self, name: str) -> None:
        """Kill a process that is at work: it has been there for a moment, and a job has been handed out."""
        # The first is the process that the others are forked from.
        self.until(lambda: len(self.at_work(name)) > (name == "forkserver"))
        time.sleep(1.0)
        os.kill(self.at_work(name)[-1], signal.SIGKILL)

    def at_work(self, name: str) -> list[int]:
        return sorted(pid for pid, command in self.processes().items() if name in command)

    def end(self) -> tuple[int, str, str]:
        """Exit code and output, once no process is left; the times are those of a hang on a crowded machine."""
        out, err = self.process.communicate(timeout=600)
        deadline = time.monotonic() + 60
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert self.processes() == {}
        return self.process.returncode, out, err


@pytest.fixture
def start() -> Iterator[Callable[..., _Sweep]]:
    """Starts sweeps, none of which outlives the test."""
    started: list[_Sweep] = []
    yield lambda *arguments: started.append(_Sweep(*arguments)) or started[-1]
    for each in started:
        for pid in each.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        each.process.communicate()


def _same_results(one: Path, other: Path) -> None:
    """Bit for bit: metrics and the score of every task."""
    names = sorted(str(path.relative_to(one)) for path in one.rglob("*.parquet"))
    assert names == sorted(str(path.relative_to(other)) for path in other.rglob("*.parquet"))
    assert len(names) == 2 + 2 * 3 + 2 * 2 + 2
    for name in names:
        assert pl.read_parquet(one / name).equals(pl.read_parquet(other / name)), name


def test_a_sweep_on_a_ray_cluster_survives_a_killed_worker_and_gives_the_same_results(
    sweep: Path, tmp_path: Path, start: Callable[..., _Sweep]
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    running = start(tmp_path, "--backend", "ray")
    running.kill_a_worker("ray::perform")
    assert running.end()[::2] == (0, "")
    _same_results(sweep, running.folder)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_sweep_on_a_ray_cluster_can_be_stopped(
    tmp_path: Path, start: Callable[..., _Sweep], sent: signal.Signals, code: int
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    stopped = start(tmp_path, "--backend", "ray")
    stopped.until(lambda: stopped.at_work("ray::perform"))
    stopped.process.send_signal(sent)
    end, _, err = stopped.end()
    assert (end, err.count("\n")) == (code, 1)


def test_a_stopped_sweep_leaves_no_process_and_is_resumed_as_is_one_with_a_killed_worker(
    sweep: Path, tmp_path: Path, start: Callable[..., _Sweep]
) -> None:
    stopped = start(tmp_path)
    stopped.until((stopped.folder / ".holder.json").is_file)
    code, _, err = start(tmp_path).end()
    assert (code, "is in use by process" in err) == (2, True)
    stopped.until(lambda: list(stopped.folder.glob("bases/[!.]*.parquet")))
    stopped.process.send_signal(signal.SIGTERM)
    code, _, err = stopped.end()
    assert (code, err) == (143, "terminated; finished jobs are kept: the same command resumes the sweep\n")
    assert not list(stopped.folder.rglob(".partial*"))
    before = {path: path.stat().st_mtime_ns for path in stopped.folder.glob("*/*.parquet")}
    assert before, "the base agent that was done is kept"

    killed = start(tmp_path)
    killed.kill_a_worker("forkserver")
    code, _, err = killed.end()
    first, *_ = err.splitlines()
    assert (code, first.startswith("failed: ")) == (1, True)
    assert first.endswith(": its worker died (killed, or out of memory)")

    again = start(tmp_path)
    code, out, err = again.end()
    assert code == 0, err
    assert "of 2 are done" in out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    _same_results(sweep, again.folder)


def test_ray_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install rl-forecast\[ray\]"):
        RayWorkers(1, "")
