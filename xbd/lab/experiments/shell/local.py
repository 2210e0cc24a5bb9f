"""Jobs on the cores of this machine, in a process for each core; a killed process is replaced.

Each process has one job at a time, so when one is killed in the middle (by the kernel for lack of memory, say) only that
job is done again, by another process.
"""

import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

from xbd.lab.experiments.shell.work import CellFailed, Done, Job, do

# A job that has lost this many processes is itself the cause.
_TRIES: Final = 3
_CONTEXT: Final = multiprocessing.get_context("spawn")


class _Worker:
    """A process that does one job at a time."""

    def __init__(self) -> None:
        self.connection, theirs = _CONTEXT.Pipe()
        self.process: SpawnProcess = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        # Now only the process has this end, so the pipe ends with the process.
        theirs.close()
        self.job: Job | None = None

    def send_job(self, job: Job) -> bool:
        """Send it a job; returns False if the process has ended."""
        try:
            self.connection.send(job)
        except OSError:
            return False
        self.job = job
        return True

    def end(self) -> int:
        """End the process; returns its exit code, negative: the signal that ended it."""
        self.connection.close()
        self.process.terminate()
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        return code if code is not None else 0


def _serve(connection: Connection) -> None:
    """Do jobs from *connection* until it ends."""
    # Ctrl-C goes to the whole group of processes; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        try:
            answer: Done | CellFailed = do(job)
        except CellFailed as error:
            answer = error
        connection.send(answer)


class LocalPool:
    """A pool of processes on this machine; with one process the jobs run in this one.

    Attributes: *killed*: how many processes were lost so far.
    """

    def __init__(self, processes: int | None = None) -> None:
        self._processes = processes or len(os.sched_getaffinity(0))
        self._workers: list[_Worker] = []
        self.killed = 0

    def pids(self) -> list[int]:
        """List the ids of the worker processes."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None]

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Do all jobs, in any order. Raises CellFailed."""
        if self._processes == 1 or len(jobs) <= 1:
            yield from map(do, jobs)
            return
        left = deque(jobs)
        tries: Counter[str] = Counter()
        try:
            self._workers = [_Worker() for _ in range(min(self._processes, len(jobs)))]
            while self._assign(left):
                busy = {worker.connection: worker for worker in self._workers if worker.job is not None}
                for ready in wait(list(busy)):
                    worker = busy[ready]  # type: ignore[index]  # wait returns what it was given
                    job, answer = self._receive(worker)
                    if answer is not None:
                        yield answer
                        continue
                    tries[job.key] += 1
                    if tries[job.key] == _TRIES:
                        raise CellFailed(f"{job.cell.label()}: {_TRIES} processes were killed at it")
                    left.appendleft(job)
        finally:
            for worker in self._workers:
                worker.end()
            self._workers = []

    def _receive(self, worker: _Worker) -> tuple[Job, Done | None]:
        """Receive the answer of a worker; None: it was killed and has been replaced."""
        job, worker.job = worker.job, None
        assert job is not None, "a worker without a job was waited for"
        try:
            answer: Done | CellFailed = worker.connection.recv()
        except (EOFError, ConnectionResetError):
            self._replace(worker, job)
            return job, None
        if isinstance(answer, CellFailed):
            raise answer
        return job, answer

    def _assign(self, left: deque[Job]) -> bool:
        """Send jobs to idle workers; returns whether any job is running."""
        for at in range(len(self._workers)):
            while left and self._workers[at].job is None:
                if self._workers[at].send_job(left[0]):
                    left.popleft()
                else:
                    # It was killed while it waited.
                    self.killed += 1
                    self._workers[at].end()
                    self._workers[at] = _Worker()
        return any(worker.job is not None for worker in self._workers)

    def _replace(self, worker: _Worker, job: Job) -> None:
        """Replace a process that was killed. Raises CellFailed: it was not killed but failed."""
        worker.process.join()
        code = worker.process.exitcode
        self._workers[self._workers.index(worker)] = _Worker()
        worker.end()
        if code is not None and code >= 0:
            raise CellFailed(f"{job.cell.label()}: its process ended with exit code {code}; it has said why")
        self.killed += 1
