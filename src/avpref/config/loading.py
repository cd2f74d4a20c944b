"""Load configuration: one complete YAML file, then ``AVPREF_SECTION__KEY`` of the environment, then ``--set a.b=c``.

The origin of every value is recorded, and an unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from avpref.config.data_settings import PairPrompts
from avpref.config.optional_scorers import with_installed
from avpref.config.pool_names import require_pools_of_scorers
from avpref.config.schema import ScoreJob, Settings
from avpref.config.scorer_use import FORMS, entry_for_override
from avpref.config.section import EVERY_KEY, Section
from avpref.config.training.adapter_rules import require_adapters
from avpref.errors import ConfigError
from avpref.identity import digest

ENVIRONMENT_PREFIX = "AVPREF_"
NOT_SETTINGS = {"AVPREF_GOLDEN", "AVPREF_MEDIA"}
"""Variables of the test suite that share the prefix but are not configuration."""

GUIDE = "keys and values of docs/configuration.md"
UNION_SECTIONS = {name for name, field in Settings.model_fields.items() if field.discriminator}
"""Sections with several forms, selected by their key ``kind``."""

SCORER_LISTS = frozenset({"scoring.scorers", "evaluation.judges", "measure.scorers", "caption.checks"})
"""Lists of scorers, whose entries an override addresses by name: ``scoring.scorers.NAME.settings.KEY=VALUE``."""

Tree = dict[str, Any]
SectionT = TypeVar("SectionT", bound=Section)


@dataclass(frozen=True)
class Resolved:
    """A validated configuration and the origin of every value that is not a default."""

    settings: Settings
    origins: Mapping[str, str]

    def rows(self) -> Iterator[tuple[str, object, str]]:
        """(dotted key, value, origin) for every leaf, in file order."""
        for key, value in flatten(self.settings.model_dump(mode="json", context={EVERY_KEY: True})):
            yield key, value, self.origins.get(key, "default")


def load_config(
    path: Path | str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Resolved:
    """Read ``path``, apply environment and ``key=value`` overrides, validate.

    Scorers of ``scoring.optional`` are resolved (:mod:`avpref.config.optional_scorers`).
    Raises ConfigError for a missing file, broken YAML, an unknown key (with the nearest known one) or a bad value; all wrong keys
    are named at once.
    """
    path = Path(path)
    tree = _read_yaml(path)
    origins = {key: str(path) for key, _ in flatten(tree)}
    _apply(tree, origins, overrides, os.environ if environment is None else environment)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            f"{path}: {_explain_all(error, origins)}", GUIDE, "avpref config show --config FILE"
        ) from None
    _require_implemented(settings, path)
    require_pools_of_scorers(settings.executor, settings.scoring, settings.evaluation.judge_uses, str(path))
    settings, note = with_installed(settings)
    if note:
        origins["scoring.scorers"] = f"{origins.get('scoring.scorers', 'default')}; {note}"
    return Resolved(settings, origins)


def load_section(
    schema: type[SectionT], name: str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> SectionT:
    """The section ``name`` without a file: its defaults, then environment and ``key=value`` overrides as in :func:`load_config`.

    Raises ConfigError for an unknown key (with the nearest known one) or a bad value.
    """
    tree, origins = _without_file(overrides, environment)
    try:
        return schema.model_validate(tree.get(name, {}))
    except ValidationError as error:
        reasons = _explain_all(error, origins, (name,))
        raise ConfigError(f"section {name}: {reasons}", GUIDE, f"--set {name}.KEY=VALUE") from None


def load_sections(
    schema: type[SectionT], overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> SectionT:
    """Several sections (the fields of ``schema``) without a file; otherwise as :func:`load_section`."""
    tree, origins = _without_file(overrides, environment)
    try:
        sections = schema.model_validate(tree)
    except ValidationError as error:
        expected = f"sections {', '.join(schema.model_fields)} of docs/configuration.md"
        raise ConfigError(_explain_all(error, origins), expected, "--set section.KEY=VALUE") from None
    if isinstance(sections, ScoreJob):
        require_pools_of_scorers(sections.executor, sections.scoring, (), "sections executor and scoring")
    return sections


def load_document(
    schema: type[SectionT],
    path: Path | str,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> SectionT:
    """A complete file of another schema than a run's (a pool), with environment and overrides. Raises as :func:`load_config`."""
    path = Path(path)
    tree = _read_yaml(path)
    origins = {key: str(path) for key, _ in flatten(tree)}
    _apply(tree, origins, overrides, os.environ if environment is None else environment)
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        reasons = _explain_all(error, origins, schema=schema)
        raise ConfigError(f"{path}: {reasons}", GUIDE, f"correct {path}, or: --set section.KEY=VALUE") from None


