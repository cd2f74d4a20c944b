"""Sections ``observe`` and ``reporting``: costs, metrics endpoint and reports to a Prefect server. They do not change results."""

from __future__ import annotations

from pydantic import Field

from avpref.config.section import Section


class ObserveSettings(Section):
    """Price of a GPU hour and the Prometheus endpoint. They do not change the results of a run."""

    price_per_gpu_hour: float = Field(default=0.0, ge=0, description="0: costs are reported in seconds only")
    currency: str = Field(default="USD", min_length=1, max_length=8)
    prometheus_port: int = Field(default=0, ge=0, le=65535, description="0: no endpoint")
    prometheus_host: str = Field(default="127.0.0.1", min_length=1, description="address that the endpoint binds to")


class ReportingSettings(Section):
    """Reports to a Prefect server: how long a command waits for delivery, and when lost candidates raise an event."""

    flush_s: float = Field(
        default=30.0, ge=0, description="how long a command waits at its end for undelivered reports"
    )
    quarantined_share: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="a larger share of quarantined candidates emits the event avpref.quarantine.exceeded",
    )
