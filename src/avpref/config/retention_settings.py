"""Section ``retention``: how long what nothing refers to any more is kept."""

from __future__ import annotations

from pydantic import Field

from avpref.config.section import Section


class RetentionSettings(Section):
    """Bounds of garbage collection. What is referred to is kept whatever they say."""

    keep_days: float = Field(default=30.0, ge=0, description="units of superseded fingerprints and whole runs: age")
    keep_runs: int = Field(default=10, ge=0, description="so many of the newest runs are never removed whole")
    grace_hours: float = Field(default=24.0, ge=0, description="no file that changed more recently is touched")
