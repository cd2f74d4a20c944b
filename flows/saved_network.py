"""The SFT network of a run as one file with a record: for other configurations, or to ship with the package."""

from __future__ import annotations

from pathlib import Path

import torch

from avpref import __version__
from avpref.config.training_settings import SftSettings
from avpref.errors import InputError
from avpref.flows.run import Run
from avpref.flows.stages.sft import DATA_FILE
from avpref.flows.workers.generator import base_of
from avpref.models.checkpoints.shipped_networks import TrainingOrigin, write_record
from avpref.trainer.job import data_hash, tensors_hash

SECTIONS = ("base", "clip", "codec", "network", "prompts", "sft", "text")
"""Sections of the configuration that SFT depends on, besides the seed and the negative prompt."""


def save_sft_network(run: Run, settings: SftSettings, output: Path, dtype: str, command: str) -> Path:
    """Write the run's trained SFT network to ``output``, rounded to ``dtype``, and its record beside it; returns the record's path.

    ``command`` is the command that trained it. Raises InputError where its training clips are gone, StorageError.
    """
    origin = origin_of(run, settings, command, dtype)
    save_rounded(run, output, dtype)
    return write_record(output, origin)


def save_rounded(run: Run, output: Path, dtype: str) -> None:
    """Write the run's SFT network to ``output`` with all weights rounded to ``dtype``. Raises StorageError."""
    base = base_of(run.settings)
    base.save(output, base.load(run.sft.checkpoint).to(getattr(torch, dtype)))


def origin_of(run: Run, settings: SftSettings, command: str, dtype: str) -> TrainingOrigin:
    """Everything that the run's SFT network was trained with. Raises InputError where its training clips are gone."""
    data = run.sft_output / DATA_FILE
    if not data.exists():
        found = f"{data} is absent: the network was taken over from another run"
        raise InputError(found, "the clips that the network was trained on", "save it from the run that trained it")
    return TrainingOrigin(
        command=command,
        product_version=__version__,
        seed=run.settings.run.seed,
        steps=settings.loop.steps + settings.audio_steps,
        inputs=run.sft_output.name,
        data_sha256=data_hash(data),
        trained_sha256=tensors_hash(run.sft.checkpoint),
        dtype=dtype,
        settings=run.settings.model_dump(mode="json", include=set(SECTIONS)),
    )
