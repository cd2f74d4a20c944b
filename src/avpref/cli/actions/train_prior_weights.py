"""The work of ``avpref train prior``: the prompts of a configuration, the training of the prior, and a copy of its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from avpref.config.schema import Settings
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.run_stages import owned, run_stages
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.train_prior import prior_output, require_prior, train_prior
from avpref.models.dual_stream.prior_files import prior_fingerprint
from avpref.storage.local_files import replace
from avpref.storage.run_folder import create
from avpref.trainer.prior.run_prior import PRIOR_FILE


def train(runs: Path, settings: Settings, output: Path | None) -> dict[str, Any]:
    """Train the prior of ``settings`` unless it exists, and copy it to ``output``; returns the result as JSON values.

    Raises ConfigError where the configuration has no section ``prior``, StorageError where ``output`` cannot be written.
    """
    run = Run.of(create(runs, settings))
    loop = require_prior(run).loop
    with reporting.execution("train prior", {"run_dir": str(run.root)}, run.settings.reporting), owned(run):
        run_stages(run, (prompts, train_prior))
    path = prior_output(run) / PRIOR_FILE
    document = {
        "run_id": run.run_id,
        "stage": "prior",
        "steps": loop.steps,
        "prior": str(path),
        "fingerprint": prior_fingerprint(path),
    }
    if output is None:
        return document
    replace(output, path.read_bytes())
    return document | {"saved": str(output)}
