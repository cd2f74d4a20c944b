"""Table of encoded clips: latents as half-precision bytes, with the clip's text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from avpref.datasets.tables import Table

STORED = np.dtype("<f2")
"""Half precision keeps eleven significant bits at half the size; codecs carry at most eight."""

LATENTS = Table(
    "latents",
    pa.schema(
        [
            pa.field("sample_id", pa.string(), nullable=False),
            pa.field("text", pa.string(), nullable=False),
            pa.field("video", pa.binary(), nullable=False),
            pa.field("audio", pa.binary(), nullable=False),
            pa.field("delayed_audio", pa.binary(), nullable=False),
        ]
    ),
)


@dataclass(frozen=True)
class LatentRow:
    """One encoded clip: video [C, T, h, w], audio [C, L, M], delayed_audio [K, C, L, M] (empty: none), all C order."""

    sample_id: str
    text: str
    video: bytes
    audio: bytes
    delayed_audio: bytes = b""


def packed(array: np.ndarray) -> bytes:
    """Bytes of a latent in storage format."""
    return np.ascontiguousarray(array, STORED).tobytes()


def unpacked(blobs: list[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """Stored bytes of N latents as float32 [N, *shape]. Raises ValueError where a size differs."""
    return np.stack([np.frombuffer(blob, STORED).reshape(shape) for blob in blobs]).astype(np.float32)
