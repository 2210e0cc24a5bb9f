"""Jobs on a Dask cluster. Imported only where one is asked for: `distributed` is in the extra `cluster`."""

from collections.abc import Iterator, Sequence
from typing import Final

from distributed import Client, as_completed
from distributed.scheduler import KilledWorker

from xbd.lab.experiments.shell.work import CellFailed, Done, Job, do

# A scheduler on the same network answers in milliseconds; one that is starting may take a while.
_CONNECT_S: Final = 15


class ClusterPool:
    """The workers of a Dask scheduler; Dask assigns the jobs and repeats them when a worker is lost."""

    def __init__(self, address: str) -> None:
        self._address = address

    def run(self, jobs: Sequence[Job]) -> Iterator[Done]:
        """Do all jobs, in any order. Raises CellFailed; also if no scheduler answers."""
        try:
            client = Client(self._address, timeout=_CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise CellFailed(f"{self._address}: no Dask scheduler answers there: {error}") from error
        with client, client.as_current():
            futures = [client.submit(do, job, key=job.key, pure=False) for job in jobs]
            labels = {future.key: job.cell.label() for future, job in zip(futures, jobs, strict=True)}
            finished = as_completed(futures, raise_errors=False)
            try:
                for future in finished:
                    try:
                        done: Done = future.result()
                    except KilledWorker as error:
                        raise CellFailed(f"{labels[future.key]}: {error}") from error
                    yield done
                    future.release()
            finally:
                client.cancel(futures)
