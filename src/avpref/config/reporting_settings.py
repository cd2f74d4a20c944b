"""Settings of what a Prefect server is told. Nothing here changes what a run makes."""

from __future__ import annotations

from pydantic import Field

from avpref.config.section import Section


class ReportingSettings(Section):
    """How long a command waits for a server at its end, and which losses are worth an event."""

    flush_s: float = Field(
        default=30.0, ge=0, description="how long the end of a command waits for reports that are not delivered yet"
    )
    quarantined_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="a larger share of given-up candidates is the event avpref.quarantine.exceeded",
    )
