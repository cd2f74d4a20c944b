"""Workers that encode clips and negatives made from them, into shards of the latent store, for the synchrony prior."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from avpref.config.schema import Settings
from avpref.datasets.latents import (
    AUDIO,
    LOG_VARIANCE,
    NEGATIVE_KINDS,
    VIDEO,
    EncodedSample,
    LatentArray,
    half_precision,
    log_variance_of,
    negative_part,
)
from avpref.datasets.rows import QuarantineRow
from avpref.domain import Prompt
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.flows.workers.generator import device_of, open_codec
from avpref.flows.workers.prior.prior_cuts import read_prompt_cut, read_prompt_donor
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.media.reading import DecodedClip
from avpref.models.codecs.codec import Codec, PosteriorCodec, moments_of
from avpref.rewards.negatives.corruptions import Absent, NegativeKind, negatives
from avpref.storage.files import Files
from avpref.storage.latents.latent_units import commit_samples
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles

KIND_OF = {(track, kind): NegativeKind(f"{track}_{kind}") for track in (VIDEO, AUDIO) for kind in NEGATIVE_KINDS}
"""The kind of negative by track and place: those of the released training."""
NO_NEGATIVE = "NoNegative"


@dataclass(frozen=True)
class PriorItem:
    """A window of a prompt's ground truth, encoded with ``num_negatives`` of each kind; ``donor`` is a prompt of another recording."""

    item_id: str
    prompt: Prompt
    donor: Prompt | None
    num_negatives: int
    window: int = 0


class NoNegativeError(Exception):
    """A clip of which no negative of some kind can be made."""


@dataclass(frozen=True)
class PriorEncodeSpec:
    """Builds workers that encode clips with negatives; shards are committed to ``store``."""

    store: Files
    settings: Settings
    files: UnitFiles

    def build(self) -> PriorEncodeWorker:
        """Open the codec. Uses one thread, so that sums are equal with every executor."""
        torch.set_num_threads(1)
        codec = open_codec(self.settings, device_of(self.settings))
        return PriorEncodeWorker(self.store, self.settings, self.files, codec)


@dataclass(frozen=True)
class PriorEncodeWorker:
    """Reads the ground truth of prompts, makes negatives, and encodes all."""

    store: Files
    settings: Settings
    files: UnitFiles
    codec: Codec

    def run(self, unit: Unit[PriorItem]) -> Receipt:
        """Commit the latents of ``unit``'s items; clips that cannot be read or have no negative of a kind are quarantined."""
        started, samples, quarantined = time.perf_counter(), [], []
        for item in unit.items:
            try:
                samples.append(self._sample(item))
            except MediaError as error:
                quarantined.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
            except NoNegativeError as error:
                quarantined.append(QuarantineRow(item.item_id, unit.stage, NO_NEGATIVE, str(error), 1))
        commit_samples(self.store, self.files, unit, samples, quarantined)
        return Receipt(len(samples), len(quarantined), time.perf_counter() - started)

    def _sample(self, item: PriorItem) -> EncodedSample:
        cut = read_prompt_cut(item.prompt, self.settings, item.window)
        donor = None if item.donor is None else read_prompt_donor(item.donor, self.settings)
        made: dict[NegativeKind, list[DecodedClip]] = {kind: [] for kind in KIND_OF.values()}
        for index in range(item.num_negatives):
            for negative in negatives(cut, donor, self.settings.run.seed, index, tuple(made)):
                if isinstance(negative, Absent):
                    raise NoNegativeError(f"{item.prompt.prompt_id}: no {negative.kind} negative: {negative.reason}")
                made[negative.kind].append(negative.clip)
        shape = clip_shape(self.settings)
        size = shape.num_frames, shape.height_px, shape.width_px
        return EncodedSample(item.item_id, item.prompt.text, self._encoded(cut.clip, made), *size)

    def _encoded(self, clip: DecodedClip, made: dict[NegativeKind, list[DecodedClip]]) -> dict[str, LatentArray]:
        """The arrays of a clip and of its negatives, as they are stored."""
        pictures = [negative for kind in NEGATIVE_KINDS for negative in made[KIND_OF[VIDEO, kind]]]
        moments = moments_of(self.codec, [clip, *pictures])
        parts = {VIDEO: _stored(moments.video[0]), AUDIO: _stored(moments.audio[0])}
        if moments.audio_log_variance is not None:
            parts[LOG_VARIANCE] = _stored(moments.audio_log_variance[0])
        for place, kind in enumerate(NEGATIVE_KINDS):
            num = len(made[KIND_OF[VIDEO, kind]])
            parts[negative_part(VIDEO, kind)] = _stored(moments.video[1 + place * num : 1 + (place + 1) * num])
            part = negative_part(AUDIO, kind)
            mean, log_variance = self._sound(made[KIND_OF[AUDIO, kind]])
            parts[part] = _stored(mean)
            if log_variance is not None:
                parts[log_variance_of(part)] = _stored(log_variance)
        return parts

    def _sound(self, clips: Sequence[DecodedClip]) -> tuple[Tensor, Tensor | None]:
        """Mean and log-variance [n, C, L, M] of the sound of clips."""
        if not isinstance(self.codec, PosteriorCodec):
            moments = moments_of(self.codec, clips)
            return moments.audio, moments.audio_log_variance
        means, log_variances = [], []
        for clip in clips:
            assert clip.audio is not None
            mean, log_variance = self.codec.sound_moments(clip.audio)
            means.append(mean)
            log_variances += [] if log_variance is None else [log_variance]
        return torch.stack(means), torch.stack(log_variances) if log_variances else None


def _stored(latents: Tensor) -> LatentArray:
    return half_precision(latents.numpy())
