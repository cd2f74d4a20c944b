"""Workers that encode clips to latents for training, into shards of the latent store (:mod:`avpref.storage.latents`).

Every clip is read from the bytes of an mp4 file, by timestamp: clips of the SFT set are written to such a file first. Clips of a run
have the length of the run's shape, so both sides of a pair are encoded whole, from the same first frame that was scored.
"""

from __future__ import annotations

import io
import time
from dataclasses import dataclass, replace

import torch

from avpref.config.schema import Settings
from avpref.datasets.latents import (
    AUDIO,
    DELAYED,
    DELAYED_LOG_VARIANCE,
    LOG_VARIANCE,
    VIDEO,
    EncodedSample,
    LatentArray,
    half_precision,
)
from avpref.datasets.rows import QuarantineRow
from avpref.errors import InputError, MediaError
from avpref.execution.contract import Receipt
from avpref.flows.workers.committed_clips import open_clip
from avpref.flows.workers.generator import device_of, open_codec
from avpref.flows.workers.prompt_sources import PromptSource, SftItem, UnencodedClip, clip_shape, open_prompt_source
from avpref.flows.workers.sound_changes import SoundChange
from avpref.media.delay import delay_audio
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.writing import encode_clip
from avpref.models.codecs.codec import Codec, LatentMoments, moments_of
from avpref.storage.files import Files
from avpref.storage.latents.latent_units import commit_samples
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


@dataclass(frozen=True)
class SftEncodeSpec:
    """Builds workers that encode clips of the SFT set; shards are committed to ``store``."""

    store: Files
    settings: Settings
    files: UnitFiles

    def build(self) -> SftEncodeWorker:
        """Open prompt source and codec. Uses one thread, so that sums are equal with every executor."""
        torch.set_num_threads(1)
        shape = clip_shape(self.settings)
        return SftEncodeWorker(
            self.store,
            self.files,
            open_prompt_source(self.settings),
            open_codec(self.settings, device_of(self.settings)),
            shape,
        )


@dataclass(frozen=True)
class SftEncodeWorker:
    """Writes clips of the SFT set to mp4 bytes, reads them back and encodes them."""

    store: Files
    files: UnitFiles
    prompt_source: PromptSource
    codec: Codec
    shape: ClipShape

    def run(self, unit: Unit) -> Receipt:
        """Commit the latents of ``unit``'s items (SftItem); items that cannot be read are quarantined."""
        started, samples, quarantined = time.perf_counter(), [], []
        for item in unit.items:
            try:
                samples.append(self._sample(item))
            except MediaError as error:
                quarantined.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        commit_samples(self.store, self.files, unit, samples, quarantined)
        return Receipt(len(samples), len(quarantined), time.perf_counter() - started)

    def _sample(self, item: SftItem) -> EncodedSample:
        unencoded = self.prompt_source.sft_clip(item)
        clip = read_clip(io.BytesIO(mp4_bytes(unencoded, self.shape)), self.shape)
        return _encoded(item.item_id, unencoded.text, moments_of(self.codec, [clip]), self.shape)


@dataclass(frozen=True)
class EncodeItem:
    """A candidate to encode; a version is encoded too for each of ``delays_s`` (seconds), with delayed audio, and of ``changes``."""

    item_id: str
    path: str
    text: str
    delays_s: tuple[float, ...] = ()
    changes: tuple[SoundChange, ...] = ()


@dataclass(frozen=True)
class CandidateEncodeSpec:
    """Builds workers that encode committed candidates; clips are read from ``media``, shards committed to ``store``."""

    media: Files
    store: Files
    settings: Settings
    files: UnitFiles

    def build(self) -> CandidateEncodeWorker:
        """Open the codec. Uses one thread, so that sums are equal with every executor."""
        torch.set_num_threads(1)
        shape = clip_shape(self.settings)
        codec = open_codec(self.settings, device_of(self.settings))
        return CandidateEncodeWorker(self.media, self.store, self.files, codec, shape)


@dataclass(frozen=True)
class CandidateEncodeWorker:
    """Reads the files of candidates and encodes them."""

    media: Files
    store: Files
    files: UnitFiles
    codec: Codec
    shape: ClipShape

    def run(self, unit: Unit[EncodeItem]) -> Receipt:
        """Commit the latents of ``unit``'s items. Raises InputError for a clip that can no longer be read."""
        started = time.perf_counter()
        commit_samples(self.store, self.files, unit, [self._sample(item) for item in unit.items])
        return Receipt(len(unit.items), 0, time.perf_counter() - started)

    def _sample(self, item: EncodeItem) -> EncodedSample:
        try:
            with open_clip(self.media, item.path) as committed:
                clip = read_clip(committed, self.shape)
        except MediaError as error:  # not quarantined: the clip could be read when it was scored, and a pair needs it
            fix = f"restore {self.media.uri(item.path)} from a copy, then run the same command again"
            raise InputError(f"a pair's clip: {error.found}", error.expected, fix) from error
        assert clip.audio is not None  # a clip without sound has no score, so it is in no pair
        delayed = [with_delayed_audio(clip, delay_s) for delay_s in item.delays_s]
        delayed += [with_changed_sound(clip, change) for change in item.changes]
        versions = moments_of(self.codec, delayed) if delayed else None
        return _encoded(item.item_id, item.text, moments_of(self.codec, [clip]), self.shape, versions)


def _encoded(
    sample_id: str, text: str, moments: LatentMoments, shape: ClipShape, delayed: LatentMoments | None = None
) -> EncodedSample:
    """A clip's arrays as they are stored: its own, and the sound of its ``delayed`` versions."""
    parts: dict[str, LatentArray] = {
        VIDEO: half_precision(moments.video[0].numpy()),
        AUDIO: half_precision(moments.audio[0].numpy()),
    }
    if moments.audio_log_variance is not None:
        parts[LOG_VARIANCE] = half_precision(moments.audio_log_variance[0].numpy())
    if delayed is not None:
        parts[DELAYED] = half_precision(delayed.audio.numpy())
        if delayed.audio_log_variance is not None:
            parts[DELAYED_LOG_VARIANCE] = half_precision(delayed.audio_log_variance.numpy())
    return EncodedSample(sample_id, text, parts, shape.num_frames, shape.height_px, shape.width_px)


def mp4_bytes(clip: UnencodedClip, shape: ClipShape) -> bytes:
    """The clip as the bytes of an mp4 file at the rates of ``shape``."""
    return encode_clip(clip.frames, shape.fps_hz, clip.audio, shape.sample_rate_hz)


def with_delayed_audio(clip: DecodedClip, delay_s: float) -> DecodedClip:
    """The clip with its audio, mix and channels, ``delay_s`` seconds later, or earlier where that is negative."""
    assert clip.audio is not None
    audio = delay_audio(clip.audio, delay_s, clip.sample_rate_hz)
    channels = None if clip.channels is None else delay_audio(clip.channels, delay_s, clip.sample_rate_hz)
    return replace(clip, audio=audio, channels=channels)


def with_changed_sound(clip: DecodedClip, change: SoundChange) -> DecodedClip:
    """The clip with its audio changed."""
    assert clip.audio is not None
    return replace(clip, audio=change(clip.audio, clip.sample_rate_hz))
