"""Sections ``storage`` and ``retention``: where runs are stored and how long unreferenced files are kept."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from avpref.config.section import Section

URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[^/]+)*)/?")


class FolderStorage(Section):
    """The run folder holds everything, on a local disk or on a file system that all machines share."""

    kind: Literal["folder"] = "folder"


class ObjectStorage(Section):
    """A bucket of an S3-compatible store is authoritative (``URL/RUN_ID/…``); the run folder is scratch space and cache.

    Credentials come only from the environment, so that no configuration, run or log contains them.
    """

    kind: Literal["objects"] = "objects"
    url: str = Field(description="s3://bucket/prefix; every run has its own folder under it")
    endpoint: str = Field(default="", description="URL of the store; empty: AWS, or AWS_ENDPOINT_URL")
    region: str = Field(default="", description="empty: AWS_REGION, or us-east-1")
    allow_http: bool = Field(default=False, description="connect to the endpoint without TLS")

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
            raise ValueError("not of the form https://host:port (set credentials in the environment)")
        return value.rstrip("/")

    @property
    def bucket(self) -> str:
        """Name of the bucket."""
        return self._parts()["bucket"]

    @property
    def prefix(self) -> str:
        """Common prefix of all names in the bucket; empty for the whole bucket."""
        return self._parts()["prefix"].strip("/")

    def _parts(self) -> dict[str, str]:
        match = URL.fullmatch(self.url)
        assert match is not None  # checked by the validator
        return match.groupdict()


Storage = Annotated[FolderStorage | ObjectStorage, Field(discriminator="kind")]


class RetentionSettings(Section):
    """Limits of garbage collection. Referenced files are kept regardless of these values."""

    keep_days: float = Field(
        default=30.0, ge=0, description="age at which units of superseded fingerprints, and whole runs, may be removed"
    )
    keep_runs: int = Field(default=10, ge=0, description="number of newest runs that are never removed as a whole")
    grace_hours: float = Field(default=24.0, ge=0, description="files that changed more recently are kept")
