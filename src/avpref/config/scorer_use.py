"""Entries of a list of scorers: a name, ``package.module:Class``, or the long form with a name and settings of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Discriminator, Field, JsonValue, StringConstraints, Tag

from avpref.config.section import Section

REFERENCE = r"^[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?$"
"""A built-in name, the name of an entry point, or ``package.module:Class``."""
NAME = r"^[a-z][a-z0-9_]*$"


class ScorerUse(Section):
    """The long form of an entry: the scorer, the name under which it appears, and settings that its class declares."""

    use: str = Field(pattern=REFERENCE, description="a built-in name, an entry point, or package.module:Class")
    name: str = Field(default="", pattern=rf"{NAME}|^$", description="empty: derived from use")
    settings: dict[str, JsonValue] = Field(default={})

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    @property
    def slug(self) -> str:
        """The scorer's name in pools, stage names and folders: ``name``, or the one derived from ``use``."""
        return self.name or default_name(self.use)

    @property
    def short(self) -> str | ScorerUse:
        """``use`` alone where the long form adds nothing, so that equal configurations have equal identities."""
        return self.use if not self.settings and self.slug == default_name(self.use) else self


def _form(entry: object) -> str | None:
    return "name" if isinstance(entry, str) else "long" if isinstance(entry, Mapping | ScorerUse) else None


FORMS = ("name", "long")
"""Tags of the two forms, which appear in the locations of validation errors and are no keys of the file."""

ScorerEntry = Annotated[
    Annotated[str, StringConstraints(pattern=REFERENCE), Tag("name")] | Annotated[ScorerUse, Tag("long")],
    Discriminator(
        _form,
        custom_error_type="scorer_entry",
        custom_error_message="neither a name nor a mapping with the key use",
    ),
]


def default_name(reference: str) -> str:
    """The name of a scorer that has none: its class in snake case, or the name of the entry point with underscores."""
    last = reference.rpartition(":")[2].rpartition(".")[2]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", last)
    return words.replace("-", "_").lower().lstrip("_")


def listed(value: object) -> object:
    """Accept names separated by commas, or a single long form, in place of a list."""
    if isinstance(value, str):
        return [name.strip() for name in value.split(",")]
    return [value] if isinstance(value, Mapping | ScorerUse) else value


def shortened(entries: Sequence[str | ScorerUse]) -> tuple[str | ScorerUse, ...]:
    """The entries, as names where possible. Raises ValueError for no entry, and for two entries of one name."""
    if not entries:
        raise ValueError("at least one scorer")
    uses = [as_use(entry) for entry in entries]
    names = [use.slug for use in uses]
    for name in names:
        if names.count(name) > 1:
            twice = " and ".join(use.use for use in uses if use.slug == name)
            raise ValueError(f"each scorer once: {twice} are both called {name}; name one: {{use: …, name: …}}")
    return tuple(use.short for use in uses)


def as_use(entry: str | ScorerUse) -> ScorerUse:
    """The long form of an entry."""
    return ScorerUse(use=entry) if isinstance(entry, str) else entry


def entry_for_override(entries: object, name: str) -> tuple[list[Any], dict[str, Any]] | None:
    """The list with the entry called ``name`` as a mapping that an override may change, and that mapping; None without one."""
    items = listed(entries)
    if not isinstance(items, list):
        return None
    for index, item in enumerate(items):
        entry = {"use": item} if isinstance(item, str) else dict(item) if isinstance(item, Mapping) else {}
        use = entry.get("use")
        if isinstance(use, str) and (entry.get("name") or default_name(use)) == name:
            return [*items[:index], entry, *items[index + 1 :]], entry
    return None
