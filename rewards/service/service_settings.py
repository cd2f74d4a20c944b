"""Settings that scorers behind HTTP share: address, key, limits of requests, media, and the metrics that the service gives."""

from __future__ import annotations

import re
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from avpref.domain import Metric, MetricInput, Terms


class MetricSettings(BaseModel):
    """A metric that a service gives."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    dimension: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="video, audio, av, or another name")
    inputs: tuple[Literal["prompt", "picture", "sound"], ...] = Field(min_length=1)
    unit: str = "score"
    higher_is_better: bool = True

    def metric(self) -> Metric:
        """The metric that this declares."""
        inputs = frozenset(MetricInput(name) for name in self.inputs)
        return Metric(self.name, self.unit, self.higher_is_better, self.dimension, inputs)


class ServiceSettings(BaseModel):
    """Where a service is, how it is asked, and what it is sent. Each actor keeps the limits for itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    NOT_OF_SCORES: ClassVar[frozenset[str]] = frozenset(
        {"url", "key_variable", "concurrency", "timeout_s", "attempts", "backoff_s", "requests_per_s"}
    )

    url: str = Field(description="http:// or https://, without credentials")
    version: str = Field(
        default="", description="of the service, decides whether scores are reused; empty: its url does"
    )
    key_variable: str = Field(
        default="", pattern=r"^([A-Za-z_]\w*)?$", description="environment variable with the key; empty: no key"
    )
    concurrency: int = Field(default=4, gt=0, le=64, description="requests at the same time")
    timeout_s: float = Field(default=60.0, gt=0, description="seconds until a request must have been answered in full")
    attempts: int = Field(default=4, gt=0, description="attempts per request")
    backoff_s: float = Field(
        default=1.0, ge=0, description="pause before the second attempt; doubles with each attempt"
    )
    requests_per_s: float = Field(default=0.0, ge=0, description="largest rate of requests; 0: no limit")
    num_frames: int = Field(default=8, gt=0)
    longest_side_px: int = Field(default=512, ge=16)
    sound: bool = True
    licence: str = "not stated"
    commercial_use: bool = False

    @field_validator("url")
    @classmethod
    def _without_credentials(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST… or https://HOST…")
        if parts.username or parts.password or re.search(r"(?i)(key|token|secret|password)=", parts.query):
            raise ValueError("a URL without credentials; name the variable that holds the key in key_variable")
        return value.rstrip("/")

    @property
    def terms(self) -> Terms:
        """Terms of the service's numbers."""
        return Terms(self.licence, self.commercial_use)
