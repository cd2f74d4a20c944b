"""Base class of the sections of a configuration file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable; an unknown key is a validation error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
