"""Where the jobs of a sweep run: processes of this machine, or a Ray cluster.

A job travels with the content of the files it reads and comes back as the content of the files it made, so a cluster
needs no folder that all its machines see. Only the process of the sweep writes into the sweep's folder: a worker that
dies leaves nothing half-written there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rl_forecast.errors import InputError, one_line
from rl_forecast.experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from multiprocessing.connection import Connection

    from rl_forecast.experiments.sweep.config import SweepConfig

__all__ = ["Failure", "Job", "LocalWorkers", "RayWorkers", "perform", "run_jobs", "workers_of"]

# One thread a job, as one core a job.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

_DIED = "its worker died (killed, or out of memory)"

#: Name to content.
Files = dict[str, bytes]
#: The files that a job made, or why it failed.
Outcome = dict[str, bytes] | str


class Job(Protocol):
    """A function of its fields, the sweep and the files of earlier jobs."""

    @property
    def key(self) -> str:
        """Name of the file that says that it is done, written last."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the files and folders it reads."""

    def run(self, sweep: SweepConfig, folder: RunFolder) -> None:
        """Read them in a folder and write into it."""


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    :param key: the job
    :param reason: its error, or what it waits for, in one line
    """

    key: str
    reason: str


def perform(job: Job, sweep: SweepConfig, names: Sequence[str], *contents: bytes) -> Outcome:
    """Run a job in a separate folder.

    :param job: the job
    :param sweep: the sweep
    :param names: names of the files it reads
    :param contents: content of each
    :return: name to content of the files it made; or the error it ended with, in one line (not every exception can
        be sent between processes)
    """
    with tempfile.TemporaryDirectory(prefix="rl-forecast-") as name:
        folder = RunFolder(Path(name))
        for key, content in zip(names, contents, strict=True):
            folder.file(key).write_bytes(content)
        try:
            job.run(sweep, folder)
        except Exception as error:
            return one_line(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
        made = {path.relative_to(folder.path).as_posix(): path for path in folder.path.rglob("*") if path.is_file()}
        return {key: path.read_bytes() for key, path in made.items() if key not in names}


class LocalWorkers:
    """A process of this machine for each job, so that one that is killed takes no other with it.

    :param n: jobs at once
    """

    def __init__(self, n: int) -> None:
        self.capacity = n
        self._threads = ThreadPoolExecutor(n)
        self._processes: set[Any] = set()
        self._is_closed = False
        os.environ.update(_ONE_THREAD)
        # Processes forked from one that has imported torch begin at once. Elsewhere than on Linux forking is not safe.
        self._context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self._context.set_forkserver_preload(["rl_forecast.experiments.sweep.jobs"])

    def start(self, job: Job, sweep: SweepConfig, inputs: Files) -> Future[Outcome]:
        """Hand a job over."""
        return self._threads.submit(self._run, job, sweep, inputs)

    def _run(self, job: Job, sweep: SweepConfig, inputs: Files) -> Outcome:
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_send_outcome, args=(sender, job, sweep, inputs), daemon=True)
        process.start()
        self._processes.add(process)
        if self._is_closed:
            process.kill()
        sender.close()
        try:
            outcome: Outcome = receiver.recv()
        except EOFError:
            outcome = _DIED
        process.join()
        self._processes.discard(process)
        return outcome

    def close(self) -> None:
        """End all processes, at once."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in tuple(self._processes):
            process.kill()
        self._threads.shutdown(wait=True)


def _send_outcome(sender: Connection, job: Job, sweep: SweepConfig, inputs: Files) -> None:
    """In the process of a job."""
    # Ctrl-C reaches the whole group of processes; that of the sweep ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender.send(perform(job, sweep, tuple(inputs), *inputs.values()))


class RayWorkers:
    """A Ray cluster: one core a job, as many jobs at once as it has cores, or grows to have.

    Ray itself runs a job again whose worker or machine dies.

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
        self._perform = ray.remote(num_cpus=1)(perform)
        self._references: list[Any] = []
        self._contents: dict[str, Any] = {}

    def start(self, job: Job, sweep: SweepConfig, inputs: Files) -> Future[Outcome]:
        """Hand a job over; a file that many jobs read goes to the cluster once."""
        for name, content in inputs.items():
            if name not in self._contents:
                self._contents[name] = self._ray.put(content)
        reference = self._perform.remote(job, sweep, tuple(inputs), *(self._contents[name] for name in inputs))
        self._references.append(reference)
        future: Future[Outcome] = reference.future()
        return future

    def close(self) -> None:
        """Cancel what is under way and leave the cluster; one that was started here ends."""
        for reference in self._references:
            self._ray.cancel(reference, force=True)
        self._ray.shutdown()


Workers = LocalWorkers | RayWorkers


def workers_of(sweep: SweepConfig) -> Workers:
    """Workers that a sweep asks for.

    :raises InputError: they cannot be had
    """
    return RayWorkers(sweep.n_jobs, sweep.address) if sweep.backend == "ray" else LocalWorkers(sweep.n_jobs)


def run_jobs(
    jobs: Sequence[Job],
    sweep: SweepConfig,
    folder: RunFolder,
    workers: LocalWorkers | RayWorkers,
    advance: Callable[[], None],
) -> list[Failure]:
    """Run jobs and write their files; a job that fails does not keep the others from being run.

    :param jobs: the jobs
    :param sweep: the sweep
    :param folder: its folder
    :param workers: where they run
    :param advance: called for each job that is done or has failed
    :return: jobs that failed
    """
    waiting, failures = deque(jobs), []
    running: dict[Future[Outcome], Job] = {}
    while waiting or running:
        while waiting and len(running) < workers.capacity:
            job = waiting.popleft()
            try:
                running[workers.start(job, sweep, _read(folder, job.inputs))] = job
            except FileNotFoundError as error:
                failures.append(Failure(job.key, f"it needs {Path(error.filename).relative_to(folder.path)}"))
                advance()
        for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
            job = running.pop(future)
            outcome = _DIED if future.exception() else future.result()
            if isinstance(outcome, str):
                failures.append(Failure(job.key, outcome))
            else:
                for name in sorted(outcome, key=lambda name: name == job.key):  # its key last
                    folder.write(name, lambda path, content=outcome[name]: path.write_bytes(content))  # type: ignore[misc]
            advance()
    return failures


def _read(folder: RunFolder, names: Sequence[str]) -> Files:
    """Content of files, and of all files in folders."""
    files: Files = {}
    for name in names:
        path = folder.path / name
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files |= {one.relative_to(folder.path).as_posix(): one.read_bytes() for one in inside}
    return files