def _without_file(overrides: Sequence[str], environment: Mapping[str, str] | None) -> tuple[Tree, dict[str, str]]:
    """Values of environment and overrides alone, and the origin of each."""
    tree: Tree = {}
    origins: dict[str, str] = {}
    _apply(tree, origins, overrides, os.environ if environment is None else environment)
    return tree, origins


def _require_implemented(settings: Settings, path: Path) -> None:
    """Raises ConfigError for a value that the schema knows and no stage of a run can serve, and for a judge that is a scorer."""
    settings.base_sections.check()
    settings.rounds.check()
    require_adapters(settings, path)
    if isinstance(settings.prompts, PairPrompts) and len(settings.clip.shapes) > 1:
        found = f"{path}: prompts.kind pairs with {len(settings.clip.shapes)} clip.shapes"
        raise ConfigError(found, "one shape, in which clips of pairs are imported", "--set clip.shapes=[]")
    if settings.rounds.count > 1 and len(settings.clip.shapes) > 1:
        found = f"{path}: rounds.count {settings.rounds.count} with {len(settings.clip.shapes)} clip.shapes"
        raise ConfigError(found, "one shape in a run of several rounds", "--set clip.shapes=[]")
    scorers = {name for use in settings.scoring.uses for name in (use.use, use.slug)}
    both = [use.slug for use in settings.evaluation.judge_uses if {use.use, use.slug} & scorers]
    if both:
        found = f"{path}: {', '.join(both)} in scoring.scorers and in evaluation.judges"
        fix = "--set evaluation.judges=[], or another scorer that scoring.scorers does not name"
        raise ConfigError(found, "judges that take no part in selecting pairs", fix)


def _apply(tree: Tree, origins: dict[str, str], overrides: Sequence[str], environment: Mapping[str, str]) -> None:
    for name, value in sorted(environment.items()):
        if name.startswith(ENVIRONMENT_PREFIX) and "__" in name and name not in NOT_SETTINGS:
            dotted = name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", ".")
            _assign(tree, origins, dotted, value, f"environment {name}")
    for override in overrides:
        dotted, separator, value = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}", "--set section.key=value", f"--set {override}=VALUE")
        _assign(tree, origins, dotted.strip(), value, f"--set {dotted.strip()}")


NOT_OF_IDENTITY = frozenset({"audit", "executor", "observe", "promotion", "reporting", "retention", "storage"})
"""Sections that affect where a run executes and how it is observed, but not its results."""
WITHOUT_DEFAULT = ("base", "prior")
"""Sections that came later than others: runs that leave them at their defaults keep their ids."""


def identity_hash(settings: Settings) -> str:
    """Hash of everything that a run's results depend on, 8 hex characters: all sections except :data:`NOT_OF_IDENTITY`.

    Sections of :data:`WITHOUT_DEFAULT` enter only where they differ from their defaults, and section ``rounds`` from the second
    round on, without the number of rounds: the first of several rounds is the run of one. Without a benchmark, its settings are
    left out.
    """
    left_out = [name for name in WITHOUT_DEFAULT if getattr(settings, name) == Settings.model_fields[name].default]
    left_out += ["rounds"] if settings.rounds.round == 1 else []
    tree = settings.model_dump(mode="json", exclude={*NOT_OF_IDENTITY, *left_out})
    if "rounds" in tree:
        del tree["rounds"]["count"]
    if not settings.evaluation.bench.preset:
        del tree["evaluation"]["bench"]
    return digest("settings", tree, size=8)


def config_to_yaml(settings: Settings) -> str:
    """The resolved configuration as a complete file; :func:`load_config` reads it back to equal settings."""
    tree = settings.model_dump(mode="json")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    if "\x85" in text:  # the writer leaves NEL unescaped, but the reader takes it for a line break
        return yaml.safe_dump(tree, sort_keys=False)
    return text


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, leaf value) pairs of a nested mapping."""
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{dotted}.")
        else:
            yield dotted, value


class _StrictLoader(yaml.SafeLoader):
    """YAML loader that refuses duplicate keys; plain YAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See :class:`yaml.SafeLoader`."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        duplicate = next((key for key in keys if keys.count(key) > 1), None)
        if duplicate is not None:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {duplicate!r}", node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> Tree:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, [item.name for item in path.parent.glob("*.yaml")], n=1)
        hint = f"--config {path.parent / near[0]}" if near else "--config configs/toyworld.yaml"
        raise ConfigError(f"no configuration file {path}", "an existing YAML file", hint) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}", "a YAML file of sections", f"correct {path}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}", "a mapping of sections", f"correct {path}")
    return tree


