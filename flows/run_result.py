"""The result of a finished run: pairs, training, evaluation, gate and cost, as one typed document (``result.json``)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from avpref.datasets import tables
from avpref.datasets.evidence.gate import PROMOTE
from avpref.domain import SCHEMA_VERSION, Split
from avpref.errors import InputError
from avpref.flows.quarantine import spent_by
from avpref.flows.run import Run
from avpref.flows.stages.audit_tables import read_audit
from avpref.flows.stages.report import REPORT_FILE
from avpref.reports.report_data import StageTime
from avpref.storage.documents import VERDICT_FILE
from avpref.storage.run_folder import RESULT_FILE

OF_ONE_EXECUTION = frozenset({"stages", "changed", "why", "run_dir", "promotion"})
"""Keys of the result document that describe one execution; all others describe the run's outcome."""


@dataclass(frozen=True)
class PairCounts:
    """Training prompts, the pairs that were kept of them, and the strategy that selected the pairs."""

    prompts: int
    kept: int
    strategy: str


@dataclass(frozen=True)
class AuditResult:
    """The configured action, and the rows of the audit that were flagged."""

    action: str
    flagged: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class TrainingResult:
    """Optimiser steps, and means over the last quarter of them by modality (see ``trainer.metrics.TrainingSummary``)."""

    steps: int
    displacement: Mapping[str, float]
    drift: Mapping[str, float]
    implicit_accuracy: Mapping[str, float]


@dataclass(frozen=True)
class GateResult:
    """The gate's verdict, and the reasons of a refusal."""

    verdict: str
    reasons: tuple[str, ...]

    @property
    def is_promoted(self) -> bool:
        """Whether every rule passed."""
        return self.verdict == PROMOTE


@dataclass(frozen=True)
class AliasState:
    """An alias, and whether the run's adapter serves under it."""

    alias: str
    state: str


@dataclass(frozen=True)
class RunResult:
    """The result of a run, in the order of its document. ``evaluation`` holds the comparison of every dimension, ``metrics`` that of
    every metric that selected pairs and of every judge.

    ``is_changed`` says whether this execution computed anything, ``why`` has one sentence per stage and kind of item.
    """

    run_id: str
    run_dir: str
    seed: int
    stages: tuple[StageTime, ...]
    scorers: tuple[Mapping[str, Any], ...]
    pairs: PairCounts
    audit: AuditResult
    training: TrainingResult
    evaluation: Mapping[str, Any]
    gate: GateResult
    quarantined: int
    spent: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...] = ()
    is_changed: bool = True
    why: tuple[str, ...] = ()
    promotion: AliasState | None = None

    def document(self) -> dict[str, Any]:
        """The result as JSON values, with the keys of ``result.json``."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        values["changed"] = values.pop("is_changed")
        values["why"] = values.pop("why")
        promotion = values.pop("promotion")
        return {"schema_version": SCHEMA_VERSION, **values, **({"promotion": promotion} if promotion else {})}

    def with_stage(self, stage: StageTime) -> RunResult:
        """The result with the time of one more stage."""
        return replace(self, stages=(*self.stages, stage))


def collect_result(run: Run, times: Sequence[StageTime]) -> RunResult:
    """The result of a run whose stages are finished. Raises InputError for a run that was not evaluated."""
    verdict = run.documents.read(VERDICT_FILE)
    if verdict is None:
        raise InputError(f"run {run.run_id} is not finished", "an evaluated run", f"avpref runs resume {run.run_id}")
    settings, summary = run.settings, run.training_summary
    return RunResult(
        run_id=run.run_id,
        run_dir=str(run.root),
        seed=settings.run.seed,
        stages=tuple(times),
        scorers=tuple(run.scorers),
        pairs=_pair_counts(run),
        audit=AuditResult(settings.audit.action, tuple(asdict(row) for row in read_audit(run) if row.is_flagged)),
        training=TrainingResult(
            summary.steps, vars(summary.displacement), vars(summary.drift), vars(summary.implicit_accuracy)
        ),
        evaluation=verdict["evaluation"],
        gate=GateResult(verdict["gate"]["verdict"], tuple(verdict["gate"]["reasons"])),
        quarantined=len(run.documents.quarantined()),
        spent=spent_by(run).document(),
        metrics=tuple(verdict.get("metrics", ())),
    )


def is_written(run: Run, result: RunResult) -> bool:
    """Whether ``result.json`` and the report of exactly this outcome exist; times and paths of an execution do not count."""
    written = run.documents.read(RESULT_FILE)
    if written is None or not (run.root / REPORT_FILE).exists():
        return False
    has_report = any(
        stage["name"] == "report" for stage in written["stages"]
    )  # or the run was killed before the report
    return has_report and _outcome(written) == _outcome(result.document())


def _outcome(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in OF_ONE_EXECUTION}


def _pair_counts(run: Run) -> PairCounts:
    pairs = run.tables.read(tables.PAIRS)
    strategy = pairs["strategy"][0].as_py() if pairs.num_rows else run.settings.pairs.strategy
    return PairCounts(len(run.prompts_of(Split.TRAIN)), pairs.num_rows, strategy)
