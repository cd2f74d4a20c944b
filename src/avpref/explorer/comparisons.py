"""Two clips side by side, and why they are a pair: numbers of both sides against the run's distribution, audit facts, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from avpref.domain import Metric, dimensions_of
from avpref.errors import InputError
from avpref.explorer.charts import histogram
from avpref.explorer.distributions import Column, distributions_of
from avpref.explorer.opened_runs import OpenedRun
from avpref.explorer.selection_views import Choice, choices_of, metrics_of_run, prompt_clips
from avpref.explorer.wide_tables import REWARD

LINEAGE = (
    *("candidate_id", "origin", "side", "index", "seed", "checkpoint_hash", "adapter_hash", "sampler_hash", "sha256"),
    *("width_px", "height_px", "num_frames", "fps_hz", "sample_rate_hz", "duration_s", "path"),
)
"""Columns of ``clip_rows`` that say where a clip comes from."""


@dataclass(frozen=True)
class NumberRow:
    """One metric or reward of both sides.

    ``better``: "higher" or "lower". ``shares``: of the run's training clips with at most this number. ``winner``: 0 for the first
    side, 1 for the second, None for neither.
    """

    name: str
    unit: str
    dimension: str
    better: str
    values: tuple[float | None, ...]
    shares: tuple[float | None, ...]
    winner: int | None
    drawing: Markup = field(repr=False)


@dataclass(frozen=True)
class Comparison:
    """One clip or two of them, named, with everything that a page shows about them."""

    names: tuple[str, ...]
    clips: tuple[Mapping[str, Any], ...] = field(repr=False)
    metrics: tuple[NumberRow, ...] = field(repr=False)
    rewards: tuple[NumberRow, ...] = field(repr=False)
    facts: tuple[tuple[str, tuple[Any, ...]], ...] = field(repr=False)
    lineage: tuple[tuple[str, tuple[Any, ...]], ...] = field(repr=False)
    choices: tuple[Choice, ...] = field(repr=False)
    of_prompt: tuple[Mapping[str, Any], ...] = field(repr=False)

    @property
    def prompt(self) -> str:
        """The prompts' texts, one if they are equal."""
        return " · ".join(dict.fromkeys(str(clip["prompt"]) for clip in self.clips))


def compare(run: OpenedRun, candidates: Sequence[str], names: Sequence[str]) -> Comparison:
    """The clips with these ids under these names. Raises InputError for an id that the run does not have."""
    clips = tuple(_clip_row(run, candidate) for candidate in candidates)
    metrics = metrics_of_run(run)
    prompt_id = str(clips[0]["prompt_id"])
    is_training = all(clip["side"] == "training" for clip in clips)
    return Comparison(
        tuple(names),
        clips,
        tuple(_number_rows(run, clips, names, _metric_columns(clips, metrics))),
        tuple(_number_rows(run, clips, names, _reward_columns(clips, metrics))),
        _facts(run, candidates),
        tuple((name, tuple(clip[name] for clip in clips)) for name in LINEAGE),
        tuple(choices_of(run, prompt_id)) if is_training else (),
        tuple(prompt_clips(run.database, prompt_id)),
    )


def pair_row(run: OpenedRun, pair_id: str) -> dict[str, Any]:
    """A pair by its id. Raises InputError."""
    result = run.database.cursor().execute("SELECT * FROM pair_rows WHERE pair_id = $pair", {"pair": pair_id})
    names = [column[0] for column in result.description or ()]
    row = result.fetchone()
    if row is None:
        fix = f"avpref pairs show --runs DIR --run {run.run_id}"
        raise InputError(f"run {run.run_id} has no pair {pair_id}", "the id of a pair of this run", fix)
    return dict(zip(names, row, strict=True))


@dataclass(frozen=True)
class _Shown:
    """A column of numbers as a page names it."""

    column: str
    name: str
    unit: str
    dimension: str
    higher_is_better: bool


def _clip_row(run: OpenedRun, candidate_id: str) -> dict[str, Any]:
    result = run.database.cursor().execute(
        "SELECT * FROM clip_rows WHERE candidate_id = $candidate", {"candidate": candidate_id}
    )
    names = [column[0] for column in result.description or ()]
    row = result.fetchone()
    if row is None:
        raise InputError(f"run {run.run_id} has no clip {candidate_id}", "the id of a clip of this run")
    return dict(zip(names, row, strict=True))


def _metric_columns(clips: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> list[_Shown]:
    return [
        _Shown(metric.name, metric.name, metric.unit, str(metric.dimension), metric.higher_is_better)
        for metric in metrics
        if metric.name in clips[0]
    ]


def _reward_columns(clips: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> list[_Shown]:
    names = [name for name in dimensions_of(metrics) if REWARD + name in clips[0]]
    return [_Shown(REWARD + name, name, "reward", name, True) for name in names]


def _number_rows(
    run: OpenedRun, clips: Sequence[Mapping[str, Any]], names: Sequence[str], columns: Sequence[_Shown]
) -> list[NumberRow]:
    spread = distributions_of(run.database, [Column("clip_rows", shown.column, True) for shown in columns])
    rows = []
    for shown, distribution in zip(columns, spread, strict=True):
        values = tuple(clip[shown.column] for clip in clips)
        marks = [(f"side{index}", value) for index, value in enumerate(values) if value is not None]
        label = f"{shown.name} of all training clips; " + ", ".join(
            f"{name} {'no number' if value is None else f'{value:.4g}'}"
            for name, value in zip(names, values, strict=True)
        )
        rows.append(
            NumberRow(
                shown.name,
                shown.unit,
                shown.dimension,
                "higher" if shown.higher_is_better else "lower",
                values,
                tuple(distribution.share_below(value) for value in values),
                _winner(values, shown.higher_is_better),
                histogram(distribution.values, marks, label),
            )
        )
    return rows


def _winner(values: Sequence[float | None], higher_is_better: bool) -> int | None:
    if len(values) < 2 or values[0] is None or values[1] is None or values[0] == values[1]:
        return None
    return int((values[1] > values[0]) == higher_is_better)


def _facts(run: OpenedRun, candidates: Sequence[str]) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Audit facts (column, values of both sides); empty before stage ``audit`` has run."""
    con = run.database.cursor()
    rows = {}
    for candidate in candidates:
        result = con.execute("SELECT * FROM clip_facts WHERE candidate_id = $candidate", {"candidate": candidate})
        names = [column[0] for column in result.description or ()]
        row = result.fetchone()
        rows[candidate] = dict(zip(names, row, strict=True)) if row else {}
    columns = [name for row in rows.values() for name in row if name not in ("candidate_id", "reason")]
    return tuple(
        (name, tuple(rows[candidate].get(name) for candidate in candidates)) for name in dict.fromkeys(columns)
    )
