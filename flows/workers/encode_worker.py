"""The worker that makes training latents: clips through the codec's own file format and back, then encoded.

What is trained on is what was read back: the bytes of a real mp4, decoded by timestamp.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from avpref.config.schema import Settings
from avpref.datasets.latents import LatentRow, packed
from avpref.datasets.rows import QuarantineRow
from avpref.errors import InputError, MediaError
from avpref.execution.contract import Receipt
from avpref.flows.workers.committed_clips import open_clip
from avpref.flows.workers.generator import device_of, open_codec
from avpref.flows.workers.prompt_sources import RawClip, SftItem, World, clip_shape, open_world
from avpref.media.delay import delay_audio
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.writing import encode_clip
from avpref.models.codecs.codec import Codec
from avpref.storage.files import Files
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


@dataclass(frozen=True)
class RenderSpec:
    """Builds workers that render and encode the SFT set."""

    settings: Settings
    files: UnitFiles

    def build(self) -> RenderWorker:
        """Open the world and the codec. One thread, so that every executor adds up in the same order."""
        torch.set_num_threads(1)
        shape = clip_shape(self.settings)
        return RenderWorker(
            self.files, open_world(self.settings), open_codec(self.settings, device_of(self.settings)), shape
        )


@dataclass(frozen=True)
class RenderWorker:
    """Renders SFT clips to mp4 bytes, reads them back and encodes them."""

    files: UnitFiles
    world: World
    codec: Codec
    shape: ClipShape

    def run(self, unit: Unit[SftItem]) -> Receipt:
        """Commit the latents of ``unit``'s items."""
        started, rows, lost = time.perf_counter(), [], []
        for item in unit.items:
            try:
                rows.append(self._row(item))
            except MediaError as error:
                lost.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        self.files.commit(unit, rows, lost)
        return Receipt(len(rows), len(lost), time.perf_counter() - started)

    def _row(self, item: SftItem) -> LatentRow:
        raw = self.world.sft_clip(item)
        clip = read_clip(io.BytesIO(mp4(raw, self.shape)), self.shape)
        video, audio = encoded(self.codec, [clip])
        return LatentRow(item.item_id, raw.text, packed(video[0]), packed(audio[0]))


@dataclass(frozen=True)
class EncodeItem:
    """A candidate whose file is to be encoded; ``delays_s`` asks for delayed versions of its audio too."""

    item_id: str
    path: str
    text: str
    delays_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class EncodeSpec:
    """Builds workers that encode committed candidates."""

    media: Files
    settings: Settings
    files: UnitFiles

    def build(self) -> EncodeWorker:
        """Open the codec. One thread, so that every executor adds up in the same order."""
        torch.set_num_threads(1)
        shape = clip_shape(self.settings)
        return EncodeWorker(self.media, self.files, open_codec(self.settings, device_of(self.settings)), shape)


@dataclass(frozen=True)
class EncodeWorker:
    """Reads candidates' files and encodes them to latents."""

    media: Files
    files: UnitFiles
    codec: Codec
    shape: ClipShape

    def run(self, unit: Unit[EncodeItem]) -> Receipt:
        """Commit the latents of ``unit``'s items. Raises InputError for a clip that can no longer be read."""
        started = time.perf_counter()
        self.files.commit(unit, [self._row(item) for item in unit.items])
        return Receipt(len(unit.items), 0, time.perf_counter() - started)

    def _row(self, item: EncodeItem) -> LatentRow:
        try:
            clip = read_clip(open_clip(self.media, item.path), self.shape)
        except MediaError as error:  # no candidate's fault: it was read when it was scored, and a pair needs it
            raise InputError(f"a pair's clip: {error.found}", error.expected, f"restore {item.path}") from error
        assert clip.audio is not None  # a clip without sound has no score, so it is in no pair
        video, audio = encoded(self.codec, [clip])
        late = [delayed(clip, delay_s) for delay_s in item.delays_s]
        delayed_audio = packed(encoded(self.codec, late)[1]) if late else b""
        return LatentRow(item.item_id, item.text, packed(video[0]), packed(audio[0]), delayed_audio)


def mp4(raw: RawClip, shape: ClipShape) -> bytes:
    """The clip as a file's bytes."""
    return encode_clip(raw.frames, shape.fps_hz, raw.audio, shape.sample_rate_hz)


def encoded(codec: Codec, clips: Sequence[DecodedClip]) -> tuple[np.ndarray, np.ndarray]:
    """Latents of ``clips`` as numpy: video [N, C, T, h, w], audio [N, C, L, M]."""
    latents = codec.encode(clips)
    assert latents.video is not None and latents.audio is not None
    return latents.video.numpy(), latents.audio.numpy()


def delayed(clip: DecodedClip, delay_s: float) -> DecodedClip:
    """The clip with its sound ``delay_s`` later."""
    assert clip.audio is not None
    return replace(clip, audio=delay_audio(clip.audio, delay_s, clip.sample_rate_hz))
