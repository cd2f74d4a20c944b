"""Helpers of SFT and AV-DPO training: latents and texts as training data, and a progress bar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from avpref.config.executor_settings import InProcessExecutor
from avpref.config.schema import Settings
from avpref.datasets.latents import unpacked
from avpref.flows.placement import join_for_training
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.workers.generator import device_of, negative_text, open_codec, open_text_encoder
from avpref.models.text import TextBatch
from avpref.observability.meters import StageMeter, Workers
from avpref.observability.progress import Progress
from avpref.observability.run_status import publishing_pass, subscribers
from avpref.trainer.batches import ClipSet
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import launch
from avpref.trainer.parallel import ProgressCallback


@dataclass(frozen=True, eq=False)
class EncodedClips:
    """Latents of clips by sample id: video [N, C, T, h, w], audio [N, C, L, M], delayed audio [N, K, C, L, M] or None."""

    ids: list[str]
    texts: list[str]
    video: np.ndarray
    audio: np.ndarray
    delayed: list[np.ndarray | None]


class TrainingTexts:
    """Encodes the texts of a run for training: each distinct text once, and the negative prompt (``negative``, one row).

    States that workers have stored are read; on a Ray executor, whose GPUs are held by actors, others are computed on the CPU.
    """

    def __init__(self, settings: Settings, runs: Path) -> None:
        is_here = isinstance(settings.executor, InProcessExecutor)
        self._encoder = open_text_encoder(settings, runs, device_of(settings) if is_here else "cpu")
        self.negative: TextBatch = negative_text(self._encoder, settings)

    def encode(self, texts: Sequence[str]) -> tuple[TextBatch, Tensor]:
        """States of the D distinct texts, and for each of ``texts`` its row in them: int64 [N]."""
        distinct = sorted(set(texts))
        row = {text: index for index, text in enumerate(distinct)}
        return self._encoder.encode(distinct), torch.tensor([row[text] for text in texts])


def read_latents(rows: pa.Table, settings: Settings) -> EncodedClips:
    """Rows of the table of latents as arrays, in the shapes of the configuration's codec."""
    shapes = open_codec(settings).encoded_shapes()
    assert shapes.video is not None and shapes.audio is not None
    audio_shape = shapes.audio
    columns = rows.to_pydict()
    delayed = [unpacked([blob], (-1, *audio_shape))[0] if blob else None for blob in columns["delayed_audio"]]
    return EncodedClips(
        columns["sample_id"],
        columns["text"],
        unpacked(columns["video"], shapes.video),
        unpacked(columns["audio"], audio_shape),
        delayed,
    )


def clip_set(clips: EncodedClips, texts: TrainingTexts) -> ClipSet:
    """The training data of flow matching, one row per clip."""
    encoded, index = texts.encode(clips.texts)
    return ClipSet(
        ids=tuple(clips.ids),
        video=torch.from_numpy(clips.video),
        audio=torch.from_numpy(clips.audio),
        text=encoded.states,
        text_mask=encoded.mask,
        text_index=index,
        negative_text=texts.negative.states,
        negative_mask=texts.negative.mask,
    )


def launch_training(run: Run, stage: str, job: TrainingJob) -> None:
    """Run or resume ``job`` where its settings place it, with a progress bar. Raises as :func:`avpref.trainer.launch.launch`."""
    join_for_training(run.settings.executor, job.settings.loop)
    with training_progress(stage, job) as on_step:
        launch(job, on_step)


@contextmanager
def training_progress(stage: str, job: TrainingJob) -> Iterator[ProgressCallback]:
    """A callback that moves a progress bar of optimiser steps: it takes the number of finished steps and the metrics of the last one.

    The processes that train count as busy all the time.
    """
    loop = job.settings.loop
    workers = Workers("main", loop.num_processes, float(job.device != "cpu"))
    meter, watchers = (
        StageMeter(stage, loop.steps, unit="steps", workers=workers),
        subscribers(stage, reporting.observer().listener),
    )
    with (
        publishing_pass(watchers, meter),
        Progress(stage, loop.steps, unit="steps", listener=watchers, meter=meter) as progress,
    ):

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            meter.mark_all_busy()
            if step - progress.done > 0:
                progress.advance(min(step, loop.steps) - progress.done)

        yield on_step
        meter.mark_all_busy()
