"""Making a share of a run again, elsewhere, and comparing: clips, scores, norm and pairs. The run itself is not written to.

Clips are made again in the batches in which the plan made them, because a network adds up a batch as a whole. On the
machine that made them they come out bit for bit alike; elsewhere the differences are measured instead.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avpref.config.storage_settings import FolderStorage
from avpref.datasets import tables
from avpref.domain import Candidate, Origin, Prompt, Split
from avpref.errors import InputError, TableError
from avpref.execution.plan import Shard, StagePlan
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.rescore import ScoreDifference, rescore
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import CandidateRequest, plan_candidates
from avpref.flows.stages.evaluate import STAGE as EVALUATE
from avpref.flows.stages.generate import STAGE as GENERATE
from avpref.flows.stages.generate import candidates_of
from avpref.flows.stages.pair import select
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.flows.workers.generator import NetworkFiles
from avpref.identity import bytes_sha256, derive_seed
from avpref.media.reading import read_clip
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import hash_of_pairs as content_hash
from avpref.storage.table_readers import read_candidates
from avpref.storage.unit import Unit

FINGERPRINT = "reproduce"


@dataclass(frozen=True)
class ClipDifference:
    """A clip that did not come out as it was committed: why, and by how much where both can be decoded.

    Pictures in grey levels (0 to 255), sound in full scale (−1 to 1).
    """

    candidate_id: str
    reason: str
    max_frame: float | None = None
    mean_frame: float | None = None
    max_audio: float | None = None
    mean_audio: float | None = None


@dataclass(frozen=True)
class Same:
    """Something of which there is one: what the run has, and what came out now."""

    recorded: str
    now: str

    @property
    def is_same(self) -> bool:
        """Whether they are equal."""
        return self.recorded == self.now


@dataclass(frozen=True)
class Reproduction:
    """What was made again and what came out otherwise. ``norm`` and ``pairs`` are None in a run that has none yet."""

    run_id: str
    seed: int
    candidates: int
    clips: int
    clip_differences: tuple[ClipDifference, ...]
    scores: int
    score_differences: tuple[ScoreDifference, ...]
    tables: tuple[str, ...]
    norm: Same | None
    pairs: Same | None

    @property
    def is_same(self) -> bool:
        """Whether everything came out as it was."""
        singles = all(each is None or each.is_same for each in (self.norm, self.pairs))
        return singles and not (self.clip_differences or self.score_differences or self.tables)


@dataclass(frozen=True)
class _Source:
    """Candidates that one network made in one stage: as they were committed, and the plan that made them."""

    stage: str
    network: NetworkFiles
    recorded: Mapping[str, Candidate]
    plan: StagePlan[CandidateRequest]


@dataclass(frozen=True)
class _Batch:
    """Items that go through the network together, and where they come from."""

    source: _Source
    unit: Unit[CandidateRequest]


def reproduce(folder: RunFolder, share: float, num: int | None, seed: int, work: Path | None = None) -> Reproduction:
    """Make at least ``share`` of the run's candidates again (or ``num``), whole batches chosen by ``seed``, in a run under ``work``.

    Raises InputError before candidates were made or where weights are absent; the stages' errors.
    """
    run = Run.of(folder)
    changed = tuple(_changed_tables(run))
    prompts = run.prompts
    sources = list(_sources(run, prompts))
    total = sum(len(source.recorded) for source in sources)
    batches = _chosen(run, sources, num or math.ceil(share * total), seed)
    with tempfile.TemporaryDirectory(prefix="avpref-reproduce-", dir=work) as name:
        bench = _bench(run, Path(name), "made")
        made = {each.candidate_id: each for source in sources for each in _make(run, bench, source, batches)}
        recorded = _recorded(batches)
        clips = [found for each in recorded for found in _compare(run, bench, each, made.get(each.candidate_id))]
        clips += _misnamed(sources)
        otherwise = [made[each.candidate_id] for each in clips if each.candidate_id in made]
        rescored = rescore(run, _bench(run, Path(name), "kept"), bench, recorded, otherwise, prompts)
    norm, pairs = _selection(run)
    return Reproduction(
        *(run.run_id, seed, total, len(recorded), tuple(clips)),
        *(rescored.compared, rescored.differences, changed, norm, pairs),
    )


def _changed_tables(run: Run) -> Iterator[str]:
    for table in tables.TABLES:
        manifest = run.tables.current(table.name)
        if manifest is not None:
            try:
                run.tables.store.verify(manifest)
            except TableError as error:
                yield error.found


def _sources(run: Run, prompts: list[Prompt]) -> Iterator[_Source]:
    reference = run.sft
    recorded = {each.candidate_id: each for each in read_candidates(run.tables)}
    yield _Source(GENERATE, reference, recorded, plan_candidates(run, GENERATE, prompts, reference))
    if run.tables.has(tables.EVALUATIONS):
        held_out, policy = [prompt for prompt in prompts if prompt.split == Split.HELD_OUT], run.policy
        plan = plan_candidates(run, EVALUATE, held_out, policy)
        if all(run.units(tables.CANDIDATES).exists(unit) for unit in plan.units):
            made = {each.candidate_id: each for each in candidates_of(run, plan.units)}
            yield _Source(EVALUATE, policy, made, plan)


def _chosen(run: Run, sources: Sequence[_Source], wanted: int, seed: int) -> list[_Batch]:
    """Batches in an order that ``seed`` derives, until they hold so many committed candidates."""
    size = run.settings.sampling.batch_candidates
    batches = [batch for source in sources for batch in _batches(source, size)]
    batches.sort(key=lambda batch: derive_seed("reproduce", seed, batch.unit.items[0].item_id))
    chosen, count = [], 0
    for batch in batches:
        if count >= wanted:
            break
        chosen.append(batch)
        count += sum(item.item_id in batch.source.recorded for item in batch.unit.items)
    return chosen


def _batches(source: _Source, size: int) -> Iterator[_Batch]:
    """A unit's items as its worker takes them: generated ones batch by batch, ground truth one by one."""
    for unit in source.plan.units:
        drawn = [item for item in unit.items if item.origin == Origin.GENERATED]
        parts = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        parts += [[item] for item in unit.items if item.origin != Origin.GENERATED]
        for part in parts:
            if any(item.item_id in source.recorded for item in part):
                yield _Batch(source, Unit(source.stage, unit.shard, FINGERPRINT, tuple(part)))


