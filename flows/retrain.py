"""Flow ``retrain``, the whole loop: prompts → SFT → candidates → scores → pairs → audit → AV-DPO → evaluation → gate → report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from avpref.config import loading as config
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import SCHEMA_VERSION, Split
from avpref.errors import InputError
from avpref.execution.item_counts import Tally, collected
from avpref.execution.pool import ray_session
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.deployable import deployable
from avpref.flows.prefect.run_events import emit_losses, emit_verdict
from avpref.flows.stages.adapter_lineage import record_adapter, scorers_of
from avpref.flows.stages.audit import audit
from avpref.flows.stages.audit_tables import read_audit
from avpref.flows.stages.evaluate import VERDICT_FILE, evaluate
from avpref.flows.stages.generate import generate
from avpref.flows.stages.pair import pair
from avpref.flows.stages.prompts import prompts, read_prompts
from avpref.flows.stages.score import score
from avpref.flows.stages.sft import sft
from avpref.flows.stages.train import dpo, training_summary
from avpref.observability.cost import Spending, spending
from avpref.observability.run_status import tell_pairs, watched, watched_stage
from avpref.registry.promotion import promote_automatically
from avpref.storage.failpoints import Moment, reached
from avpref.storage.run_folder import CONFIG_FILE, RESULT_FILE, RunFolder, create, open_run

DAY_S = 24 * 3600
CURATION = (prompts, sft, generate, score, pair, audit)
"""Stages of the flow ``curate``, in order; each takes the run's folder and returns a row count."""
STAGES = (*CURATION, dpo, evaluate)
"""Stages of the flow ``retrain``, in order. A Prefect server shows each as a subflow."""
OF_ONE_EXECUTION = frozenset({"stages", "changed", "why", "run_dir", "promotion"})
"""Keys of the result document that say what one execution did, not what came out."""
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class StageTime:
    """How long a stage took in this execution, how many rows its result has, and how many items were made, there, taken over."""

    name: str
    seconds: float
    rows: int
    made: int = 0
    present: int = 0
    reused: int = 0


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
    folder = _folder(config_path, runs, seed, overrides)
    given = {"config_path": config_path, "runs": runs, "seed": seed, "overrides": overrides}
    with reporting.execution("curate", given, folder.settings.reporting), _owned(folder):
        times, tallies = _run(folder, CURATION)
        seal_quarantine(folder)
        said = _conclude(folder, tallies, is_change=any(tally.is_change for tally in tallies))
    stages = [asdict(each) for each in times]
    return {"run_id": folder.run_id, "stages": stages, "pairs": folder.num_rows(tables.PAIRS), **said}


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
    """Every stage of ``folder``'s run, each doing only what is missing; returns the result document.

    A server is told of it as a flow run of ``name`` with ``parameters``. With ``wait`` another command that owns the run is
    waited for. Where nothing changed, result and report stay as
    they are, and the document says why. Raises the stages' errors; what was finished stays finished.
    """
    with (
        reporting.execution(name, parameters or {"run_dir": str(folder.root)}, folder.settings.reporting),
        _owned(folder, wait),
    ):
        times, tallies = _run(folder, STAGES)
        seal_quarantine(folder)
        document = result(folder, times)
        record_adapter(folder, document)
        reached(Moment.RESULT_DUE)
        is_change = any(tally.is_change for tally in tallies) or not _is_written(folder, document)
        document |= _conclude(folder, tallies, is_change)
        if is_change:
            emit_verdict(folder, document)  # before the result: a run that is killed here says it again
            folder.write_json(RESULT_FILE, document)
        document["promotion"] = {"alias": folder.settings.promotion.alias, "state": promote_automatically(folder)}
        if is_change:
            times.append(_timed(folder, "report", lambda: _report(folder))[0])
            document["stages"] = [asdict(each) for each in times]
            folder.write_json(RESULT_FILE, document)
    return document


def _is_written(folder: RunFolder, document: dict[str, Any]) -> bool:
    """Whether result and report of exactly this outcome are there; what one execution did and took is no outcome."""
    written = folder.read_json(RESULT_FILE)
    if written is None or not (folder.root / REPORT_FILE).exists():
        return False
    has_report = any(stage["name"] == "report" for stage in written["stages"])  # or it was killed before the report
    return has_report and _outcome(written) == _outcome(json.loads(json.dumps(document)))


def _outcome(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in OF_ONE_EXECUTION}


def _conclude(folder: RunFolder, tallies: Sequence[Tally], is_change: bool) -> dict[str, Any]:
    """Whether anything changed, and why: one sentence per stage and kind of item; said aloud where there was nothing to do."""
    why = [tally.sentence for tally in tallies]
    if not is_change:
        reporting.note(f"nothing to do: {'; '.join(why)}")
        folder.events.write("nothing_to_do", why=why)
    return {"changed": is_change, "why": why}


