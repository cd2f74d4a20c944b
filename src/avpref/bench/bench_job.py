"""A benchmark as it is asked for: the sets, the preset with its settings, the scorers behind it, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.bench.features.parts import NetworkPart, Part, ScorerPart, ScorerSource
from avpref.bench.measures.intervals import BootstrapPlan
from avpref.bench.networks.network_sources import NetworkSource
from avpref.bench.preset_files import ChosenPreset, Column, PresetScorer
from avpref.config.executor_settings import Executor
from avpref.config.observe_settings import ObserveSettings
from avpref.config.run_settings import RunSettings
from avpref.domain import Metric
from avpref.errors import ConfigError
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules

OpenScorer = Callable[[PresetScorer], ScorerSource]
"""The source of a scorer that a preset names, with its settings."""


@dataclass(frozen=True)
class Placement:
    """How a benchmark is computed; no number depends on it."""

    executor: Executor
    observe: ObserveSettings
    run: RunSettings


@dataclass(frozen=True)
class BenchJob:
    """A benchmark.

    Attributes:
        clips: folder of generated clips.
        chosen: the preset with its settings.
        open_scorer: finds the scorers that the preset names.
        placement: how it is computed.
        plan: seed and level of intervals.
        reference: folder of reference clips, or a file of ``avpref bench features``; None for the ground truth that the prompts name.
        prompts: CSV of prompts, None to take every clip as a sample.
        columns: the columns to compute; empty: all.
        extra: other scorers, whose metrics become columns of their own names.
        is_tiny: networks are small and have random weights.
        rules: how recordings are read.
    """

    clips: Path
    chosen: ChosenPreset
    open_scorer: OpenScorer
    placement: Placement
    plan: BootstrapPlan
    reference: Path | None = None
    prompts: Path | None = None
    columns: tuple[str, ...] = ()
    extra: tuple[tuple[str, ScorerSource], ...] = ()
    is_tiny: bool = False
    rules: ReadingRules = DEFAULT_READING

    @property
    def asked_columns(self) -> tuple[Column, ...]:
        """The columns of the preset that are asked for, then those of other scorers. Raises ConfigError for an unknown one."""
        known = {column.name for column in self.chosen.columns}
        unknown = [name for name in self.columns if name not in known]
        if unknown:
            expected = ", ".join(column.name for column in self.chosen.columns)
            raise ConfigError(
                f"--columns {', '.join(unknown)}: no column of {self.chosen.preset.name}", expected, "--columns fvd"
            )
        preset = tuple(column for column in self.chosen.columns if not self.columns or column.name in self.columns)
        added = [
            Column(name=_own_name(metric.name, known), kind="mean", scorer=name, metric=metric.name)
            for name, source in self.extra
            for metric in source.metrics
        ]
        return (*preset, *added)


def _own_name(metric: str, taken: set[str]) -> str:
    return metric if metric not in taken else f"{metric} (scorer)"


@dataclass(frozen=True)
class JobParts:
    """The parts behind the columns, and for each column that names a scorer the part that gives its metric."""

    networks: tuple[NetworkPart, ...]
    scorers: tuple[ScorerPart, ...]
    part_of: Mapping[str, str]

    @property
    def all(self) -> tuple[Part, ...]:
        """Networks, then scorers."""
        return (*self.networks, *self.scorers)

    def metric(self, column: Column) -> Metric | None:
        """The metric behind a column of a scorer."""
        part = next((part for part in self.scorers if part.name == self.part_of.get(column.scorer)), None)
        metrics: Sequence[Metric] = part.source.metrics if part else ()
        return next((metric for metric in metrics if metric.name == column.metric), None)


def network_parts(job: BenchJob, columns: Sequence[Column]) -> tuple[NetworkPart, ...]:
    """The networks that the columns need. Raises ConfigError for a preset that names an unknown one."""
    names = dict.fromkeys(column.network for column in columns if column.network)
    return tuple(
        NetworkPart(NetworkSource(name, tuple(job.chosen.networks[name].items()), job.is_tiny)) for name in names
    )


def job_parts(job: BenchJob, has_sound_text: bool) -> JobParts:
    """The parts behind the job's columns.

    A scorer that a preset names once for the prompt of the picture and once for that of the sound is one part where both are equal.
    Raises ConfigError for a scorer that cannot be used, InputError where weights are absent.
    """
    columns = job.asked_columns
    extra = dict(job.extra)
    scorers: list[ScorerPart] = []
    part_of: dict[str, str] = {}
    for name in dict.fromkeys(column.scorer for column in columns if column.scorer):
        if name in extra:
            part = ScorerPart(name, extra[name])
        else:
            entry = job.chosen.scorers[name]
            cut_s = job.chosen.cut_s if entry.sees == "cut" else 0.0
            text = entry.text if has_sound_text else "picture"
            part = ScorerPart(name, job.open_scorer(entry), text, cut_s, entry.resampler == "kaiser_best")
        same = next((other for other in scorers if _are_same(other, part)), part)
        part_of[name] = same.name
        if same is part:
            scorers.append(part)
    return JobParts(network_parts(job, columns), tuple(scorers), part_of)


def _are_same(first: ScorerPart, second: ScorerPart) -> bool:
    return first.fingerprint == second.fingerprint
