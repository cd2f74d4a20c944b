"""Flow ``evaluate_run``: brings one existing run up to date and takes the gate's decision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref.config.loading import load_config
from avpref.flows.prefect.deployable import deployable
from avpref.flows.retrain import DAY_S, run_loop
from avpref.storage.run_folder import CONFIG_FILE, RunFolder, create, find_run, open_root


@deployable("evaluate_run", timeout_s=2 * DAY_S)
def evaluate_run(runs: str = "runs", run: str = "", overrides: list[str] | None = None) -> dict[str, Any]:
    """Bring one run up to date (the newest without ``run``) and take the gate's decision; returns the result document.

    ``overrides`` describe another run: the one with the changed settings.
    """
    parameters = {"runs": runs, "run": run, "overrides": overrides}
    return run_loop(_folder(Path(runs), run, overrides or []), parameters, "evaluate_run").document()


def _folder(runs: Path, run: str, overrides: Sequence[str]) -> RunFolder:
    root = find_run(runs, run)
    if not overrides:
        return open_root(root)
    return create(runs, load_config(root / CONFIG_FILE, overrides, environment={}).settings)
