"""The work of ``avpref train sft``: the stages up to the SFT network, and a file with the network and its record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.config.schema import Settings
from avpref.config.training_settings import SftSettings
from avpref.errors import ConfigError
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.run_stages import owned, run_stages
from avpref.flows.saved_network import save_sft_network
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.sft import sft
from avpref.storage.run_folder import RunFolder, create


def opened(runs: Path, settings: Settings) -> RunFolder:
    """The folder of the run that ``settings`` describe. Raises StorageError."""
    return create(runs, settings)


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
    record = save_sft_network(run, settings, output, dtype, command)
    return document | {"saved": str(output), "record": str(record)}
