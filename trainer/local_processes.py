"""Several processes of one machine train one job: this one is the first, and the others run :mod:`avpref.trainer.worker`."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from avpref.errors import AvprefError
from avpref.trainer.job import TrainingJob, save_job
from avpref.trainer.metrics import TrainingSummary
from avpref.trainer.parallel import JOIN_TIMEOUT, ProgressCallback, ignore_progress, joined_context, ready_file
from avpref.trainer.run_job import run_job

LOG = logging.getLogger("avpref.trainer")
END_TIMEOUT_S = 60.0
"""Longest wait for the other processes after the training has ended."""
FAILURE_TIMEOUT_S = 5.0
"""Longest wait for a process that failed, before its message is quoted."""
POLL_INTERVAL_S = 0.05
QUOTED_CHARACTERS = 2000


@dataclass(frozen=True)
class _Worker:
    """A process of the job, with the file that its messages go to."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def message(self) -> str:
        """The end of what the process wrote."""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-QUOTED_CHARACTERS:].strip()


class _Killed(Exception):
    """Another process was killed by a signal, as by the kernel where memory runs out; the training may go on from its checkpoint."""


def run_in_processes(job: TrainingJob, on_progress: ProgressCallback = ignore_progress) -> TrainingSummary:
    """Run or resume ``job`` in ``loop.num_processes`` processes; ``on_progress`` is called in this one.

    The others end with this process, however it ends. Where one is killed, all are started again from the newest checkpoint, at most
    ``loop.max_restarts`` times. Raises what :func:`avpref.trainer.run_job.run_job` raises in this process, AvprefError that quotes the
    message of another process that failed.
    """
    for restarts_left in range(job.settings.loop.max_restarts, -1, -1):
        try:
            return _run_once(job, on_progress)
        except _Killed as killed:
            if not restarts_left:
                raise AvprefError(
                    str(killed), "processes that finish", "correct the cause (memory?), then resume"
                ) from killed
            LOG.warning("%s; starting again from the newest checkpoint", killed)
    raise AssertionError("the last attempt returns or raises")


def _run_once(job: TrainingJob, on_progress: ProgressCallback) -> TrainingSummary:
    world = job.settings.loop.num_processes
    with tempfile.TemporaryDirectory(prefix="avpref-training-") as folder:
        rendezvous, path = Path(folder) / "rendezvous", Path(folder) / "job.json"
        save_job(path, job)
        with _workers(path, rendezvous, world) as workers:
            _wait_until_ready(workers, rendezvous)
            try:
                with joined_context(0, world, rendezvous, job.device, on_progress) as context:
                    summary = run_job(job, context)
            except RuntimeError as error:  # of torch.distributed, where another process is gone
                raise _failure(workers, str(error)) from error
            for worker in workers:
                worker.process.wait(END_TIMEOUT_S)
            return summary


@contextmanager
def _workers(job: Path, rendezvous: Path, world: int) -> Iterator[list[_Worker]]:
    """The processes of ranks 1 to ``world`` - 1; they are killed at the end of the block if they still run."""
    command = [sys.executable, "-P", "-m", "avpref.trainer.worker", str(job), "--world", str(world)]
    command += ["--rendezvous", str(rendezvous)]
    workers: list[_Worker] = []
    try:
        for rank in range(1, world):
            log = tempfile.TemporaryFile()  # noqa: SIM115 (closed below)
            arguments = [*command, "--rank", str(rank)]
            process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
            workers.append(_Worker(process, log))
        yield workers
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.wait()
            assert worker.process.stdin is not None
            worker.process.stdin.close()
            worker.log.close()


def _wait_until_ready(workers: list[_Worker], rendezvous: Path) -> None:
    """Wait until every process has read the job. Raises AvprefError where one ended before, or none is ready in time."""
    deadline = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    for rank, worker in enumerate(workers, 1):
        while not ready_file(rendezvous, rank).exists():
            if worker.process.poll() is not None or time.monotonic() > deadline:
                raise _failure(workers, f"process {rank} is not ready")
            time.sleep(POLL_INTERVAL_S)


def _failure(workers: list[_Worker], message: str) -> AvprefError | _Killed:
    """The error that quotes the processes that failed; ``message`` where none did."""
    for worker in workers:
        with suppress(subprocess.TimeoutExpired):
            worker.process.wait(FAILURE_TIMEOUT_S)
    ended = [worker for worker in workers if worker.process.poll() not in (None, 0)]
    signals = [-worker.process.returncode for worker in ended if worker.process.returncode < 0]
    if signals:
        return _Killed(f"a training process failed: killed by signal {signals[0]}")
    quoted = "; ".join(worker.message() for worker in ended) or message
    return AvprefError(
        f"a training process failed: {quoted}", "processes that finish", "correct the cause, then resume"
    )
