"""Plans studies over the clips of runs: held-out clips of two models, or both sides of training pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from avpref.datasets import tables
from avpref.datasets.metric_tables import metrics_of_table
from avpref.datasets.rows import EvaluationKind, EvaluationSide
from avpref.datasets.votes.studies import (
    Study,
    StudyClip,
    StudyItem,
    StudyKind,
    StudyOptions,
    item_id,
    plan_study,
)
from avpref.datasets.votes.vote_results import REWARD
from avpref.domain import Candidate, Metric, dimensions_of
from avpref.errors import InputError
from avpref.identity import derive_seed
from avpref.storage.run_folder import RunFolder
from avpref.storage.sibling_runs import SiblingRun, units_by_fingerprint
from avpref.storage.table_readers import as_candidates, read_candidates, read_prompts


@dataclass(frozen=True)
class Model:
    """One side of a study over models: the run that evaluated it, and the side of that evaluation."""

    folder: RunFolder
    side: EvaluationSide

    @property
    def name(self) -> str:
        """Name in results."""
        return f"{self.side} of {self.folder.run_id}"


def plan_models(first: Model, second: Model, options: StudyOptions, num_items: int | None) -> Study:
    """A study of ``second`` against ``first`` on the held-out prompts that both evaluated.

    Rewards of two runs are compared only where both use one norm. Raises InputError where a run has no evaluation, where no prompt is
    common or a clip is gone, ConfigError as :func:`avpref.datasets.votes.studies.plan_study`.
    """
    of_first, of_second = _evaluated(first), _evaluated(second)
    common = [prompt for prompt in of_second.clips if prompt in of_first.clips]
    if not common:
        found = f"{first.name} and {second.name} have no held-out prompt in common"
        raise InputError(found, "two runs over the same prompts", "avpref runs list --runs DIR")
    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(second.folder.tables)}
    signs = {metric.name: 1 if metric.higher_is_better else -1 for metric in _metrics(second.folder)}
    has_one_norm = of_first.norms == of_second.norms
    items = []
    for prompt_id in common:
        clips = (
            _study_clip(first.folder, of_first.clips[prompt_id]),
            _study_clip(second.folder, of_second.clips[prompt_id]),
        )
        numbers = of_first.numbers.get(prompt_id, {}), of_second.numbers.get(prompt_id, {})
        differences = {
            name: (numbers[1][name] - numbers[0][name]) * signs.get(name, 1)
            for name in numbers[1]
            if name in numbers[0] and (name in signs or (name.startswith(REWARD) and has_one_norm))
        }
        prompt = prompts[prompt_id]
        items.append(StudyItem(item_id(*clips), prompt_id, prompt.text, prompt.taxonomy, *clips, differences))
    source = _source(first.folder, tables.EVALUATIONS) | _source(second.folder, tables.EVALUATIONS)
    names = (
        (str(first.side), str(second.side)) if first.folder.root == second.folder.root else (first.name, second.name)
    )
    chosen = _drawn(items, num_items, options.seed)
    return plan_study(Study(second.folder.run_id, StudyKind.MODELS, names, source, options, chosen, ()))


def plan_pairs(folder: RunFolder, options: StudyOptions, num_items: int | None) -> Study:
    """A study of the run's training pairs: do people agree with the rewards? Raises as :func:`plan_models`."""
    rows = folder.tables.read(tables.PAIRS)
    metrics = metrics_of_table(rows)
    prompts = {prompt.prompt_id: prompt for prompt in read_prompts(folder.tables)}
    clips = {clip.candidate_id: clip for clip in read_candidates(folder.tables)}
    items = {}
    for row in rows.to_pylist():
        sides = (_study_clip(folder, clips[row["rejected"]]), _study_clip(folder, clips[row["chosen"]]))
        prompt = prompts[row["prompt_id"]]
        name = item_id(*sides)
        items[name] = StudyItem(name, prompt.prompt_id, prompt.text, prompt.taxonomy, *sides, _of_pair(row, metrics))
    chosen = _drawn(list(items.values()), num_items, options.seed)
    source = _source(folder, tables.PAIRS)
    return plan_study(Study(folder.run_id, StudyKind.PAIRS, ("rejected", "chosen"), source, options, chosen, ()))


