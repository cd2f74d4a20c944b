"""The measurers of a pool: built-in ones by name, and every scorer of the product or of another package."""

from __future__ import annotations

from collections.abc import Sequence

from avpref.config.executor_settings import Executor
from avpref.config.pool.pool_settings import MeasureSettings
from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import ConfigError
from avpref.flows.workers.scorer_source import ScorerSource
from avpref.flows.workers.scorers import Weightless, resolve
from avpref.rewards.protocol import Scorer

BUILT_IN = ("frame_measures", "sound_measures", "flow_measures", "sync_measures")


def measurers(
    settings: MeasureSettings, executor: Executor, uses: Sequence[ScorerUse] | None = None
) -> list[ScorerSource]:
    """The measurers of ``settings``, or of ``uses``, in their order, before any weights are loaded.

    Raises ConfigError for an unknown name, and where two measurers give one measure.
    """
    sources: list[ScorerSource] = []
    for use in settings.uses if uses is None else uses:
        sources += _sources(use, settings, executor)
    giver: dict[str, str] = {}
    for source in sources:
        for metric in source.metrics:
            if giver.setdefault(metric.name, source.slug) != source.slug:
                raise ConfigError(
                    f"{giver[metric.name]} and {source.slug} both give the measure {metric.name}",
                    "every measure from one scorer",
                    "leave one of them out of measure.scorers",
                )
    return sources


def _sources(use: ScorerUse, settings: MeasureSettings, executor: Executor) -> Sequence[ScorerSource]:
    if use.use not in BUILT_IN:
        scoring = ScoringSettings(
            preset=settings.preset,
            audiobox=settings.audiobox,
            imagebind=settings.imagebind,
            synchformer=settings.synchformer,
            clap=settings.clap,
        )
        return resolve([use], scoring, executor)
    if use.settings or use.name not in ("", use.use):
        raise ConfigError(f"measurer {use.use} with a name or settings", "its name alone", f"use: {use.use}")
    return [Weightless(_built_in(use.use))]


def _built_in(name: str) -> Scorer:
    match name:
        case "frame_measures":
            from avpref.pool.measure.frame_measures import FrameMeasures

            return FrameMeasures()
        case "sound_measures":
            from avpref.pool.measure.sound_measures import SoundMeasures

            return SoundMeasures()
        case "sync_measures":
            from avpref.pool.measure.sync_measures import SyncMeasures

            return SyncMeasures()
        case _:
            from avpref.pool.measure.flow_measures import FlowMeasures

            return FlowMeasures()
