"""Where the jobs of a sweep run: processes of this machine, or a Ray cluster.

A job travels with the content of the files it reads and comes back as the content of the files it made, so a cluster
needs no folder that all its machines see. Only the process of the sweep writes into the sweep's folder: a worker that
dies leaves nothing half-written there.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rl_forecast.errors import InputError, one_line
from rl_forecast.experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from rl_forecast.experiments.sweep.config import SweepConfig

__all__ = ["Failure", "Job", "LocalWorkers", "RayWorkers", "Workers", "perform", "run_jobs", "workers_of"]

# One thread a job, as one core a job.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Job(Protocol):
    """A function of its fields, the sweep and the files of earlier jobs."""

    @property
    def key(self) -> str:
        """Name of the file that says that it is done, written last."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the files it reads."""

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Read them in a folder and write into it."""


@dataclass(frozen=True)
class Failure:
    """A job that was given up.

    :param key: the job
    :param reason: its last error, or what it waits for, in one line
    """

    key: str
    reason: str


@dataclass(frozen=True)
class Lost:
    """A job whose worker died.

    :param is_certain: whether it was this job's worker; processes of one pool die together
    """

    is_certain: bool


Outcome = dict[str, bytes] | Exception | Lost


def perform(job: Job, sweep: SweepConfig, names: Sequence[str], *contents: bytes) -> dict[str, bytes]:
    """Run a job in a folder of its own.

    :param job: the job
    :param sweep: the sweep
    :param names: names of the files it reads
    :param contents: content of each
    :return: name to content of the files it made
    """
    with tempfile.TemporaryDirectory(prefix="rl-forecast-") as name:
        folder = RunFolder(Path(name))
        for key, content in zip(names, contents, strict=True):
            folder.file(key).write_bytes(content)
        job.run(sweep, folder)
        made = {path.relative_to(folder.path).as_posix(): path for path in folder.path.rglob("*") if path.is_file()}
        return {key: path.read_bytes() for key, path in made.items() if key not in names}


class Workers(Protocol):
    """Where jobs run."""

    @property
    def capacity(self) -> int:
        """Jobs to have under way at once."""

    @property
    def running(self) -> int:
        """Jobs under way."""

    def start(self, job: Job, sweep: SweepConfig, inputs: dict[str, bytes]) -> None:
        """Hand a job over."""

    def finished(self) -> list[tuple[Job, Outcome]]:
        """Wait for at least one job."""

    def close(self) -> None:
        """End all workers, at once."""


class LocalWorkers:
    """Processes of this machine.

    :param n: their number
    """

    def __init__(self, n: int) -> None:
        self.capacity = n
        self._executor: Any = None
        self._futures: dict[Future[dict[str, bytes]], Job] = {}

    @property
    def running(self) -> int:
        """Jobs under way."""
        return len(self._futures)

    def start(self, job: Job, sweep: SweepConfig, inputs: dict[str, bytes]) -> None:
        """Hand a job over."""
        if self._executor is None:
            from joblib.externals.loky import ProcessPoolExecutor

            self._executor = ProcessPoolExecutor(self.capacity, env=_ONE_THREAD, initializer=_leave_signals)
        future = self._executor.submit(perform, job, sweep, tuple(inputs), *inputs.values())
        self._futures[future] = job

    def finished(self) -> list[tuple[Job, Outcome]]:
        """Wait for at least one job. A killed process takes those of its pool with it."""
        done, _ = wait(self._futures, return_when=FIRST_COMPLETED)
        if any(isinstance(future.exception(), BrokenProcessPool) for future in done):
            done, _ = wait(self._futures)
            self.close()
        n_lost = sum(isinstance(future.exception(), BrokenProcessPool) for future in done)
        outcomes: list[tuple[Job, Outcome]] = []
        for future in done:
            job, error = self._futures.pop(future), future.exception()
            if isinstance(error, BrokenProcessPool):
                outcomes.append((job, Lost(is_certain=n_lost == 1)))
            else:
                outcomes.append((job, future.result() if error is None else _as_exception(error)))
        return outcomes

    def close(self) -> None:
        """End all processes, at once."""
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None


def _leave_signals() -> None:
    """Ctrl-C reaches the whole group of processes; that of the sweep ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