def _folder(config_path: str, runs: str, seed: int | None, overrides: list[str] | None) -> RunFolder:
    given = list(overrides or []) + ([f"run.seed={seed}"] if seed is not None else [])
    return create(Path(runs), config.load(config_path, given).settings)


@contextmanager
def _owned(folder: RunFolder, wait: bool = False) -> Iterator[None]:
    """Own the run's folder and whatever Ray session is started, and log beginning and end."""
    started = time.monotonic()
    with folder.locked(wait), ray_session(), watched(folder):
        folder.events.write("started")
        yield
        folder.events.write("finished", seconds=round(time.monotonic() - started, 3))


def _run(folder: RunFolder, stages: Sequence[reporting.Stage]) -> tuple[list[StageTime], list[Tally]]:
    done = [_timed(folder, stage.name, partial(stage, str(folder.root))) for stage in stages]
    return [took for took, _ in done], [tally for _, tallies in done for tally in tallies]


def _timed(folder: RunFolder, name: str, work: Callable[[], int]) -> tuple[StageTime, list[Tally]]:
    """Run a stage; returns its time and what it came to. Waves of a stage (``score-imagebind``) are counted as the stage."""
    started = time.monotonic()
    with watched_stage(folder, name), collected() as tallies:
        rows = work()
    own = [tally for tally in tallies if tally.stage == name or tally.stage.startswith(f"{name}-")]
    counts = (sum(t.made for t in own), sum(t.present for t in own), sum(t.num_reused for t in own))
    took = StageTime(name, round(time.monotonic() - started, 3), rows, *counts)
    folder.events.write(
        "stage_finished", **{("stage" if key == "name" else key): each for key, each in vars(took).items()}
    )
    reporting.note(f"{name}: {rows} rows, {took.seconds:.1f} s")
    spent = spent_by(folder)
    tell_pairs(spent.kept_pairs, folder.observe.currency, spent.cost_per_kept_pair)
    return took, tallies


def spent_by(folder: RunFolder) -> Spending:
    """What the run has spent so far."""
    return spending(folder.root, folder.num_rows(tables.PAIRS), folder.observe)


def _report(folder: RunFolder) -> int:
    from avpref.flows.stages.report import write_report

    return write_report(folder)


def quarantined(folder: RunFolder) -> list[QuarantineRow]:
    """Everything that any stage gave up on so far."""
    names = (
        "refused.json",
        "quarantine-sft.json",
        "quarantine-generate.json",
        "quarantine-score.json",
        "quarantine-evaluate.json",
    )
    return [QuarantineRow(**row) for name in names for row in folder.read_json(name) or []]


def seal_quarantine(folder: RunFolder) -> None:
    """Write the quarantine table, and show it where the run reports to a server."""
    lost = quarantined(folder)
    folder.seal(tables.QUARANTINE, "", tables.to_arrow(tables.QUARANTINE, lost))
    reporting.table("quarantine", [asdict(row) for row in lost], f"{len(lost)} given up on, with the reason")
    emit_losses(folder, len(lost))


def result(folder: RunFolder, times: list[StageTime]) -> dict[str, Any]:
    """The result document of a finished run: what ``retrain --json`` prints."""
    verdict = folder.read_json(VERDICT_FILE)
    if verdict is None:
        raise InputError(
            f"run {folder.run_id} is not finished", "an evaluated run", f"avpref runs resume {folder.run_id}"
        )
    summary = training_summary(folder)
    train = [prompt for prompt in read_prompts(folder) if prompt.split == Split.TRAIN]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        "seed": folder.settings.run.seed,
        "stages": [asdict(each) for each in times],
        "scorers": scorers_of(folder),
        "pairs": {"prompts": len(train), "kept": folder.num_rows(tables.PAIRS), "strategy": _strategy(folder)},
        "audit": {
            "action": folder.settings.audit.action,
            "flagged": [asdict(row) for row in read_audit(folder) if row.is_flagged],
        },
        "training": {
            "steps": summary.steps,
            "displacement": vars(summary.displacement),
            "drift": vars(summary.drift),
            "implicit_accuracy": vars(summary.implicit_accuracy),
        },
        "evaluation": verdict["evaluation"],
        "gate": {"verdict": verdict["gate"]["verdict"], "reasons": verdict["gate"]["reasons"]},
        "quarantined": len(quarantined(folder)),
        "spent": spent_by(folder).document(),
    }


def _strategy(folder: RunFolder) -> str:
    rows = folder.read(tables.PAIRS)
    return rows["strategy"][0].as_py() if rows.num_rows else folder.settings.pairs.strategy


def resume(runs: Path, run: str, wait: bool = False) -> dict[str, Any]:
    """Go on with a run as its folder says."""
    return run_loop(open_run(runs, run), {"runs": str(runs), "run": run}, wait=wait)
