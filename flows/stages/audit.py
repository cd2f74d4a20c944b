"""Stage ``audit``: plain facts of the training candidates, and whether they tell chosen from rejected, before anything is trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from avpref.datasets import tables
from avpref.datasets.evidence import shortcuts
from avpref.datasets.evidence.clip_facts import ClipFacts, measure
from avpref.datasets.evidence.shortcuts import AuditRow
from avpref.domain import Candidate, Split
from avpref.errors import AuditRefused, MediaError
from avpref.execution.plan import grouped, shards
from avpref.execution.pool import Receipt, Unit
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.audit_tables import audit_rows, read_audit
from avpref.flows.stages.pair import pairs_hash, read_norm
from avpref.flows.stages.prompts import read_prompts
from avpref.flows.stages.score import sealed_candidates
from avpref.flows.workers.committed_clips import open_clip
from avpref.identity import bytes_sha256
from avpref.media.reading import read_clip
from avpref.observability.progress import say
from avpref.storage.files import Files
from avpref.storage.run_folder import RunFolder, open_root
from avpref.storage.unit_files import UnitFiles

STAGE = "audit"


@reporting.stage("audit")
def audit(run_dir: str) -> int:
    """Audit the pairs of the run in ``run_dir``; returns the number of rows of table ``audits``.

    Raises AuditRefused where a fact tells more than it may and ``audit.action`` is ``refuse``.
    """
    folder = open_root(Path(run_dir))
    if folder.settings.audit.action == "off":
        return 0
    units = _measure(folder)
    folder.seal_units(tables.CLIP_FACTS, units)
    rows = _seal(folder)
    found = shortcuts.flagged(rows)
    for row in found:
        say(f"audit: {told(row)}")
    reporting.table("audits", [asdict(row) for row in rows], "how well single facts tell chosen from rejected")
    if found and folder.settings.audit.action == "refuse":
        raise _refusal(folder, found[0])
    return len(rows)


def told(row: AuditRow) -> str:
    """A flagged row as a sentence."""
    assert row.value is not None and row.ci_low is not None and row.ci_high is not None and row.bound is not None
    interval = f"{row.value:.3f} (interval {row.ci_low:.3f} to {row.ci_high:.3f})"
    return (
        f"{row.fact} tells {row.kind} apart: AUROC {interval}, beyond {row.bound:g} or {1 - row.bound:g}; {row.detail}"
    )


def _refusal(folder: RunFolder, row: AuditRow) -> AuditRefused:
    bound = folder.settings.audit.max_auroc
    return AuditRefused(
        f"{row.strategy}: {told(row)}",
        f"pairs that no single fact tells apart better than {bound:g} (audit.max_auroc); nothing was trained",
        "look at the pairs (avpref pairs audit), change pairs.strategy, pairs.ground_truth or scoring.metrics; if the fact"
        " is a part of what is preferred: --set audit.action=flag",
    )


def _seal(folder: RunFolder) -> list[AuditRow]:
    settings = folder.settings.audit
    facts, prompts = (folder.tables.current(table.name) for table in (tables.CLIP_FACTS, tables.PROMPTS))
    sealed = [found.version if found else "" for found in (facts, prompts)]
    inputs = [*sealed, pairs_hash(folder), read_norm(folder).norm_id]
    fingerprint = folder.fingerprint(STAGE, inputs, settings.max_auroc, settings.confidence)
    if not folder.is_sealed(tables.AUDITS, fingerprint):
        rows = audit_rows(folder, folder.read(tables.PAIRS), folder.read(tables.SKIPPED))
        folder.seal(tables.AUDITS, fingerprint, tables.to_arrow(tables.AUDITS, rows, fingerprint))
    return read_audit(folder)


def _measure(folder: RunFolder) -> list[Unit]:
    """The units that hold the facts of every training candidate, measured where they are missing."""
    train = {prompt.prompt_id for prompt in read_prompts(folder) if prompt.split == Split.TRAIN}
    found = [candidate for candidate in sealed_candidates(folder) if candidate.prompt_id in train]
    items = [FactItem(candidate) for candidate in found]
    groups = grouped(items, [candidate.prompt_id for candidate in found])
    plan = shards(STAGE, folder.fingerprint("clip_facts"), groups, folder.settings.run)
    files = folder.units(tables.CLIP_FACTS)
    reuse = Reuse(files, folder.files, folder.neighbours, "candidate_id")
    spec, observer = FactSpec(folder.media, files), reporting.observer()
    return run_stage(folder, STAGE, files, plan, lambda: spec, "candidates", reuse=reuse, observer=observer)


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

    def run(self, unit: Unit) -> Receipt:
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
