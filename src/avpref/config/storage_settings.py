"""Sections ``storage`` and ``retention``: where runs are stored and how long unreferenced files are kept."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from avpref.config.section import Section

URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[^/]+)*)/?")


class FolderStorage(Section):
    """The run's folder holds everything: a disk of this machine, or one that all machines share."""

    kind: Literal["folder"] = "folder"


class ObjectStorage(Section):
    """A bucket of an S3-compatible store holds the truth, ``URL/RUN_ID/…``; the run's folder is scratch and cache.

    Credentials come from the environment alone, so that no configuration, run or log holds them.
    """

    kind: Literal["objects"] = "objects"
    url: str = Field(description="s3://bucket/prefix, under which every run has a folder of its own")
    endpoint: str = Field(default="", description="URL of the store; empty: AWS, or AWS_ENDPOINT_URL")
    region: str = Field(default="", description="empty: AWS_REGION, or us-east-1")
    allow_http: bool = Field(default=False, description="talk to the endpoint without TLS")

    @field_validator("url")
    @classmethod
    def _is_bucket(cls, value: str) -> str:
        if URL.fullmatch(value) is None:
            raise ValueError("not of the form s3://bucket/prefix (bucket: 3 to 63 of a-z, 0-9, '.' and '-')")
        return value.rstrip("/")

    @field_validator("endpoint")
    @classmethod
    def _is_endpoint(cls, value: str) -> str:
        if value and not re.fullmatch(r"https?://[^/@\s]+/?", value):
            raise ValueError("not of the form https://host:port (credentials go into the environment)")
        return value.rstrip("/")

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._parts()["bucket"]

    @property
    def prefix(self) -> str:
        """What every name in the bucket begins with; empty for the whole bucket."""
        return self._parts()["prefix"].strip("/")

    def _parts(self) -> dict[str, str]:
        found = URL.fullmatch(self.url)
        assert found is not None  # the validator saw to it
        return found.groupdict()


Storage = Annotated[FolderStorage | ObjectStorage, Field(discriminator="kind")]


class RetentionSettings(Section):
    """Bounds of garbage collection. What is referred to is kept whatever they say."""

    keep_days: float = Field(default=30.0, ge=0, description="units of superseded fingerprints and whole runs: age")
    keep_runs: int = Field(default=10, ge=0, description="so many of the newest runs are never removed whole")
    grace_hours: float = Field(default=24.0, ge=0, description="no file that changed more recently is touched")
