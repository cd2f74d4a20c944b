"""Reads a scorer class: validates its settings with the class's own declaration, makes the scorer, and reads its attributes.

Making a scorer loads no weights: that is the purpose of the method ``load``, which actors call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from avpref.domain import Metric, Terms
from avpref.errors import ConfigError
from avpref.identity import digest
from avpref.outside.class_loading import SCORER
from avpref.outside.class_settings import make
from avpref.outside.source_version import source_version
from avpref.rewards.protocol import ScorableClip, Scorer

UNSTATED_TERMS = Terms("not stated", commercial_use=False)
"""Terms of a class without the attribute ``terms``."""
VERSION = 1


@dataclass(frozen=True)
class Declaration:
    """A scorer's statements about itself, before it loads anything.

    Attributes:
        metrics: its metrics, in the order of the scores.
        terms: licence of the numbers.
        fingerprint: hash of class, version, settings and metrics.
        settings: all settings as JSON values, defaults included.
        has_canary: whether its numbers for a fixed clip are compared between actors.
        uses_device: whether it has a method ``load``, which receives the device.
        has_own_actors: whether it shares no actors, although it is part of the product: it waits for a service.
    """

    metrics: tuple[Metric, ...]
    terms: Terms
    fingerprint: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    has_canary: bool = True
    uses_device: bool = False
    has_own_actors: bool = False


def make_scorer(name: str, owner: type, values: Mapping[str, Any]) -> tuple[Scorer, dict[str, Any]]:
    """The scorer of class ``owner`` with the settings ``values``, and all its settings as JSON values.

    Raises ConfigError as :func:`avpref.outside.class_settings.make`.
    """
    scorer: Scorer
    scorer, settings = make(SCORER, name, owner, values)
    return scorer, settings


def declare(name: str, reference: str, owner: type, values: Mapping[str, Any]) -> Declaration:
    """Make the scorer and read what it declares. Raises ConfigError as :func:`make_scorer`, and for missing or wrong attributes."""
    scorer, settings = make_scorer(name, owner, values)
    metrics = _metrics(name, owner, scorer)
    terms = getattr(scorer, "terms", UNSTATED_TERMS)
    if not isinstance(terms, Terms):
        raise _wrong(name, owner, f"terms = {terms!r}", "avpref.domain.Terms")
    if not callable(getattr(scorer, "score", None)) and not is_two_phase(scorer):
        raise _wrong(name, owner, "no method score", "score(clips)")
    version = getattr(scorer, "fingerprint", None)
    if version is not None and (not isinstance(version, str) or not version):
        raise _wrong(
            name, owner, f"fingerprint = {version!r}", "a text that changes with the numbers, or no such attribute"
        )
    version = f"declared {version}" if version else f"source {source_version(SCORER, name, owner)}"
    ignored: Collection[str] = getattr(owner, "not_of_scores", ())
    of_scores = {key: value for key, value in settings.items() if key not in ignored}
    fields = [[metric.name, metric.unit, metric.higher_is_better] for metric in metrics]
    fingerprint = digest("scorer class", VERSION, reference, version, of_scores, fields)
    has_canary, has_own_actors = bool(getattr(owner, "has_canary", True)), bool(getattr(owner, "has_own_actors", False))
    return Declaration(metrics, terms, fingerprint, settings, has_canary, hasattr(owner, "load"), has_own_actors)


def is_two_phase(scorer: object) -> bool:
    """Whether the scorer prepares clip by clip and then scores a unit's clips together."""
    return all(callable(getattr(scorer, name, None)) for name in ("prepare", "score_prepared"))


def score_clips(scorer: Any, clips: Sequence[ScorableClip]) -> object:
    """The answer of the scorer to ``clips``, unchecked, in one or in two phases."""
    if is_two_phase(scorer):
        return scorer.score_prepared([scorer.prepare(clip) for clip in clips])
    return scorer.score(clips)


def _metrics(name: str, owner: type, scorer: object) -> tuple[Metric, ...]:
    metrics = getattr(scorer, "metrics", None)
    if not isinstance(metrics, list | tuple) or not metrics or not all(isinstance(item, Metric) for item in metrics):
        raise _wrong(name, owner, f"metrics = {metrics!r}", "a tuple of avpref.domain.Metric, at least one")
    names = [metric.name for metric in metrics]
    if len(set(names)) < len(names):
        raise _wrong(name, owner, f"metrics {', '.join(names)}", "every metric once")
    return tuple(metrics)


def _wrong(name: str, owner: type, found: str, expected: str) -> ConfigError:
    found = f"scorer {name}: {owner.__module__}:{owner.__qualname__} has {found}"
    return ConfigError(found, expected, f"see {SCORER.guide}")
