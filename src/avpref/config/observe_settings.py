"""The section ``observe`` of a configuration file: what a GPU hour costs, and where a run's meters can be read."""

from __future__ import annotations

from pydantic import Field

from avpref.config.section import Section


class ObserveSettings(Section):
    """Prices and the Prometheus endpoint. Nothing here changes what comes out of a run."""

    price_per_gpu_hour: float = Field(default=0.0, ge=0, description="0: costs are given in seconds alone")
    currency: str = Field(default="USD", min_length=1, max_length=8)
    prometheus_port: int = Field(default=0, ge=0, le=65535, description="0: no endpoint")
    prometheus_host: str = Field(default="127.0.0.1", min_length=1, description="address that the endpoint binds to")
