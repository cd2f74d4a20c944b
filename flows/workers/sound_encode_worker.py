"""Workers that encode the sound of recordings for the training of the audio branch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from avpref.config.schema import Settings
from avpref.datasets.latents import AUDIO, LOG_VARIANCE, EncodedSample, half_precision
from avpref.datasets.lists.sound_clips import SoundItem
from avpref.datasets.rows import QuarantineRow
from avpref.errors import ConfigError, MediaError
from avpref.execution.contract import Receipt
from avpref.flows.workers.generator import device_of, open_codec
from avpref.flows.workers.prompt_sources import reading_rules
from avpref.media.reading import read_clip
from avpref.media.reading_rules import ReadingRules
from avpref.models.codecs.codec import Codec, PosteriorCodec
from avpref.storage.files import Files
from avpref.storage.latents.latent_units import commit_samples
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


@dataclass(frozen=True)
class SoundEncodeSpec:
    """Builds workers that encode windows of sound; shards are committed to ``store``."""

    store: Files
    settings: Settings
    files: UnitFiles

    def build(self) -> SoundEncodeWorker:
        """Open the codec. Uses one thread, so that sums are equal with every executor."""
        torch.set_num_threads(1)
        codec = open_codec(self.settings, device_of(self.settings))
        return SoundEncodeWorker(self.store, self.files, codec, reading_rules(self.settings.clip))


@dataclass(frozen=True)
class SoundEncodeWorker:
    """Reads windows of sound and encodes them."""

    store: Files
    files: UnitFiles
    codec: Codec
    rules: ReadingRules

    def run(self, unit: Unit[SoundItem]) -> Receipt:
        """Commit the audio latents of ``unit``'s items; items that cannot be read are quarantined."""
        started, samples, quarantined = time.perf_counter(), [], []
        for item in unit.items:
            try:
                samples.append(self._sample(item))
            except MediaError as error:
                quarantined.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        commit_samples(self.store, self.files, unit, samples, quarantined)
        return Receipt(len(samples), len(quarantined), time.perf_counter() - started)

    def _sample(self, item: SoundItem) -> EncodedSample:
        clip = read_clip(item.path, item.shape, start_s=item.start_s, rules=self.rules)
        if clip.audio is None:
            raise MediaError(f"{item.path} has no sound", "a recording with sound", "remove its row")
        if not isinstance(self.codec, PosteriorCodec):
            found = f"sft.audio_clips with {type(self.codec).__name__}, which encodes no sound alone"
            raise ConfigError(found, "sound of the SFT clips", "--set sft.audio_clips=")
        mean, log_variance = self.codec.sound_moments(clip.audio)
        parts = {AUDIO: half_precision(mean.numpy())}
        if log_variance is not None:
            parts[LOG_VARIANCE] = half_precision(log_variance.numpy())
        size = item.shape.num_frames, item.shape.height_px, item.shape.width_px
        return EncodedSample(item.item_id, item.text, parts, *size)
