"""What every section of a configuration file is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of every section: immutable, strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
