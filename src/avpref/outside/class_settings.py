"""Makes a user's class with its settings, which the class itself declares (``class Settings``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from avpref.errors import AvprefError, ConfigError
from avpref.outside.class_loading import Kind, quoted_traceback


def make(kind: Kind, name: str, owner: type, values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The object of class ``owner`` with the settings ``values``, and all its settings as JSON values.

    Raises ConfigError for settings that the class does not declare or accept, and where the class cannot be made.
    """
    declared: Any = getattr(owner, "Settings", None)
    if declared is None:
        _refuse_unknown(kind, name, owner, values, ())
        return _made(kind, name, owner), {}
    _refuse_unknown(kind, name, owner, values, _known_keys(kind, name, declared))
    try:
        settings = _validated(declared, values)
    except (ValueError, TypeError) as error:
        found = f"{kind.noun} {name}: settings of {owner.__qualname__}: {_problems(error)}"
        raise ConfigError(
            found, f"the settings that {owner.__module__}:{owner.__qualname__}.Settings declares", kind.fix(name)
        ) from None
    return _made(kind, name, owner, settings), _as_json(settings)


def _made(kind: Kind, name: str, owner: type, *settings: object) -> object:
    try:
        made: object = owner(*settings)
    except AvprefError:
        raise
    except Exception as error:
        quoted = quoted_traceback(error, ("class_settings.py",))
        expected = "a class that is made from its settings alone, without loading weights"
        raise ConfigError(
            f"{kind.noun} {name}: {owner.__qualname__} cannot be made:\n{quoted}", expected, kind.fix(name)
        ) from error
    return made


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


def _known_keys(kind: Kind, name: str, declared: Any) -> Collection[str] | None:
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
    raise ConfigError(
        f"{kind.noun} {name}: Settings = {declared!r}", "a pydantic model or a dataclass", f"see {kind.guide}"
    )


def _refuse_unknown(
    kind: Kind, name: str, owner: type, values: Mapping[str, Any], known: Collection[str] | None
) -> None:
    unknown = [key for key in values if known is not None and key not in known]
    if unknown:
        expected = (
            f"{', '.join(known)}" if known else f"no settings: {owner.__qualname__} declares none (class Settings)"
        )
        raise ConfigError(f"{kind.noun} {name}: unknown setting {', '.join(unknown)}", expected, kind.fix(name))


def _problems(error: Exception) -> str:
    """The problems of a pydantic error as one phrase, or the text of another error."""
    if not hasattr(error, "errors"):
        return str(error)
    items = error.errors()
    return "; ".join(f"{'.'.join(map(str, item['loc']))} = {item.get('input')!r}: {item['msg']}" for item in items)
