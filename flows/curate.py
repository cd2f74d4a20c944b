"""Flow ``curate``: prompts to audited pairs, for a schedule. It trains no adapter."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from avpref.datasets import tables
from avpref.flows.before_first_stage import check_before_first_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.deployable import deployable
from avpref.flows.prefect.run_links import name_flow_run
from avpref.flows.quarantine import seal_quarantine
from avpref.flows.retrain import DAY_S, create_run
from avpref.flows.run import Run
from avpref.flows.run_stages import CURATION, explain, owned, run_stages


@deployable("curate", timeout_s=7 * DAY_S)
def curate(
    config_path: str, runs: str = "runs", seed: int | None = None, overrides: list[str] | None = None
) -> dict[str, Any]:
    """Run the stages from prompts to audited pairs; only what is missing is computed. Returns stages and number of pairs."""
    run = Run.of(create_run(config_path, runs, seed, overrides))
    check_before_first_stage(run.settings)
    parameters = {"config_path": config_path, "runs": runs, "seed": seed, "overrides": overrides}
    with reporting.execution("curate", parameters, run.settings.reporting), owned(run):
        name_flow_run(run)
        times, items = run_stages(run, CURATION)
        seal_quarantine(run)
        is_changed = any(counts.is_change for counts in items)
        why = explain(run, items, is_changed)
    return {
        "run_id": run.run_id,
        "stages": [asdict(stage_time) for stage_time in times],
        "pairs": run.tables.num_rows(tables.PAIRS),
        "changed": is_changed,
        "why": why,
    }