@dataclass(frozen=True)
class _Evaluated:
    """One side of an evaluation: clip and numbers by prompt, and the norms of its rewards."""

    clips: Mapping[str, Candidate]
    numbers: Mapping[str, Mapping[str, float]]
    norms: frozenset[str]


def _evaluated(model: Model) -> _Evaluated:
    folder = model.folder
    rows = [row for row in folder.tables.read(tables.EVALUATIONS).to_pylist() if row["side"] == str(model.side)]
    ids = {row["prompt_id"]: row["candidate_id"] for row in rows}
    numbers: dict[str, dict[str, float]] = {}
    for row in rows:
        if row["value"] is not None:
            name = f"{REWARD}{row['name']}" if row["kind"] == EvaluationKind.REWARD else row["name"]
            numbers.setdefault(row["prompt_id"], {})[name] = row["value"]
    clips = _clips(folder, set(ids.values()))
    gone = sorted(set(ids.values()) - set(clips))
    if gone:
        fix = f"avpref runs resume {folder.run_id} --runs {folder.runs}"
        raise InputError(f"run {folder.run_id} has no row of clip {gone[0]}", "the clips that it evaluated", fix)
    return _Evaluated(
        {prompt: clips[candidate] for prompt, candidate in ids.items()},
        numbers,
        frozenset(row["norm_id"] for row in rows),
    )


def _clips(folder: RunFolder, ids: set[str]) -> dict[str, Candidate]:
    """The clips with these ids: the reference's are in a sealed table, the policy's in units of the evaluation."""
    clips = {clip.candidate_id: clip for clip in read_candidates(folder.tables) if clip.candidate_id in ids}
    own = SiblingRun("", folder.files)
    for files in units_by_fingerprint([own], "evaluate"):
        for file in files:
            rows = file.rows() if len(clips) < len(ids) else None
            if rows is not None:
                read = as_candidates(tables.conform(tables.CANDIDATES, rows))
                clips |= {clip.candidate_id: clip for clip in read if clip.candidate_id in ids}
    return clips


def _metrics(folder: RunFolder) -> Sequence[Metric]:
    return metrics_of_table(folder.tables.read(tables.PAIRS)) if folder.tables.has(tables.PAIRS) else ()


def _of_pair(row: Mapping[str, Any], metrics: Sequence[Metric]) -> dict[str, float]:
    """Chosen − rejected: rewards are the pair's margins, metrics have the sign of their direction."""
    differences = {f"{REWARD}{name}": row[f"margin_{name}"] for name in dimensions_of(metrics)}
    for metric in metrics:
        chosen, rejected = row[f"chosen_{metric.name}"], row[f"rejected_{metric.name}"]
        if chosen is not None and rejected is not None:
            differences[metric.name] = (chosen - rejected) * (1 if metric.higher_is_better else -1)
    return differences


def _drawn(items: Iterable[StudyItem], num_items: int | None, seed: int) -> tuple[StudyItem, ...]:
    """``num_items`` of the items, as evenly from all categories as there are items; all of them without a number."""
    by_category: dict[str, list[StudyItem]] = {}
    for item in sorted(items, key=lambda item: derive_seed("drawn", seed, item.item_id)):
        by_category.setdefault(item.category, []).append(item)
    ordered = sorted(
        ((rank, category, item) for category, group in by_category.items() for rank, item in enumerate(group)),
        key=lambda entry: entry[:2],
    )
    return tuple(item for _, _, item in ordered[:num_items])


def _study_clip(folder: RunFolder, clip: Candidate) -> StudyClip:
    if not folder.media.exists(clip.path):
        fix = f"avpref runs resume {folder.run_id} --runs {folder.runs}"
        raise InputError(f"clip {clip.path} of run {folder.run_id} is gone", "the file that was committed", fix)
    return StudyClip(
        folder.run_id,
        clip.candidate_id,
        clip.path,
        clip.sha256,
        clip.duration_s,
        clip.fps_hz,
        clip.width_px,
        clip.height_px,
    )


def _source(folder: RunFolder, table: tables.Table) -> dict[str, str]:
    manifest = folder.tables.current(table.name)
    assert manifest is not None, "it was read"
    return {f"{folder.run_id} {table.name}": manifest.version}
