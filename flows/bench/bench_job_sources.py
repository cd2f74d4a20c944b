"""Benchmarks with the scorers of a configuration: the command line and the loop make their jobs here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from avpref.bench.bench_job import BenchJob, Placement
from avpref.bench.measures.intervals import BootstrapPlan
from avpref.bench.preset_files import PresetScorer, choose, load_preset
from avpref.config.executor_settings import Executor
from avpref.config.schema import BenchJobSettings
from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.flows.workers.scorer_source import ScorerSource
from avpref.flows.workers.scorers import resolve
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules

TINY_CLASSES = frozenset({"clip_score", "cavp_score", "imagebind_sliding"})
"""Built-in scorer classes with small networks of their own, chosen by their setting ``preset``."""


@dataclass(frozen=True)
class BenchChoice:
    """Options of a benchmark as people state them; see :class:`avpref.bench.bench_job.BenchJob`.

    ``changes`` are settings of the preset as ``SETTING=VALUE``, ``scorers`` names of further scorers.
    """

    preset: str
    clips: Path
    reference: Path | None = None
    prompts: Path | None = None
    changes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    is_tiny: bool = False
    rules: ReadingRules = DEFAULT_READING


def bench_job(choice: BenchChoice, settings: BenchJobSettings) -> BenchJob:
    """The job for ``choice``. Raises ConfigError for an unknown preset, setting, column or scorer."""
    chosen = choose(load_preset(choice.preset), choice.changes)
    preset = "tiny" if choice.is_tiny else "full"
    scoring = settings.scoring.model_copy(update={"preset": preset})

    def open_scorer(entry: PresetScorer) -> ScorerSource:
        return preset_source(entry, scoring, settings.executor)

    extra = tuple(
        (source.slug, source) for name in choice.scorers for source in _named(name, scoring, settings.executor)
    )
    placement = Placement(settings.executor, settings.observe, settings.run)
    return BenchJob(
        choice.clips,
        chosen,
        open_scorer,
        placement,
        BootstrapPlan(seed=settings.run.seed),
        choice.reference,
        choice.prompts,
        choice.columns,
        extra,
        choice.is_tiny,
        choice.rules,
    )


def preset_source(entry: PresetScorer, scoring: ScoringSettings, executor: Executor) -> ScorerSource:
    """The scorer that a preset names, as one source also where a built-in name stands for several. Raises ConfigError."""
    settings: dict[str, JsonValue] = dict(entry.settings)
    if scoring.preset == "tiny" and entry.use in TINY_CLASSES:
        settings["preset"] = "tiny"
    (source,) = resolve([ScorerUse(use=entry.use, settings=settings)], scoring, executor)
    return source


def _named(name: str, scoring: ScoringSettings, executor: Executor) -> Sequence[ScorerSource]:
    settings: dict[str, JsonValue] = {"preset": "tiny"} if scoring.preset == "tiny" and name in TINY_CLASSES else {}
    return resolve([ScorerUse(use=name, settings=settings)], scoring, executor)
