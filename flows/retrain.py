"""Flow ``retrain``, the whole loop: prompts → SFT → candidates → scores → pairs → audit → AV-DPO → evaluation → gate → report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from avpref.config.loading import load_config
from avpref.flows.before_first_stage import check_before_first_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.deployable import deployable
from avpref.flows.prefect.run_events import emit_verdict
from avpref.flows.prefect.run_links import name_flow_run, show_links
from avpref.flows.quarantine import seal_quarantine
from avpref.flows.rounds.round_sequence import SequenceResult, run_rounds
from avpref.flows.run import Run
from avpref.flows.run_result import AliasState, RunResult, collect_result, is_written
from avpref.flows.run_stages import STAGES, explain, owned, run_stages, run_timed
from avpref.flows.stages.adapter_lineage import record_adapter
from avpref.flows.stages.report import report
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.run_metrics import checked_metrics
from avpref.registry.promotion import promote_automatically
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.run_folder import RESULT_FILE, RunFolder, create

DAY_S = 24 * 3600


@deployable("retrain", timeout_s=14 * DAY_S)
def retrain(
    config_path: str,
    runs: str = "runs",
    seed: int | None = None,
    overrides: list[str] | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Run the whole loop for a configuration file, in rounds if it says so; returns the result document. Deployments call this.

    With ``wait`` the flow waits for another command that owns the run.
    """
    parameters = {"config_path": config_path, "runs": runs, "seed": seed, "overrides": overrides, "wait": wait}
    return _in_rounds(create_run(config_path, runs, seed, overrides), parameters, wait).document()


def _in_rounds(folder: RunFolder, parameters: Mapping[str, Any], wait: bool) -> SequenceResult:
    """The run in ``folder`` and the rounds after it, as one flow run."""
    if folder.settings.rounds.count == 1:
        return run_rounds(folder, lambda member: run_loop(member, parameters, wait=wait))
    with reporting.execution("retrain", parameters, folder.settings.reporting):
        return run_rounds(folder, lambda member: run_loop(member, parameters, wait=wait))


def create_run(config_path: str, runs: str, seed: int | None, overrides: list[str] | None) -> RunFolder:
    """The folder of the run that a configuration file with ``overrides`` describes.

    Raises ConfigError, also for a scorer or base model that cannot be used, and StorageError.
    """
    changes = [*(overrides or []), *([f"run.seed={seed}"] if seed is not None else [])]
    settings = load_config(config_path, changes).settings
    checked_metrics(settings)
    base_of(settings)
    return create(Path(runs), settings)


def run_loop(
    folder: RunFolder, parameters: Mapping[str, Any] | None = None, name: str = "retrain", wait: bool = False
) -> RunResult:
    """Run every stage of the run in ``folder``, each doing only what is missing.

    A Prefect server shows it as a flow run of ``name`` with ``parameters``. With ``wait`` it waits for another command that
    owns the run. Where nothing changed, result and report stay as they are, and ``why`` says so. Raises the stages'
    errors; what was finished stays finished.
    """
    run = Run.of(folder)
    check_before_first_stage(run.settings)
    reported = parameters or {"run_dir": str(run.root)}
    with reporting.execution(name, reported, run.settings.reporting), owned(run, wait):
        name_flow_run(run)
        times, items = run_stages(run, STAGES)
        seal_quarantine(run)
        result = collect_result(run, times)
        record_adapter(run, result.evaluation, result.gate.verdict, result.gate.reasons)
        hit(FailPoint.RESULT_DUE)
        is_changed = any(counts.is_change for counts in items) or not is_written(run, result)
        result = replace(result, is_changed=is_changed, why=tuple(explain(run, items, is_changed)))
        if is_changed:
            # before the result: a run that is killed here emits it again
            emit_verdict(run, result.gate.verdict, result.gate.reasons)
            run.documents.write(RESULT_FILE, result.document())
        alias = run.settings.promotion.alias
        result = replace(result, promotion=AliasState(alias, promote_automatically(run)))
        if is_changed:
            result = result.with_stage(run_timed(run, report)[0])
            run.documents.write(RESULT_FILE, result.document())
        show_links(run, result.gate.verdict)
    return result


def resume(folder: RunFolder, wait: bool = False) -> SequenceResult:
    """Continue the run in ``folder``, and the rounds after it, with the settings that it recorded."""
    return _in_rounds(folder, {"runs": str(folder.runs), "run": folder.run_id}, wait)
