"""The work of ``avpref prompts import``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref.cli.actions.stage_runs import run_stage
from avpref.cli.options import DEFAULT_CLIPS_CONFIG
from avpref.config.data_settings import ClipPrompts
from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.datasets.prompts.clips import recording_of
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Split
from avpref.errors import ConfigError
from avpref.flows.stages.prompts import prompts, refused
from avpref.storage.run_folder import RunFolder, create
from avpref.storage.table_readers import read_prompts


def import_clips(clips: Path, config: Path, runs: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Create the run of the recordings in ``clips`` and its prompt table; returns counts and refused rows.

    Raises ConfigError where ``config`` takes its prompts from something else, InputError where too few rows are usable.
    """
    settings = _settings(clips, config, overrides)
    folder = create(runs, settings)
    run_stage(folder, prompts)
    return {
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        **_counts(folder),
        "refused": [_refusal(row) for row in refused(folder)],
        "next": f"avpref runs resume {folder.run_id} --runs {runs}",
    }


def _refusal(row: QuarantineRow) -> dict[str, Any]:
    """Line, file and reason of a refused row; stage ``prompts`` stores the line in the message."""
    line, _, reason = row.message.removeprefix("line ").partition(": ")
    return {"line": int(line), "file": row.candidate_id, "reason": reason}


def _settings(clips: Path, config: Path, overrides: Sequence[str]) -> Settings:
    """The configuration with ``prompts.clips`` set. Raises ConfigError where it takes its prompts from something else."""
    kind = load_config(config, overrides).settings.prompts
    if not isinstance(kind, ClipPrompts):
        found = f"{config} takes its prompts from {kind.kind}"
        raise ConfigError(found, "a configuration with prompts.kind: clips", f"--config {DEFAULT_CLIPS_CONFIG}")
    return load_config(config, [*overrides, f"prompts.clips={json.dumps(str(clips))}"]).settings


def _counts(folder: RunFolder) -> dict[str, Any]:
    of_split = {split: [prompt for prompt in read_prompts(folder.tables) if prompt.split == split] for split in Split}
    train, held_out = of_split[Split.TRAIN], of_split[Split.HELD_OUT]
    return {
        "recordings": len({recording_of(prompt) for prompt in train + held_out}),
        "train": {"recordings": len({recording_of(prompt) for prompt in train}), "windows": len(train)},
        "held_out": {
            "recordings": len({recording_of(prompt) for prompt in held_out}),
            "windows": len({(recording_of(prompt), prompt.ground_truth_start_s) for prompt in held_out}),
            "prompts": len(held_out),
        },
    }
