"""Stage ``audit``: measures simple facts of the training candidates and checks whether one of them separates chosen from rejected.

It comes before training, which a refused audit stops.
"""

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
from avpref.media.reading import read_clip
from avpref.storage.files import Files
from avpref.storage.table_readers import read_candidates
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

STAGE = "audit"


@reporting.stage("audit")
def audit(run: Run) -> StageCounts:
    """Audit the pairs of the run; the rows are those of table ``audits``.

    Raises AuditRefused where ``audit.action`` is ``refuse`` and a fact separates the clips of pairs better than ``audit.max_auroc``.
    """
    if run.settings.audit.action == "off":
        return StageCounts(0)
    units, counts = _measure(run)
    run.tables.seal_units(run.units(tables.CLIP_FACTS), units)
    rows = _seal(run)
    flagged = shortcuts.flagged(rows)
    for row in flagged:
        say(f"audit: {flag_sentence(row)}")
    reporting.table("audits", [asdict(row) for row in rows], "how well single facts tell chosen from rejected")
    if flagged and run.settings.audit.action == "refuse":
        raise _refusal(run, flagged[0])
    return StageCounts(len(rows), (counts,))


def flag_sentence(row: AuditRow) -> str:
    """A flagged row as a sentence: fact, AUROC, interval and bound."""
    assert row.value is not None and row.ci_low is not None and row.ci_high is not None and row.bound is not None
    interval = f"{row.value:.3f} (interval {row.ci_low:.3f} to {row.ci_high:.3f})"
    return (
        f"{row.fact} tells {row.kind} apart: AUROC {interval}, beyond {row.bound:g} or {1 - row.bound:g}; {row.detail}"
    )


def _refusal(run: Run, row: AuditRow) -> AuditRefused:
    bound = run.settings.audit.max_auroc
    return AuditRefused(
        f"{row.strategy}: {flag_sentence(row)}",
        f"pairs that no single fact tells apart better than {bound:g} (audit.max_auroc); nothing was trained",
        "look at the pairs (avpref pairs audit), change pairs.strategy, pairs.ground_truth or scoring.metrics; if the fact"
        " is a part of what is preferred: --set audit.action=flag",
    )


def _seal(run: Run) -> list[AuditRow]:
    settings = run.settings.audit
    facts, prompts = (run.tables.current(table.name) for table in (tables.CLIP_FACTS, tables.PROMPTS))
    versions = [manifest.version if manifest else "" for manifest in (facts, prompts)]
    inputs = [*versions, run.pairs_hash, run.norm.norm_id]
    fingerprint = run.fingerprint(STAGE, inputs, settings.max_auroc, settings.confidence)
    if not run.tables.is_sealed(tables.AUDITS, fingerprint):
        rows = audit_rows(run, run.tables.read(tables.PAIRS), run.tables.read(tables.SKIPPED))
        run.tables.seal(tables.AUDITS, fingerprint, tables.to_arrow(tables.AUDITS, rows, fingerprint))
    return read_audit(run)


def _measure(run: Run) -> FinishedUnits[FactItem]:
    """The units that hold the facts of every training candidate; missing ones are measured."""
    train = {prompt.prompt_id for prompt in run.prompts_of(Split.TRAIN)}
    candidates = [candidate for candidate in read_candidates(run.tables) if candidate.prompt_id in train]
    items = [FactItem(candidate) for candidate in candidates]
    groups = grouped(items, [candidate.prompt_id for candidate in candidates])
    plan = plan_stage(STAGE, "candidates", run.fingerprint("clip_facts"), groups, run.settings.run)
    files = run.units(tables.CLIP_FACTS)
    reuse: Reuse[FactItem] = Reuse(files, run.files, run.siblings, "candidate_id")
    return run_stage(run, plan, files, lambda: FactSpec(run.media, files), reuse, reporting.observer())


@dataclass(frozen=True)
class FactItem:
    """A candidate to measure."""

    candidate: Candidate

    @property
    def item_id(self) -> str:
        """The candidate's id."""
        return self.candidate.candidate_id


@dataclass(frozen=True)
class FactSpec:
    """Builds workers that measure the clips in ``media`` and commit their facts to ``files``."""

    media: Files
    files: UnitFiles

    def build(self) -> FactWorker:
        """A worker; there is nothing to load."""
        return FactWorker(self)


@dataclass(frozen=True)
class FactWorker:
    """Measures units of candidates. The row of a clip that cannot be read has no facts but the reason."""

    spec: FactSpec

    def run(self, unit: Unit[FactItem]) -> Receipt:
        """Commit the facts of ``unit``'s items."""
        started = time.perf_counter()
        rows: Sequence[ClipFacts] = [self._facts(item.candidate) for item in unit.items]
        self.spec.files.commit(unit, rows)
        return Receipt(len(rows), 0, time.perf_counter() - started)

    def _facts(self, candidate: Candidate) -> ClipFacts:
        try:
            with open_clip(self.spec.media, candidate.path) as clip:
                if clip.sha256() != candidate.sha256:
                    reason = f"{candidate.path} is not the file that was committed"
                    return ClipFacts(candidate.candidate_id, reason=reason)
                return measure(candidate.candidate_id, read_clip(clip), clip.num_bytes)
        except MediaError as error:
            return ClipFacts(candidate.candidate_id, reason=error.found)
