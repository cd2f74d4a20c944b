"""The work of ``avpref candidates sample``: the candidates of a run, or of a new run over a list of prompts."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from avpref.cli.actions.stage_runs import present, run_stage
from avpref.cli.output import print_facts, print_json
from avpref.config.data_settings import TextPrompts
from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.errors import ConfigError
from avpref.execution.ray_session import ray_session
from avpref.flows.flops import estimate_sampling
from avpref.flows.run import Run
from avpref.flows.stages.generate import generate
from avpref.flows.stages.prompts import prompts as prompts_flow
from avpref.flows.stages.sft import sft
from avpref.flows.workers.generator import codec_identity, open_codec, open_sampler, text_identity
from avpref.observability.meters import S_PER_H
from avpref.observability.run_status import publishing, publishing_stage
from avpref.storage.run_folder import RunFolder, create


def sample_run(folder: RunFolder, as_json: bool) -> int:
    """Sample the candidates that ``folder`` lacks. Exit code 5 where candidates were quarantined."""
    rows = run_stage(folder, generate)
    return present(folder, {"stage": "generate", "candidates": rows}, {"generate"}, as_json)


def sample_prompts(
    config: Path, prompts: Path | None, runs: Path, overrides: Sequence[str], tflops: float | None, as_json: bool
) -> int:
    """Make the run of ``config`` over ``prompts`` and its candidates; with ``tflops`` only print the amount of work.

    Exit code 5 where rows of the list were refused or candidates quarantined; the other candidates are complete.
    """
    settings = _settings(config, prompts, overrides)
    if tflops is not None:
        work = asdict(estimate_sampling(settings, tflops))
        print_json(work) if as_json else print_facts(work)
        return 0
    for check in (open_codec, open_sampler, codec_identity, text_identity):
        check(settings)  # configuration errors are raised before the run is made
    folder = create(runs, settings)
    run = Run.of(folder)
    started = time.monotonic()
    with folder.locked(), ray_session(), publishing(folder):
        for stage in (prompts_flow, sft, generate):
            with publishing_stage(run, stage.name):
                rows = stage(run).rows
    hours = (time.monotonic() - started) / S_PER_H
    document = {
        "stage": "generate",
        "run_dir": str(folder.root),
        "candidates": rows,
        "clips_per_hour": round(rows / hours, 1),
    }
    return present(folder, document, {"prompts", "generate"}, as_json)


def _settings(config: Path, prompts: Path | None, overrides: Sequence[str]) -> Settings:
    """The configuration, with ``prompts`` as its list. Raises ConfigError where it takes no list of texts."""
    kind = load_config(config, overrides).settings.prompts
    if prompts is not None and not isinstance(kind, TextPrompts):
        raise ConfigError(
            f"{config} takes its prompts from {kind.kind}",
            "a configuration with prompts.kind: texts",
            "--config configs/javisdit.yaml",
        )
    listed = [] if prompts is None else [f"prompts.prompts={json.dumps(str(prompts))}"]
    return load_config(config, [*overrides, *listed]).settings
