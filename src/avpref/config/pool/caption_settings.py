"""Section ``caption`` of a pool's configuration: the service that describes clips, and how texts are checked against clips."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from avpref.config.scorer_use import ScorerEntry, ScorerUse, as_use, listed
from avpref.config.section import Section


class CaptionSettings(Section):
    """An endpoint for chat completions as OpenAI defines it, such as a local vLLM with Qwen-Omni. Without ``url`` no caption is made."""

    url: str = Field(default="", description="ends before /chat/completions; empty: no captions are made")
    model: str = Field(default="", description="name of the model at the endpoint")
    key_variable: str = Field(
        default="", pattern=r"^([A-Za-z_]\w*)?$", description="environment variable with the key; empty: no key"
    )
    language: str = Field(default="English", min_length=1)
    keep_existing: bool = Field(default=True, description="clips whose source has a text keep it and are not sent")
    num_frames: int = Field(default=16, gt=0)
    longest_side_px: int = Field(default=588, ge=16)
    sound: bool = Field(default=True, description="send the sound as WAV of 16 kHz")
    max_tokens: int = Field(default=300, gt=0)
    concurrency: int = Field(default=4, gt=0, le=64, description="requests at the same time, of each actor")
    timeout_s: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=4, gt=0, description="attempts per request, and requests per clip for a wrong answer")
    backoff_s: float = Field(default=1.0, ge=0)
    requests_per_s: float = Field(default=0.0, ge=0, description="0: no limit")
    price_per_million_input: float = Field(default=0.0, ge=0, description="price of a million prompt tokens")
    price_per_million_output: float = Field(default=0.0, ge=0, description="price of a million completion tokens")
    checks: tuple[ScorerEntry, ...] = Field(
        default=(), description="scorers that compare texts with clips: imagebind, clap, or one of your own"
    )

    @field_validator("url")
    @classmethod
    def _without_credentials(cls, value: str) -> str:
        if not value:
            return value
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("expected http://HOST… or https://HOST…")
        if parts.username or parts.password or re.search(r"(?i)(key|token|secret|password)=", parts.query):
            raise ValueError("a URL without credentials; name the variable that holds the key in key_variable")
        return value.rstrip("/")

    @field_validator("checks", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return listed(value)

    @property
    def uses(self) -> tuple[ScorerUse, ...]:
        """The checks in the long form."""
        return tuple(as_use(entry) for entry in self.checks)
