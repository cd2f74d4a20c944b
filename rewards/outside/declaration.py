"""Reads a scorer class: validates its settings with the class's own declaration, makes the scorer, and reads its attributes.

Making a scorer loads no weights: that is the purpose of the method ``load``, which actors call.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from avpref.domain import Metric, Terms
from avpref.errors import AvprefError, ConfigError
from avpref.identity import digest
from avpref.rewards.outside.class_loading import GUIDE, quoted_traceback
from avpref.rewards.outside.source_version import source_version
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

    Raises ConfigError for settings that the class does not declare or accept, and where the class cannot be made.
    """
    declared: Any = getattr(owner, "Settings", None)
    if declared is None:
        _refuse_unknown(name, owner, values, ())
        return _made(name, owner), {}
    _refuse_unknown(name, owner, values, _known_keys(name, declared))
    try:
        settings = _validated(declared, values)
    except (ValueError, TypeError) as error:
        found = f"scorer {name}: settings of {owner.__qualname__}: {_problems(error)}"
        raise ConfigError(
            found, f"the settings that {owner.__module__}:{owner.__qualname__}.Settings declares", _fix(name)
        ) from None
    return _made(name, owner, settings), _as_json(settings)


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
    version = f"declared {version}" if version else f"source {source_version(name, owner)}"
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


def _made(name: str, owner: type, *settings: object) -> Scorer:
    try:
        scorer: Scorer = owner(*settings)
    except AvprefError:
        raise
    except Exception as error:
        quoted = quoted_traceback(error, ("declaration.py",))
        expected = "a class that is made from its settings alone, without loading weights"
        raise ConfigError(
            f"scorer {name}: {owner.__qualname__} cannot be made:\n{quoted}", expected, _fix(name)
        ) from error
    return scorer


def _validated(declared: Callable[..., object], values: Mapping[str, Any]) -> object:
    if dataclasses.is_dataclass(declared):
        try:
            from pydantic import TypeAdapter
        except ImportError:  # pydantic 1 or none, in an environment of the scorer's own
            return cast(Any, declared)(**values)
        return TypeAdapter(declared).validate_python(dict(values))
    return declared(**values)


def _as_json(settings: Any) -> dict[str, Any]:
    if hasattr(settings, "model_dump"):
        dumped: dict[str, Any] = settings.model_dump(mode="json")
    elif dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        dumped = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    else:
        dumped = json.loads(settings.json())
    return dumped


def _known_keys(name: str, declared: Any) -> Collection[str] | None:
    """The keys that a class of settings takes; None where it takes any."""
    if dataclasses.is_dataclass(declared):
        return [item.name for item in dataclasses.fields(declared) if item.init]
    if hasattr(declared, "model_fields"):
        fields, config = declared.model_fields, declared.model_config
        return (
            None
            if config.get("extra") == "allow"
            else [*fields, *(item.alias for item in fields.values() if item.alias)]
        )
    if hasattr(declared, "__fields__"):
        return list(declared.__fields__)
    raise ConfigError(f"scorer {name}: Settings = {declared!r}", "a pydantic model or a dataclass", f"see {GUIDE}")


def _refuse_unknown(name: str, owner: type, values: Mapping[str, Any], known: Collection[str] | None) -> None:
    unknown = [key for key in values if known is not None and key not in known]
    if unknown:
        expected = (
            f"{', '.join(known)}" if known else f"no settings: {owner.__qualname__} declares none (class Settings)"
        )
        raise ConfigError(f"scorer {name}: unknown setting {', '.join(unknown)}", expected, _fix(name))


def _problems(error: Exception) -> str:
    """The problems of a pydantic error as one phrase, or the text of another error."""
    if not hasattr(error, "errors"):
        return str(error)
    items = error.errors()
    return "; ".join(f"{'.'.join(map(str, item['loc']))} = {item.get('input')!r}: {item['msg']}" for item in items)


def _wrong(name: str, owner: type, found: str, expected: str) -> ConfigError:
    return ConfigError(f"scorer {name}: {owner.__module__}:{owner.__qualname__} has {found}", expected, f"see {GUIDE}")


def _fix(name: str) -> str:
    return f"--set scoring.scorers.{name}.settings.KEY=VALUE"
