"""Base classes of the sections of a configuration file."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, SerializationInfo, SerializerFunctionWrapHandler, model_serializer

EVERY_KEY = "every_key"
"""Context of a dump that keeps added keys with their default."""


class Section(BaseModel):
    """Base of every section: immutable; an unknown key is a validation error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ExtendedSection(Section):
    """A section that got further keys later. Dumps leave out those of ``ADDED`` that have their default.

    Ids of runs and fingerprints of trainings are hashes of dumps, so those made before a key existed stay. A dump with the context
    ``{EVERY_KEY: True}`` has every key, for people.
    """

    ADDED: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_added_defaults(
        self, serialize: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, object]:
        """The keys of the section without added ones that have their default."""
        tree: dict[str, object] = serialize(self)
        if isinstance(info.context, dict) and info.context.get(EVERY_KEY):
            return tree
        fields = type(self).model_fields
        return {
            key: value
            for key, value in tree.items()
            if key not in self.ADDED or getattr(self, key) != fields[key].default
        }
