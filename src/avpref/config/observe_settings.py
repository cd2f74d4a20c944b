"""Sections ``observe`` and ``reporting``: costs, metrics endpoint and reports to a Prefect server. They do not change results."""

from __future__ import annotations

from pydantic import Field

from avpref.config.section import Section


class ObserveSettings(Section):
    """Prices and the Prometheus endpoint. Nothing here changes what comes out of a run."""

    price_per_gpu_hour: float = Field(default=0.0, ge=0, description="0: costs are given in seconds alone")
    currency: str = Field(default="USD", min_length=1, max_length=8)
    prometheus_port: int = Field(default=0, ge=0, le=65535, description="0: no endpoint")
    prometheus_host: str = Field(default="127.0.0.1", min_length=1, description="address that the endpoint binds to")


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
