"""Where the jobs of a sweep run: processes of this machine, or a Ray cluster.

A job travels with the content of the files it reads and comes back as that of the files it made: a cluster needs no
shared folder, and a worker that dies leaves nothing half-written in the sweep's, where only its own process writes.
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rl_forecast.errors import InputError, one_line
from rl_forecast.experiments.run_folder import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from multiprocessing.connection import Connection

    from rl_forecast.experiments.sweep.config import SweepConfig

_DIED = "its worker died (killed, or out of memory)"

# Name to content; and the files that a job made, or why it failed.
Files = dict[str, bytes]
Outcome = Files | str


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


class Failure(NamedTuple):
    """A job that failed: its key, and in one line its error or what it waits for."""

    key: str
    reason: str


def perform(job: Job, sweep: SweepConfig, names: Sequence[str], *contents: bytes) -> Outcome:
    """Run a job in a temporary folder with the files it reads.

    :return: the files it made; or the error it ended with, in one line, for not every exception can be sent between
        processes
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
    """A process of this machine for each job, ``n`` at once, so that one that is killed takes no other with it."""

    def __init__(self, n: int) -> None:
        self.capacity = n
        self._threads = ThreadPoolExecutor(n)
        self._processes: set[Any] = set()
        self._is_closed = False
        os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
        # Processes forked from one that has imported torch begin at once. Elsewhere than on Linux forking is not safe.
        self._context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        if sys.platform == "linux":
            self._context.set_forkserver_preload(["rl_forecast.experiments.sweep.jobs"])

    def start(self, job: Job, sweep: SweepConfig, inputs: Files) -> Future[Outcome]:
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
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in tuple(self._processes):
            process.kill()
        self._threads.shutdown(wait=True)


def _send_outcome(sender: Connection, job: Job, sweep: SweepConfig, inputs: Files) -> None:
    # Ctrl-C reaches the whole group of processes; that of the sweep ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender.send(perform(job, sweep, tuple(inputs), *inputs.values()))


class RayWorkers:
    """A Ray cluster: one core a job. Ray itself runs a job again whose worker or machine dies.

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
        options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": "ERROR"}
        if not address:
            options |= {"num_cpus": n, "include_dashboard": False}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(**options)
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


def run_jobs(
    jobs: Sequence[Job], sweep: SweepConfig, folder: RunFolder, workers: Workers, advance: Callable[[], None]
) -> list[Failure]:
    """Run jobs, write their files into the folder and call ``advance`` after each; those that failed are returned."""
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
