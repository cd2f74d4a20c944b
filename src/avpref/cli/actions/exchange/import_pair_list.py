"""The work of ``avpref pairs import``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref.cli.actions.stage_runs import run_stage
from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.config.training_settings import SftSettings
from avpref.datasets import tables
from avpref.domain import Split
from avpref.errors import ConfigError
from avpref.flows.run import Run
from avpref.flows.stages.import_pairs import import_clips, import_plan
from avpref.flows.stages.prompts import prompts, refused
from avpref.storage.run_folder import create


def import_list(source: Path, config: Path, runs: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Create the run of the pairs in ``source``, list them and import their clips; returns counts and what was refused.

    Raises ConfigError for a configuration that trains an SFT network of its own, InputError where no pair is usable, CircuitOpen
    where too many clips are not.
    """
    folder = create(runs, _settings(source, config, overrides))
    run_stage(folder, prompts)
    run_stage(folder, import_clips)
    run = Run.of(folder)
    units = import_plan(run).units
    lost = run.units(tables.CANDIDATES).quarantined(units)
    splits = folder.tables.read(tables.IMPORTED)["split"].to_pylist()
    return {
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        "pairs": {"train": splits.count(Split.TRAIN), "held_out": splits.count(Split.HELD_OUT)},
        "prompts": folder.tables.num_rows(tables.PROMPTS),
        "clips": sum(len(unit.items) for unit in units) - len(lost),
        "refused": [_refusal(row.message, row.candidate_id) for row in refused(folder)],
        "quarantined": [vars(row) for row in lost],
        "next": f"avpref runs resume {folder.run_id} --runs {runs}",
    }


def _refusal(message: str, label: str) -> dict[str, Any]:
    """Row, name and reason of a refused pair; stage ``prompts`` stores the row in the message."""
    line, _, reason = message.removeprefix("line ").partition(": ")
    return {"row": int(line), "pair": label, "reason": reason}


def _settings(source: Path, config: Path, overrides: Sequence[str]) -> Settings:
    """The configuration with the pairs as its prompts; overrides of section prompts apply to them."""
    resolved = source.resolve()
    section = json.dumps({"kind": "pairs", "pairs": str(resolved)})
    settings = load_config(config, [f"prompts={section}", *overrides]).settings
    if isinstance(settings.sft, SftSettings):
        raise ConfigError(
            f"{config} trains its SFT network on clips of its own, and pairs hold none for that",
            "a trained network: sft.kind weights",
            "--set 'sft={kind: weights, network: FILE_OR_FOLDER}'",
        )
    return settings
