"""Reproduces a share of a run in a temporary run and compares clips, scores, norm and pairs. The run itself is not changed.

Clips are sampled in the batches of the original plan, because results of a network depend on the batch. On the machine that
made them they are equal bit for bit; on another machine the differences are measured.
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
from avpref.flows.rescore import Sandboxes, ScoreDifference, rescore
from avpref.flows.rounds.round_candidates import generation_plans
from avpref.flows.run import Run
from avpref.flows.stages.candidate_plan import CandidateRequest, plan_candidates
from avpref.flows.stages.evaluate import STAGE as EVALUATE
from avpref.flows.stages.generate import STAGE as GENERATE
from avpref.flows.stages.generate import candidates_of
from avpref.flows.stages.pair import pairs_of
from avpref.flows.stages.same_base import on_same_base
from avpref.flows.workers.generate_worker import GenerateSpec
from avpref.flows.workers.generator import NetworkFiles
from avpref.identity import bytes_sha256, derive_seed
from avpref.media.reading import read_clip
from avpref.storage.run_folder import RunFolder
from avpref.storage.table_readers import hash_of_pairs, read_candidates
from avpref.storage.unit import Unit

FINGERPRINT = "reproduce"


@dataclass(frozen=True)
class ClipDifference:
    """A clip that differs from the committed one: the reason, and absolute differences where both clips can be decoded.

    Frames are compared in grey levels (0 to 255), audio in full scale (−1 to 1).
    """

    candidate_id: str
    reason: str
    max_frame: float | None = None
    mean_frame: float | None = None
    max_audio: float | None = None
    mean_audio: float | None = None


@dataclass(frozen=True)
class RecordedAndNow:
    """A value that the run has recorded, and the same value computed now."""

    recorded: str
    now: str

    @property
    def is_same(self) -> bool:
        """Whether they are equal."""
        return self.recorded == self.now


@dataclass(frozen=True)
class Reproduction:
    """The numbers of clips and scores compared, and the differences. ``norm`` and ``pairs`` are None in a run without pairs.

    ``tables`` are messages about sealed files that were changed since they were sealed.
    """

    run_id: str
    seed: int
    candidates: int
    clips: int
    clip_differences: tuple[ClipDifference, ...]
    scores: int
    score_differences: tuple[ScoreDifference, ...]
    tables: tuple[str, ...]
    norm: RecordedAndNow | None
    pairs: RecordedAndNow | None

    @property
    def is_same(self) -> bool:
        """Whether everything is equal to the run."""
        are_norm_and_pairs_same = all(value is None or value.is_same for value in (self.norm, self.pairs))
        return are_norm_and_pairs_same and not (self.clip_differences or self.score_differences or self.tables)


@dataclass(frozen=True)
class _StageCandidates:
    """The committed candidates that one network made in one stage, by id, and the plan of that stage."""

    stage: str
    network: NetworkFiles
    recorded: Mapping[str, Candidate]
    plan: StagePlan[CandidateRequest]


@dataclass(frozen=True)
class _SamplingBatch:
    """Items that are sampled in one batch, as a unit, and the stage that they belong to."""

    source: _StageCandidates
    unit: Unit[CandidateRequest]


def reproduce(folder: RunFolder, share: float, num: int | None, seed: int, work: Path | None = None) -> Reproduction:
    """Make at least ``share`` of the run's candidates again (or ``num``) and compare; ``seed`` chooses whole batches.

    ``work`` is the parent of the temporary run, by default the system's temporary folder. Raises InputError where the run has no
    candidates yet or weights are absent, and the errors of the stages.
    """
    run = Run.of(folder)
    changed = tuple(_changed_tables(run))
    prompts = run.prompts
    sources = list(_sources(run, prompts))
    total = sum(len(source.recorded) for source in sources)
    batches = _choose(run, sources, num or math.ceil(share * total), seed)
    with tempfile.TemporaryDirectory(prefix="avpref-reproduce-", dir=work) as name:
        sandbox = _sandbox(run, Path(name), "made")
        made = {clip.candidate_id: clip for source in sources for clip in _make(run, sandbox, source, batches)}
        recorded = _recorded(batches)
        differences = [
            difference for clip in recorded for difference in _compare(run, sandbox, clip, made.get(clip.candidate_id))
        ]
        differences += _with_other_ids(sources)
        made_different = [made[clip.candidate_id] for clip in differences if clip.candidate_id in made]
        sandboxes = Sandboxes(committed=_sandbox(run, Path(name), "kept"), made_again=sandbox)
        rescored = rescore(run, sandboxes, recorded, made_different, prompts)
    norm, pairs = _selection(run)
    return Reproduction(
        *(run.run_id, seed, total, len(recorded), tuple(differences)),
        *(rescored.compared, rescored.differences, changed, norm, pairs),
    )


def _changed_tables(run: Run) -> Iterator[str]:
    """A message for each table whose files no longer match their hashes."""
    for table in tables.TABLES:
        manifest = run.tables.current(table.name)
        if manifest is not None:
            try:
                run.tables.store.verify(manifest)
            except TableError as error:
                yield error.found


def _sources(run: Run, prompts: list[Prompt]) -> Iterator[_StageCandidates]:
    """The candidates that stage ``generate`` made, and those of stage ``evaluate`` where it has finished."""
    if len(run.settings.clip.shapes) > 1:
        found = f"run {run.run_id} has clips of {len(run.settings.clip.shapes)} shapes"
        raise InputError(found, "a run of one shape", "reproduce a run without clip.shapes")
    made = (candidate for candidate in read_candidates(run.tables) if candidate.origin != Origin.IMPORTED)
    candidates = {candidate.candidate_id: candidate for candidate in made}
    for planned in generation_plans(run, GENERATE):
        ids = {item.item_id for unit in planned.plan.units for item in unit.items}
        is_only = run.previous is None
        recorded = candidates if is_only else {name: clip for name, clip in candidates.items() if name in ids}
        yield _StageCandidates(GENERATE, planned.network, recorded, planned.plan)
    if run.tables.has(tables.EVALUATIONS):
        held_out, policy = [prompt for prompt in prompts if prompt.split == Split.HELD_OUT], run.policy
        plan = plan_candidates(run, EVALUATE, held_out, policy)
        if all(run.units(tables.CANDIDATES).exists(unit) for unit in plan.units):
            recorded = {candidate.candidate_id: candidate for candidate in candidates_of(run, plan.units)}
            yield _StageCandidates(EVALUATE, policy, recorded, plan)


def _choose(run: Run, sources: Sequence[_StageCandidates], num_candidates: int, seed: int) -> list[_SamplingBatch]:
    """Batches in an order hashed with ``seed``, as many as hold ``num_candidates`` committed candidates."""
    size = run.settings.sampling.batch_candidates
    batches = [batch for source in sources for batch in _batches(source, size)]
    batches.sort(key=lambda batch: derive_seed("reproduce", seed, batch.unit.items[0].item_id))
    chosen, count = [], 0
    for batch in batches:
        if count >= num_candidates:
            break
        chosen.append(batch)
        count += sum(item.item_id in batch.source.recorded for item in batch.unit.items)
    return chosen


def _batches(source: _StageCandidates, size: int) -> Iterator[_SamplingBatch]:
    """The batches in which the worker samples each unit; ground truth is passed one by one."""
    for unit in source.plan.units:
        generated = [item for item in unit.items if item.origin == Origin.GENERATED]
        parts = [generated[start : start + size] for start in range(0, len(generated), size)]
        parts += [[item] for item in unit.items if item.origin != Origin.GENERATED]
        for part in parts:
            if any(item.item_id in source.recorded for item in part):
                yield _SamplingBatch(source, Unit(source.stage, unit.shard, FINGERPRINT, tuple(part)))


def _recorded(batches: Sequence[_SamplingBatch]) -> list[Candidate]:
    """The committed candidates of the batches."""
    items = [(batch.source.recorded, item.item_id) for batch in batches for item in batch.unit.items]
    return [recorded[candidate_id] for recorded, candidate_id in items if candidate_id in recorded]


def _with_other_ids(sources: Sequence[_StageCandidates]) -> Iterator[ClipDifference]:
    """The committed candidates whose ids do not follow from the present settings, weights and code."""
    for source in sources:
        planned = {item.item_id for unit in source.plan.units for item in unit.items}
        for candidate_id in sorted(set(source.recorded) - planned):
            yield ClipDifference(candidate_id, "the present settings, weights and code give it another id")


def _sandbox(run: Run, work: Path, name: str) -> Run:
    """An empty run with the settings of ``run``, in a folder of its own, where any share may be quarantined."""
    run_settings = run.settings.run.model_copy(update={"max_quarantined_share": 1.0})
    root = work / name / run.run_id
    root.mkdir(parents=True)
    return Run(root, run.settings.model_copy(update={"run": run_settings, "storage": FolderStorage()}))


def _make(run: Run, sandbox: Run, source: _StageCandidates, batches: Sequence[_SamplingBatch]) -> list[Candidate]:
    """The candidates of the batches that belong to ``source``, made again in ``sandbox``."""
    units = tuple(batch.unit for batch in batches if batch.source is source)
    files = sandbox.units(tables.CANDIDATES)
    spec = GenerateSpec(sandbox.files, run.models, run.runs, sandbox.settings, files, source.network)
    plan = StagePlan(source.stage, (Shard(0, units),) if units else (), "candidates")
    finished = run_stage(
        sandbox, plan, files, lambda: on_same_base(spec, sandbox.settings), observer=reporting.observer()
    )
    return candidates_of(sandbox, finished.units)


def _compare(run: Run, sandbox: Run, committed: Candidate, made: Candidate | None) -> Iterator[ClipDifference]:
    """The differences of a clip: its file from its row, and the clip made again from the committed one."""
    try:
        data = run.media.read(committed.path)
    except FileNotFoundError:
        yield ClipDifference(committed.candidate_id, f"{committed.path} is missing")
        return
    if (sha256 := bytes_sha256(data)) != committed.sha256:
        reason = f"{committed.path} has sha-256 {sha256}, committed was {committed.sha256}"
        yield ClipDifference(committed.candidate_id, reason)
        return
    if made is None:
        yield ClipDifference(committed.candidate_id, "it could not be made again")
    elif made.sha256 != committed.sha256:
        reason = f"made again, it has sha-256 {made.sha256}, committed was {committed.sha256}"
        yield ClipDifference(committed.candidate_id, reason, *_distances(data, sandbox.media.read(made.path)))


def _distances(committed: bytes, made: bytes) -> tuple[float | None, ...]:
    """Largest and mean absolute difference of frames (grey levels), then of audio; None where shapes differ."""
    first, second = read_clip(io.BytesIO(committed)), read_clip(io.BytesIO(made))
    return (*_distance(first.frames, second.frames), *_distance(first.audio, second.audio))


def _distance(first: np.ndarray | None, second: np.ndarray | None) -> tuple[float | None, float | None]:
    if first is None or second is None or first.shape != second.shape:
        return None, None
    difference = np.abs(first.astype(np.float64) - second.astype(np.float64))
    return float(difference.max(initial=0.0)), float(difference.mean()) if difference.size else 0.0


def _selection(run: Run) -> tuple[RecordedAndNow | None, RecordedAndNow | None]:
    """The ids of norm and pairs as recorded, and computed again from the sealed scores."""
    if not run.tables.has(tables.PAIRS):
        return None, None
    try:
        selection = pairs_of(run)
    except InputError as error:
        return RecordedAndNow(run.norm.norm_id, error.found), RecordedAndNow(run.pairs_hash, error.found)
    norm = RecordedAndNow(run.norm.norm_id, selection.norm.norm_id)
    return norm, RecordedAndNow(run.pairs_hash, hash_of_pairs(selection.pairs))