class RayWorkers:
    """A Ray cluster: one core a job, as many jobs at once as it has cores, or grows to have.

    :param n: cores of the cluster that is started where none is named
    :param address: of a running cluster; empty for that of $RAY_ADDRESS, or else one of this process
    :raises InputError: Ray is not installed, or the cluster cannot be reached
    """

    #: Ray queues what it has no core for, and an autoscaler sees it.
    capacity = 100_000

    def __init__(self, n: int, address: str) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("--backend ray needs Ray: pip install rl-forecast[ray]") from error
        self._ray = ray
        address = address or os.environ.get("RAY_ADDRESS", "")
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            if address:
                ray.init(address=address, **quiet)
            else:
                ray.init(address="local", num_cpus=n, include_dashboard=False, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = one_line(" ".join(str(error).split()), 200)
            raise InputError(f"there is no Ray cluster at {address or 'this machine'!r}: {reason}") from error
        if threading.current_thread() is threading.main_thread():
            # Ray puts its own in the place of ours, which aborts the process with a trace of its stack.
            signal.signal(signal.SIGTERM, handler)
        # Ray's own retries would not be counted; run_jobs counts them.
        self._perform = ray.remote(num_cpus=1, max_retries=0)(perform)
        self._futures: dict[Any, Job] = {}
        self._contents: dict[str, Any] = {}

    @property
    def running(self) -> int:
        """Jobs under way or queued."""
        return len(self._futures)

    def start(self, job: Job, sweep: SweepConfig, inputs: dict[str, bytes]) -> None:
        """Hand a job over; a file that many jobs read goes to the cluster once."""
        for name, content in inputs.items():
            if name not in self._contents:
                self._contents[name] = self._ray.put(content)
        future = self._perform.remote(job, sweep, tuple(inputs), *(self._contents[name] for name in inputs))
        self._futures[future] = job

    def finished(self) -> list[tuple[Job, Outcome]]:
        """Wait for at least one job."""
        done, _ = self._ray.wait(list(self._futures), num_returns=1)
        outcomes: list[tuple[Job, Outcome]] = []
        for future in done:
            job = self._futures.pop(future)
            try:
                outcomes.append((job, self._ray.get(future)))
            except self._ray.exceptions.RayTaskError as error:
                outcomes.append((job, _as_exception(error.cause)))
            except self._ray.exceptions.RayError:
                # The worker or its machine died, or lost what the job was to read.
                self._contents.clear()
                outcomes.append((job, Lost(is_certain=True)))
        return outcomes

    def close(self) -> None:
        """Cancel what is under way and leave the cluster; one that was started here ends."""
        for future in self._futures:
            self._ray.cancel(future, force=True)
        self._futures.clear()
        self._ray.shutdown()


def workers_of(sweep: SweepConfig) -> Workers:
    """Workers that a sweep asks for.

    :param sweep: the sweep
    :raises InputError: they cannot be had
    """
    return RayWorkers(sweep.n_jobs, sweep.address) if sweep.backend == "ray" else LocalWorkers(sweep.n_jobs)


def run_jobs(
    jobs: Sequence[Job], sweep: SweepConfig, folder: RunFolder, workers: Workers, advance: Callable[[], None]
) -> list[Failure]:
    """Run jobs and write their files; a job that fails does not keep the others from being run.

    When a process dies, every job of its pool is lost and it is not known which one was to blame. Those jobs are then
    run one at a time, so that a job that kills its worker (for want of memory, say) is known by name, and no other job
    is given up for it.

    :param jobs: the jobs
    :param sweep: the sweep
    :param folder: its folder
    :param workers: where they run
    :param advance: called for each job that is done or given up
    :return: jobs that were given up
    """
    waiting, suspects = deque(jobs), deque[Job]()
    attempts: Counter[str] = Counter()
    failures: list[Failure] = []

    def start(job: Job) -> None:
        try:
            inputs = {name: (folder.path / name).read_bytes() for name in job.inputs}
        except FileNotFoundError as error:
            failures.append(Failure(job.key, f"it needs {Path(error.filename).relative_to(folder.path)}"))
            advance()
            return
        workers.start(job, sweep, inputs)

    while waiting or suspects or workers.running:
        while waiting and not suspects and workers.running < workers.capacity:
            start(waiting.popleft())
        if suspects and not workers.running:
            start(suspects.popleft())
        if not workers.running:
            continue
        for job, outcome in workers.finished():
            if isinstance(outcome, dict):
                for name in sorted(outcome, key=lambda name: name == job.key):
                    content = outcome[name]
                    folder.write(name, lambda path, content=content: path.write_bytes(content))  # type: ignore[misc]
                advance()
                continue
            if isinstance(outcome, Lost) and not outcome.is_certain:
                suspects.append(job)
                continue
            attempts[job.key] += 1
            if attempts[job.key] > sweep.retries:
                failures.append(Failure(job.key, _reason(outcome)))
                advance()
            elif isinstance(outcome, Lost) and isinstance(workers, LocalWorkers):
                suspects.append(job)
            else:
                waiting.append(job)
    return failures


def _reason(outcome: Exception | Lost) -> str:
    if isinstance(outcome, Lost):
        return "its worker died (killed, or out of memory)"
    return one_line(f"{type(outcome).__name__}: {' '.join(str(outcome).split())}", 300)
