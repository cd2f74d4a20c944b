"""The work of ``avpref train sft``: the stages up to the SFT network, and a file with the network and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from avpref import __version__
from avpref.config.training_settings import SftSettings
from avpref.errors import ConfigError, InputError
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.run_stages import owned, run_stages
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.sft import DATA_FILE, sft
from avpref.models.checkpoints.network_loading import load_network, save_network
from avpref.models.checkpoints.shipped_networks import TrainingOrigin, write_record
from avpref.models.dit import ModelType, NetworkConfig
from avpref.storage.run_folder import RunFolder
from avpref.trainer.job import tensors_hash

SECTIONS = ("clip", "codec", "network", "prompts", "sft", "text")
"""Sections of the configuration that SFT depends on, besides the seed and the negative prompt."""


def train_network(folder: RunFolder, command: str, output: Path | None, dtype: str) -> dict[str, Any]:
    """Train the run's SFT network unless it exists, and save it at ``output`` in ``dtype``; returns the result as JSON values.

    Raises ConfigError where the configuration trains no network, StorageError where ``output`` cannot be written.
    """
    settings = folder.settings.sft
    if not isinstance(settings, SftSettings):
        raise ConfigError(
            "sft.kind weights: there is no network to train", "sft.kind train", "--config configs/toyworld-full.yaml"
        )
    run = Run.of(folder)
    with reporting.execution("train sft", {"run_dir": str(run.root)}, run.settings.reporting), owned(run):
        run_stages(run, (prompts, sft))
    document = {"run_id": run.run_id, "stage": "sft", "steps": settings.loop.steps, "network": str(run.sft.checkpoint)}
    if output is None:
        return document
    save_rounded(run, output, dtype)
    record = write_record(output, origin_of(run, settings, command, dtype))
    return document | {"saved": str(output), "record": str(record)}


def save_rounded(run: Run, output: Path, dtype: str) -> None:
    """Write the run's SFT network to ``output`` with all weights rounded to ``dtype``. Raises StorageError."""
    config = NetworkConfig.from_settings(run.settings.network)
    network = load_network(run.sft.checkpoint, config, ModelType.T2AV)
    save_network(output, network.to(getattr(torch, dtype)))


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
        data_sha256=tensors_hash(data),
        trained_sha256=tensors_hash(run.sft.checkpoint),
        dtype=dtype,
        settings={name: getattr(run.settings, name).model_dump(mode="json") for name in SECTIONS},
    )