def _assign(tree: Tree, origins: dict[str, str], dotted: str, text: str, origin: str) -> None:
    *sections, leaf = dotted.split(".")
    node = _descend(tree, sections, "", origin)
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"{origin}: {text!r} is not a YAML value: {error}", "a YAML value", f"{origin}='...'"
        ) from None
    node[leaf] = value
    for replaced in [key for key in origins if key.startswith(f"{dotted}.")]:
        del origins[replaced]
    origins.update((key, origin) for key, _ in flatten({dotted: value}))


def _descend(node: Tree, sections: Sequence[str], path: str, origin: str) -> Tree:
    """The mapping at ``sections`` below ``node`` (at ``path``), made where it is absent. Raises ConfigError for a value in its place."""
    if not sections:
        return node
    name, *rest = sections
    path = f"{path}.{name}".lstrip(".")
    if path in SCORER_LISTS and rest:
        selected = entry_for_override(node.get(name), rest[0])
        if selected is None:
            raise ConfigError(
                f"{origin}: {path} has no entry called {rest[0]}", "the name of an entry", f"--set {path}=LIST"
            )
        node[name], entry = selected
        return _descend(entry, rest[1:], f"{path}.{rest[0]}", origin)
    child = node.setdefault(name, {})
    if not isinstance(child, dict):
        raise ConfigError(f"{origin}: {name} is a value, not a section", "section.key=value", f"--set {name}=VALUE")
    return _descend(child, rest, path, origin)


def _explain_all(
    error: ValidationError,
    origins: Mapping[str, str],
    prefix: tuple[str, ...] = (),
    schema: type[Section] = Settings,
) -> str:
    """One phrase per wrong key; ``prefix`` is the section that the validated model is, ``schema`` has the known keys."""
    return "; ".join(_explain({**item, "loc": (*prefix, *item["loc"])}, origins, schema) for item in error.errors())


def _explain(item: Any, origins: Mapping[str, str], schema: type[Section]) -> str:
    parts = [str(part) for part in item["loc"]]
    location = [
        part for part, before in zip(parts, ["", *parts], strict=False) if part not in FORMS or not before.isdigit()
    ]
    kind = ""
    if location[0] in UNION_SECTIONS and len(location) > 1:
        kind = location.pop(1)  # the tag of the union, which is not a key of the file
    key = ".".join(location)
    if item["type"] == "extra_forbidden":
        names = _names_in_section(schema, location[:-1]) or _known_names(schema)
        if kind and location[-1] in names:
            hint = f"--set '{location[0]}={{kind: {kind}}}' replaces the whole section"
            return f"{key} is no key of {location[0]}.kind {kind} ({hint}){_origin_note(key, origins)}"
        near = difflib.get_close_matches(location[-1], sorted(names), n=1)
        hint = f" (did you mean {'.'.join([*location[:-1], near[0]])}?)" if near else ""
        return f"unknown key {key}{hint}{_origin_note(key, origins)}"
    if item["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {item.get('input')!r}: {item['msg']}{_origin_note(key, origins)}"


def _origin_note(key: str, origins: Mapping[str, str]) -> str:
    """The origin of a value as the end of a sentence; empty for a value of the file, which the message names already."""
    origin = origins.get(key, "")
    return f", given by {origin}" if origin.startswith(("environment ", "--set ")) else ""


def _names_in_section(schema: type[Section], sections: Sequence[str]) -> set[str]:
    models: list[type[BaseModel]] = [schema]
    for section in (name for name in sections if not name.isdigit()):
        fields = [model.model_fields[section] for model in models if section in model.model_fields]
        models = [inner for field in fields for inner in _models_in(field.annotation)]
    return {name for model in models for name in model.model_fields}


def _known_names(model: type[BaseModel]) -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(name)
        for candidate in _models_in(field.annotation):
            names |= _known_names(candidate)
    return names


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _models_in(argument)]
