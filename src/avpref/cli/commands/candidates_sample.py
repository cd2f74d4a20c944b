"""``avpref candidates sample --config … --prompts …``: N candidates for each text of a list."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from avpref.cli.output import print_facts, print_json
from avpref.cli.views.stage_runs import present
from avpref.config import loading as configuration
from avpref.config.schema import Settings, TextPrompts
from avpref.errors import ConfigError
from avpref.execution.ray_session import ray_session
from avpref.flows.flops import effort
from avpref.flows.run import Run
from avpref.flows.stages.generate import generate
from avpref.flows.stages.prompts import prompts as prompts_flow
from avpref.flows.stages.sft import sft
from avpref.flows.workers.generator import codec_identity, open_codec, sampler_settings, text_identity
from avpref.observability.meters import S_PER_H
from avpref.observability.run_status import publishing, publishing_stage
from avpref.storage.run_folder import create


def sample_prompts(
    config: Path, prompts: Path | None, runs: Path, overrides: Sequence[str], tflops: float | None, as_json: bool
) -> int:
    """Make the run of ``config`` over ``prompts`` and its candidates; with ``tflops`` only say how much work it is.

    Exit code 5 where rows of the list were refused or candidates were given up; the others are there.
    """
    settings = _settings(config, prompts, overrides)
    if tflops is not None:
        found = asdict(effort(settings, tflops))
        print_json(found) if as_json else print_facts(found)
        return 0
    for check in (open_codec, sampler_settings, codec_identity, text_identity):
        check(settings)  # what cannot work is said before anything is made
    folder = create(runs, settings)
    run = Run.of(folder)
    started = time.monotonic()
    with folder.locked(), ray_session(), publishing(folder):
        for stage in (prompts_flow, sft, generate):
            with publishing_stage(run, stage.name):
                rows = stage(run).rows
    hours = (time.monotonic() - started) / S_PER_H
    made = {
        "stage": "generate",
        "run_dir": str(folder.root),
        "candidates": rows,
        "clips_per_hour": round(rows / hours, 1),
    }
    return present(folder, made, {"prompts", "generate"}, as_json)


def _settings(config: Path, prompts: Path | None, overrides: Sequence[str]) -> Settings:
    """The configuration, with ``prompts`` as its list. Raises ConfigError for one that takes no list of texts."""
    given = list(overrides)
    if prompts is not None:
        given.append(f"prompts.prompts={json.dumps(str(prompts))}")
    kind = configuration.load(config, overrides).settings.prompts
    if prompts is not None and not isinstance(kind, TextPrompts):
        raise ConfigError(
            f"{config} takes its prompts from {kind.kind}",
            "a configuration with prompts.kind: texts",
            "--config configs/javisdit.yaml",
        )
    return configuration.load(config, given).settings
