"""Deterministic ids and seeds: hashes of their inputs, never random."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

SEED_BITS = 63


def digest(*parts: object, size: int = 16) -> str:
    """Hex digest of ``parts`` (JSON values, canonical form): the first ``size`` characters of SHA-256.

    Raises ValueError for NaN and infinity, TypeError for values that JSON cannot represent.
    Invariant: equal parts give equal digests in every process and on every machine; ``("a", "b")`` and ``("ab",)`` differ.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:size]


def derive_seed(*parts: object) -> int:
    """Seed in [0, 2**63) derived from ``parts``; see :func:`digest`."""
    return int(digest(*parts, size=16), 16) >> (64 - SEED_BITS)


def bytes_sha256(data: bytes) -> str:
    """SHA-256 of bytes, 64 hex characters; equal to :func:`file_sha256` of a file with these bytes."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path | str) -> str:
    """SHA-256 of a file's bytes, 64 hex characters. Raises FileNotFoundError and other OSErrors."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
