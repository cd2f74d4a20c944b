"""Pictures that move, and sound, as TensorBoard events. TensorBoard's own writer of videos needs a package more."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from avpref.storage.local_files import storage_errors

SUFFIX = ".media"
RGB = 3


class MediaEvents:
    """A file of events in the folder ``folder``, open during the block. Raises StorageError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def __enter__(self) -> Self:
        from torch.utils.tensorboard.writer import FileWriter

        with storage_errors(self._folder):
            self._writer = FileWriter(str(self._folder), filename_suffix=SUFFIX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with storage_errors(self._folder):
            self._writer.close()

    def add_video(self, tag: str, gif: bytes, size: tuple[int, int], step: int) -> None:
        """An animated GIF of ``size`` (height, width)."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        image = Summary.Image(height=size[0], width=size[1], colorspace=RGB, encoded_image_string=gif)
        self._writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    def add_audio(self, tag: str, audio: NDArray[np.float32], sample_rate_hz: int, step: int) -> None:
        """Sound [S] in [-1, 1], louder samples clipped, as 16-bit PCM."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as stream:
            stream.setnchannels(1)
            stream.setsampwidth(2)
            stream.setframerate(sample_rate_hz)
            stream.writeframes((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())
        sound = Summary.Audio(
            sample_rate=float(sample_rate_hz),
            num_channels=1,
            length_frames=len(audio),
            encoded_audio_string=buffer.getvalue(),
            content_type="audio/wav",
        )
        self._writer.add_summary(Summary(value=[Summary.Value(tag=tag, audio=sound)]), step)
