"""Flow ``retrain``, the whole loop: prompts → SFT → candidates → scores → pairs → audit → AV-DPO → evaluation → gate → report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from avpref.config import loading as config
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import SCHEMA_VERSION, Split
from avpref.errors import InputError
from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.execution.ray_session import ray_session
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.deployable import deployable
from avpref.flows.prefect.run_events import announce_losses, announce_verdict
from avpref.flows.run import Run
from avpref.flows.stages.adapter_lineage import record_adapter, scorers_of
from avpref.flows.stages.audit import audit
from avpref.flows.stages.audit_tables import read_audit
from avpref.flows.stages.evaluate import VERDICT_FILE, evaluate
from avpref.flows.stages.generate import generate
from avpref.flows.stages.pair import pair
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.report import REPORT_FILE, report
from avpref.flows.stages.score import score
from avpref.flows.stages.sft import sft
from avpref.flows.stages.train import train
from avpref.observability.cost import Spending, spending
from avpref.observability.run_status import publish_pairs, publishing, publishing_stage
from avpref.registry.promotion import promote_automatically
from avpref.reports.report_data import StageTime
from avpref.storage.documents import QUARANTINE_FILES
from avpref.storage.failpoints import FailPoint, hit
from avpref.storage.run_folder import CONFIG_FILE, RESULT_FILE, RunFolder, create, open_run

DAY_S = 24 * 3600
CURATION = (prompts, sft, generate, score, pair, audit)
"""From prompts to audited pairs, in order; each takes the :class:`Run` and returns its counts."""
STAGES = (*CURATION, train, evaluate)
"""The whole loop, in order."""
OF_ONE_EXECUTION = frozenset({"stages", "changed", "why", "run_dir", "promotion"})
"""Keys of the result document that say what one execution did, not what came out."""


@deployable("retrain", timeout_s=14 * DAY_S)
def retrain(
    config_path: str,
    runs: str = "runs",
    seed: int | None = None,
    overrides: list[str] | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Run the whole loop for a configuration file; returns the result document. Deployments call this.

    With ``wait`` a run that another command works on is waited for.
    """
    given = {"config_path": config_path, "runs": runs, "seed": seed, "overrides": overrides, "wait": wait}
    return run_loop(_folder(config_path, runs, seed, overrides), given, wait=wait)


@deployable("curate", timeout_s=7 * DAY_S)
def curate(
    config_path: str, runs: str = "runs", seed: int | None = None, overrides: list[str] | None = None
) -> dict[str, Any]:
    """Prompts to pairs, for a schedule: only what is missing is done. Returns stages and the number of pairs."""
    run = Run.of(_folder(config_path, runs, seed, overrides))
    given = {"config_path": config_path, "runs": runs, "seed": seed, "overrides": overrides}
    with reporting.execution("curate", given, run.settings.reporting), _owned(run):
        times, items = _run_stages(run, CURATION)
        seal_quarantine(run)
        said = _conclude(run, items, is_change=any(counts.is_change for counts in items))
    stages = [asdict(each) for each in times]
    return {"run_id": run.run_id, "stages": stages, "pairs": run.tables.num_rows(tables.PAIRS), **said}


@deployable("evaluate_run", timeout_s=2 * DAY_S)
def evaluate_run(runs: str = "runs", run: str = "", overrides: list[str] | None = None) -> dict[str, Any]:
    """Bring one run up to date (the newest without ``run``) and take the gate's decision; returns the result document.

    ``overrides`` make it another run: the one that the changed settings describe.
    """
    folder = open_run(Path(runs), run)
    if overrides:
        folder = create(Path(runs), config.load(folder.root / CONFIG_FILE, overrides, environment={}).settings)
    return run_loop(folder, {"runs": runs, "run": run, "overrides": overrides}, "evaluate_run")


def run_loop(
    folder: RunFolder, parameters: Mapping[str, Any] | None = None, name: str = "retrain", wait: bool = False
) -> dict[str, Any]:
    """Every stage of the run in ``folder``, each doing only what is missing; returns the result document.

    A server is told of it as a flow run of ``name`` with ``parameters``. With ``wait`` another command that owns the run is
    waited for. Where nothing changed, result and report stay as they are, and the document says why. Raises the stages'
    errors; what was finished stays finished.
    """
    run = Run.of(folder)
    with (
        reporting.execution(name, parameters or {"run_dir": str(run.root)}, run.settings.reporting),
        _owned(run, wait),
    ):
        times, items = _run_stages(run, STAGES)
        seal_quarantine(run)
        document = result(run, times)
        record_adapter(run, document)
        hit(FailPoint.RESULT_DUE)
        is_change = any(counts.is_change for counts in items) or not _is_written(run, document)
        document |= _conclude(run, items, is_change)
        if is_change:
            announce_verdict(run, document)  # before the result: a run that is killed here says it again
            run.documents.write(RESULT_FILE, document)
        document["promotion"] = {"alias": run.settings.promotion.alias, "state": promote_automatically(run)}
        if is_change:
            times.append(_timed(run, report.name, partial(report, run))[0])
            document["stages"] = [asdict(each) for each in times]
            run.documents.write(RESULT_FILE, document)
    return document


