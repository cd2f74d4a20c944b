"""Launch a training job in this process, in several of this machine, or as workers of Ray Train.

torchrun starts :mod:`avpref.trainer.worker` instead.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from avpref.errors import AvprefError
from avpref.models.bases.base_opening import search_in
from avpref.trainer.job import JOB, TrainingJob
from avpref.trainer.local_processes import run_in_processes
from avpref.trainer.metrics import METRICS_FILE, PerModality, TrainingSummary
from avpref.trainer.parallel import Context, ProgressCallback, choose_device, ignore_progress
from avpref.trainer.run_job import SUMMARY_FILE, run_job

FOLLOW_S = 1.0
"""Seconds between two looks at the workers' metrics file."""


def launch(job: TrainingJob, on_progress: ProgressCallback = ignore_progress) -> TrainingSummary:
    """Run or resume ``job`` with the launcher of its settings. ``on_progress(step, metrics)`` is called in this process only.

    With ``processes``, this process is the first of them. With Ray, this process reads the workers' metrics file once a second and
    calls ``on_progress`` from another thread. Raises what :func:`avpref.trainer.run_job.run_job` raises; with several processes,
    AvprefError that quotes another process's error.
    """
    job.check()
    if job.settings.loop.launcher == "ray":
        with _following(job.output / METRICS_FILE, on_progress):
            return _launch_ray(job)
    if job.settings.loop.launcher == "processes":
        return run_in_processes(job, on_progress)
    return run_job(job, Context(device=choose_device(job.device, 0), on_progress=on_progress))


@contextmanager
def _following(path: Path, on_progress: ProgressCallback) -> Iterator[None]:
    """Call ``on_progress`` for every row that is appended to the metrics file ``path`` during the block."""
    is_done = threading.Event()
    position = path.stat().st_size if path.exists() else 0

    def read_new_rows(start: int) -> int:
        """Read whole lines from byte ``start``; a training that resumes may have cut the file. Returns the byte after them."""
        if not path.exists():
            return start
        with path.open("rb") as stream:
            stream.seek(min(start, path.stat().st_size))
            lines = stream.read()
            whole = lines[: lines.rfind(b"\n") + 1]
            for line in whole.splitlines():
                row = json.loads(line)
                on_progress(int(row["step"]), row)
            return stream.tell() - len(lines) + len(whole)

    def follow() -> None:
        start = position
        while not is_done.wait(FOLLOW_S):
            start = read_new_rows(start)
        read_new_rows(start)

    thread = threading.Thread(target=follow, name="training progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_done.set()
        thread.join()


def _launch_ray(job: TrainingJob) -> TrainingSummary:
    """Run ``num_processes`` Ray Train workers; a failed group is restarted, at most ``max_restarts`` times, from the newest checkpoint."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    is_cuda = job.device != "cpu"
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={"job": JOB.dump_json(job).decode(), "folder": str(Path.cwd())},
        torch_config=TorchConfig(backend="nccl" if is_cuda else "gloo"),
        scaling_config=ScalingConfig(num_workers=job.settings.loop.num_processes, use_gpu=is_cuda),
        run_config=RunConfig(
            name="ray",
            storage_path=str(job.output.absolute()),
            failure_config=FailureConfig(max_failures=job.settings.loop.max_restarts),
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        raise AvprefError(
            f"Ray Train: {error}", "workers that finish", f"see {job.output / 'ray'}, then start again"
        ) from error
    return read_summary(job)


def _ray_worker(config: Mapping[str, str]) -> None:
    import ray.train
    import ray.train.torch

    def report_to_ray(step: int, row: Mapping[str, float]) -> None:
        ray.train.report({"step": step, **row})

    worker = ray.train.get_context()
    context = Context(worker.get_world_rank(), worker.get_world_size(), ray.train.torch.get_device(), report_to_ray)
    job = JOB.validate_json(config["job"])
    search_in(Path(config["folder"]), job.base)
    run_job(job, context)


def read_summary(job: TrainingJob) -> TrainingSummary:
    """The summary that a finished job wrote. Raises FileNotFoundError if the job did not finish."""
    values = json.loads((job.output / SUMMARY_FILE).read_text())
    pairs = {name: PerModality(**values[name]) for name in ("displacement", "drift", "implicit_accuracy")}
    return TrainingSummary(**values | pairs)
