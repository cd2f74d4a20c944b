"""Stage ``audit``: plain facts of the training candidates, and whether they tell chosen from rejected, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from avpref.console import say
from avpref.datasets import tables
from avpref.datasets.evidence import shortcuts
from avpref.datasets.evidence.clip_facts import ClipFacts, measure
from avpref.datasets.evidence.shortcuts import AuditRow
from avpref.domain import Candidate, Split
from avpref.errors import AuditRefused, MediaError
from avpref.execution.contract import Receipt
from avpref.execution.item_counts import StageCounts
from avpref.execution.plan import grouped, plan_stage
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import FinishedUnits, run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.audit_tables import audit_rows, read_audit
from avpref.flows.workers.committed_clips import open_clip
from avpref.identity import bytes_sha256
from avpref.media.reading import read_clip
from avpref.storage.files import Files
from avpref.storage.table_readers import read_candidates
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

STAGE = "audit"


@reporting.stage("audit")
def audit(run: Run) -> StageCounts:
    """Audit the pairs of the run; the rows are those of table ``audits``.

    Raises AuditRefused where a fact tells more than it may and ``audit.action`` is ``refuse``.
    """
    if run.settings.audit.action == "off":
        return StageCounts(0)
    units, counts = _measure(run)
    run.tables.seal_units(run.units(tables.CLIP_FACTS), units)
    rows = _seal(run)
    found = shortcuts.flagged(rows)
    for row in found:
        say(f"audit: {told(row)}")
    reporting.table("audits", [asdict(row) for row in rows], "how well single facts tell chosen from rejected")
    if found and run.settings.audit.action == "refuse":
        raise _refusal(run, found[0])
    return StageCounts(len(rows), (counts,))


def told(row: AuditRow) -> str:
    """A flagged row as a sentence."""
    assert row.value is not None and row.ci_low is not None and row.ci_high is not None and row.bound is not None
    interval = f"{row.value:.3f} (interval {row.ci_low:.3f} to {row.ci_high:.3f})"
    return (
        f"{row.fact} tells {row.kind} apart: AUROC {interval}, beyond {row.bound:g} or {1 - row.bound:g}; {row.detail}"
    )


def _refusal(run: Run, row: AuditRow) -> AuditRefused:
    bound = run.settings.audit.max_auroc
    return AuditRefused(
        f"{row.strategy}: {told(row)}",
        f"pairs that no single fact tells apart better than {bound:g} (audit.max_auroc); nothing was trained",
        "look at the pairs (avpref pairs audit), change pairs.strategy, pairs.ground_truth or scoring.metrics; if the fact"
        " is a part of what is preferred: --set audit.action=flag",
    )


def _seal(run: Run) -> list[AuditRow]:
    settings = run.settings.audit
    facts, prompts = (run.tables.current(table.name) for table in (tables.CLIP_FACTS, tables.PROMPTS))
    sealed = [found.version if found else "" for found in (facts, prompts)]
    inputs = [*sealed, run.pairs_hash, run.norm.norm_id]
    fingerprint = run.fingerprint(STAGE, inputs, settings.max_auroc, settings.confidence)
    if not run.tables.is_sealed(tables.AUDITS, fingerprint):
        rows = audit_rows(run, run.tables.read(tables.PAIRS), run.tables.read(tables.SKIPPED))
        run.tables.seal(tables.AUDITS, fingerprint, tables.to_arrow(tables.AUDITS, rows, fingerprint))
    return read_audit(run)


def _measure(run: Run) -> FinishedUnits[FactItem]:
    """The units that hold the facts of every training candidate, measured where they are missing."""
    train = {prompt.prompt_id for prompt in run.prompts_of(Split.TRAIN)}
    found = [candidate for candidate in read_candidates(run.tables) if candidate.prompt_id in train]
    items = [FactItem(candidate) for candidate in found]
    groups = grouped(items, [candidate.prompt_id for candidate in found])
    plan = plan_stage(STAGE, "candidates", run.fingerprint("clip_facts"), groups, run.settings.run)
    files = run.units(tables.CLIP_FACTS)
    reuse: Reuse[FactItem] = Reuse(files, run.files, run.neighbours, "candidate_id")
    return run_stage(run, plan, files, lambda: FactSpec(run.media, files), reuse, reporting.observer())


@dataclass(frozen=True)
class FactItem:
    """A candidate that is to be measured."""

    candidate: Candidate

    @property
    def item_id(self) -> str:
        """The candidate's id."""
        return self.candidate.candidate_id


@dataclass(frozen=True)
class FactSpec:
    """Builds workers that measure clips in ``media``."""

    media: Files
    files: UnitFiles

    def build(self) -> FactWorker:
        """Nothing to load."""
        return FactWorker(self)


@dataclass(frozen=True)
class FactWorker:
    """Measures units of candidates. A clip that cannot be read has no facts but the reason; whoever needs it will say more."""

    spec: FactSpec

    def run(self, unit: Unit[FactItem]) -> Receipt:
        """Commit the facts of ``unit``'s items."""
        started = time.perf_counter()
        rows: Sequence[ClipFacts] = [self._facts(item.candidate) for item in unit.items]
        self.spec.files.commit(unit, rows)
        return Receipt(len(rows), 0, time.perf_counter() - started)

    def _facts(self, candidate: Candidate) -> ClipFacts:
        try:
            clip = open_clip(self.spec.media, candidate.path)
            if bytes_sha256(clip.getvalue()) != candidate.sha256:
                return ClipFacts(candidate.candidate_id, reason=f"{candidate.path} is not the file that was committed")
            return measure(candidate.candidate_id, read_clip(clip), len(clip.getvalue()))
        except MediaError as error:
            return ClipFacts(candidate.candidate_id, reason=error.found)
