"""docs/configuration.md names every section, every key and every default of the schema, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpref.config.schema import Settings
from avpref.config.section import Section

GUIDE = Path(__file__).parents[2] / "docs" / "configuration.md"
ROW = re.compile(r"^\| `(?P<key>\w+)` \| (?P<default>[^|]+?) \|", re.MULTILINE)
KIND = re.compile(r"`kind: (\w+)`")
PATH = re.compile(r"`([a-z_.]+)`")

Place = tuple[str, str]
"""Dotted path of a section and, where it takes several forms, its ``kind``."""


def models_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Section) else []
    return [model for argument in getattr(annotation, "__args__", ()) for model in models_in(argument)]


def sections(model: type[Section], path: str = "") -> Iterator[tuple[Place, type[Section]]]:
    for name, field in model.model_fields.items():
        forms, dotted = models_in(field.annotation), f"{path}.{name}".lstrip(".")
        for form in forms:
            kind = form.model_fields["kind"].default if len(forms) > 1 else ""
            yield (dotted, kind), form
            yield from sections(form, dotted)


def default_of(model: type[Section], key: str) -> object:
    field = model.model_fields[key]
    if models_in(field.annotation) and not (isinstance(field.default, tuple) and field.default):
        return "section"
    if field.is_required():
        return "required"
    return list(field.default) if isinstance(field.default, tuple) else field.default


def documented() -> dict[Place, dict[str, object]]:
    """Keys and defaults of every table under a heading that names sections."""
    found: dict[Place, dict[str, object]] = {}
    for part in re.split(r"^##+ ", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE):
        heading, _, body = part.partition("\n")
        rows = {row["key"]: written(row["default"]) for row in ROW.finditer(body)}
        kinds = KIND.findall(heading)
        if rows and PATH.findall(heading):
            for path in PATH.findall(heading):
                found[path, kinds[0] if kinds else ""] = rows
    return found


def written(cell: str) -> object:
    """A default as a Python value: YAML between backquotes, or one of the guide's words."""
    words = {"none": None, "empty": "", "section": "section", "required": "required"}
    if cell in words:
        return words[cell]
    value = yaml.safe_load(cell.strip("`"))
    return float(value) if isinstance(value, str) and re.fullmatch(r"[\d.]+e-?\d+", value) else value


SECTIONS = dict(sections(Settings))


def test_every_section_has_a_table_and_every_table_a_section() -> None:
    assert set(documented()) == set(SECTIONS)


@pytest.mark.parametrize("place", SECTIONS, ids=lambda place: ":".join(filter(None, place)))
def test_the_tables_give_every_key_with_its_default(place: Place) -> None:
    model = SECTIONS[place]
    assert documented()[place] == {key: default_of(model, key) for key in model.model_fields}