def _is_written(run: Run, document: dict[str, Any]) -> bool:
    """Whether result and report of exactly this outcome are there; what one execution did and took is no outcome."""
    written = run.documents.read(RESULT_FILE)
    if written is None or not (run.root / REPORT_FILE).exists():
        return False
    has_report = any(stage["name"] == "report" for stage in written["stages"])  # or it was killed before the report
    return has_report and _outcome(written) == _outcome(json.loads(json.dumps(document)))


def _outcome(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in OF_ONE_EXECUTION}


def _conclude(run: Run, items: Sequence[ItemCounts], is_change: bool) -> dict[str, Any]:
    """Whether anything changed, and why: one sentence per stage and kind of item; said aloud where there was nothing to do."""
    why = [counts.sentence for counts in items]
    if not is_change:
        reporting.note(f"nothing to do: {'; '.join(why)}")
        run.events.write("nothing_to_do", why=why)
    return {"changed": is_change, "why": why}


def _folder(config_path: str, runs: str, seed: int | None, overrides: list[str] | None) -> RunFolder:
    given = list(overrides or []) + ([f"run.seed={seed}"] if seed is not None else [])
    return create(Path(runs), config.load(config_path, given).settings)


@contextmanager
def _owned(run: Run, wait: bool = False) -> Iterator[None]:
    """Own the run's folder and whatever Ray session is started, and log beginning and end."""
    started = time.monotonic()
    with run.locked(wait), ray_session(), publishing(run):
        run.events.write("started")
        yield
        run.events.write("finished", seconds=round(time.monotonic() - started, 3))


def _run_stages(run: Run, stages: Sequence[reporting.Stage]) -> tuple[list[StageTime], list[ItemCounts]]:
    """Run the stages one after another; returns their times, and the counts of all their items."""
    done = [_timed(run, stage.name, partial(stage, run)) for stage in stages]
    return [time_taken for time_taken, _ in done], [items for _, counts in done for items in counts.items]


def _timed(run: Run, name: str, work: Callable[[], StageCounts]) -> tuple[StageTime, StageCounts]:
    """Run a stage and log its time and counts."""
    started = time.monotonic()
    with publishing_stage(run, name):
        counts = work()
    own = counts.of(name)
    sums = (sum(c.made for c in own), sum(c.present for c in own), sum(c.num_reused for c in own))
    stage_time = StageTime(name, round(time.monotonic() - started, 3), counts.rows, *sums)
    run.events.write(
        "stage_finished", **{("stage" if key == "name" else key): value for key, value in vars(stage_time).items()}
    )
    reporting.note(f"{name}: {counts.rows} rows, {stage_time.seconds:.1f} s")
    spent = spent_by(run)
    publish_pairs(spent.kept_pairs, run.observe.currency, spent.cost_per_kept_pair)
    return stage_time, counts


def spent_by(run: RunFolder) -> Spending:
    """What the run has spent so far."""
    return spending(run.root, run.tables.num_rows(tables.PAIRS), run.observe)


def quarantined(run: RunFolder) -> list[QuarantineRow]:
    """Everything that any stage gave up on so far."""
    return [QuarantineRow(**row) for name in QUARANTINE_FILES for row in run.documents.read(name) or []]


def seal_quarantine(run: Run) -> None:
    """Write the quarantine table, and show it where the run reports to a server."""
    lost = quarantined(run)
    run.tables.seal(tables.QUARANTINE, "", tables.to_arrow(tables.QUARANTINE, lost))
    reporting.table("quarantine", [asdict(row) for row in lost], f"{len(lost)} given up on, with the reason")
    announce_losses(run, len(lost))


def result(run: Run, times: list[StageTime]) -> dict[str, Any]:
    """The result document of a finished run: what ``retrain --json`` prints."""
    verdict = run.documents.read(VERDICT_FILE)
    if verdict is None:
        raise InputError(f"run {run.run_id} is not finished", "an evaluated run", f"avpref runs resume {run.run_id}")
    summary = run.training_summary
    train_prompts = run.prompts_of(Split.TRAIN)
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run.run_id,
        "run_dir": str(run.root),
        "seed": run.settings.run.seed,
        "stages": [asdict(each) for each in times],
        "scorers": scorers_of(run),
        "pairs": {"prompts": len(train_prompts), "kept": run.tables.num_rows(tables.PAIRS), "strategy": _strategy(run)},
        "audit": {
            "action": run.settings.audit.action,
            "flagged": [asdict(row) for row in read_audit(run) if row.is_flagged],
        },
        "training": {
            "steps": summary.steps,
            "displacement": vars(summary.displacement),
            "drift": vars(summary.drift),
            "implicit_accuracy": vars(summary.implicit_accuracy),
        },
        "evaluation": verdict["evaluation"],
        "gate": {"verdict": verdict["gate"]["verdict"], "reasons": verdict["gate"]["reasons"]},
        "quarantined": len(quarantined(run)),
        "spent": spent_by(run).document(),
    }


def _strategy(run: Run) -> str:
    rows = run.tables.read(tables.PAIRS)
    return rows["strategy"][0].as_py() if rows.num_rows else run.settings.pairs.strategy


def resume(runs: Path, run: str, wait: bool = False) -> dict[str, Any]:
    """Go on with a run as its run says."""
    return run_loop(open_run(runs, run), {"runs": str(runs), "run": run}, wait=wait)