def _recorded(batches: Sequence[_Batch]) -> list[Candidate]:
    found = [(batch.source.recorded, item.item_id) for batch in batches for item in batch.unit.items]
    return [recorded[name] for recorded, name in found if name in recorded]


def _misnamed(sources: Sequence[_Source]) -> Iterator[ClipDifference]:
    """Committed candidates that the settings, weights and code of now would give another id."""
    for source in sources:
        planned = {item.item_id for unit in source.plan.units for item in unit.items}
        for name in sorted(set(source.recorded) - planned):
            yield ClipDifference(name, "settings, weights and code of now give it another id")


def _bench(source: Run, work: Path, name: str) -> Run:
    """A run to work in that is set up like the run."""
    run_settings = source.settings.run.model_copy(update={"max_quarantined_share": 1.0})
    root = work / name / source.run_id
    root.mkdir(parents=True)
    return Run(root, source.settings.model_copy(update={"run": run_settings, "storage": FolderStorage()}))


def _make(run: Run, bench: Run, source: _Source, batches: Sequence[_Batch]) -> list[Candidate]:
    """Candidates of the source's batches, made again."""
    units = tuple(batch.unit for batch in batches if batch.source is source)
    files = bench.units(tables.CANDIDATES)
    spec = GenerateSpec(bench.files, run.models, run.runs, bench.settings, files, source.network)
    plan = StagePlan(source.stage, (Shard(0, units),) if units else (), "candidates")
    return candidates_of(bench, run_stage(bench, plan, files, lambda: spec, observer=reporting.observer()).units)


def _compare(run: Run, bench: Run, kept: Candidate, made: Candidate | None) -> Iterator[ClipDifference]:
    """How a clip differs: from its record on the disk, and when it is made again."""
    try:
        data = run.media.read(kept.path)
    except FileNotFoundError:
        yield ClipDifference(kept.candidate_id, f"{kept.path} is missing")
        return
    if (found := bytes_sha256(data)) != kept.sha256:
        yield ClipDifference(kept.candidate_id, f"{kept.path} has sha-256 {found}, committed was {kept.sha256}")
        return
    if made is None:
        yield ClipDifference(kept.candidate_id, "it could not be made again")
    elif made.sha256 != kept.sha256:
        reason = f"made again it has sha-256 {made.sha256}, committed was {kept.sha256}"
        yield ClipDifference(kept.candidate_id, reason, *_distances(data, bench.media.read(made.path)))


def _distances(one: bytes, other: bytes) -> tuple[float | None, ...]:
    """Largest and mean absolute difference of pictures (grey levels), then of sound; None where shapes differ."""
    first, second = read_clip(io.BytesIO(one)), read_clip(io.BytesIO(other))
    return (*_distance(first.frames, second.frames), *_distance(first.audio, second.audio))


def _distance(one: np.ndarray | None, other: np.ndarray | None) -> tuple[float | None, float | None]:
    if one is None or other is None or one.shape != other.shape:
        return None, None
    apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float(apart.max(initial=0.0)), float(apart.mean()) if apart.size else 0.0


def _selection(run: Run) -> tuple[Same | None, Same | None]:
    """Norm and pairs, measured and selected again from the sealed scores."""
    if not run.tables.has(tables.PAIRS):
        return None, None
    try:
        again = select(run)
    except InputError as error:
        return Same(run.norm.norm_id, error.found), Same(run.pairs_hash, error.found)
    now = content_hash(again.pairs)
    return Same(run.norm.norm_id, again.norm.norm_id), Same(run.pairs_hash, now)
