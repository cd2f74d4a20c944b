"""Training clips and pairs in a latent store, read when they are used; see :mod:`avpref.storage.latents`.

Where the audio codec's posterior is stored as mean and log-variance, audio is sampled here, from noise that depends on seed, clip and
epoch alone: equal in every batch, process and resumed run, and new in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from avpref.datasets.latents import (
    AUDIO,
    DELAYED,
    DELAYED_LOG_VARIANCE,
    LOG_VARIANCE,
    NEGATIVE_KINDS,
    TEXT_STATES,
    VIDEO,
    log_variance_of,
    negative_part,
)
from avpref.errors import InputError
from avpref.identity import derive_seed
from avpref.models.flow import Latents, LatentShapes
from avpref.storage.latents.latent_reader import ClipSize, LatentReader
from avpref.storage.latents.training_set import Kind, TrainingSet, read_training_set
from avpref.trainer.data.buckets import Bucket, Buckets, SampleIndex
from avpref.trainer.data.sample_data import TextRows

ROWS_OF = {"pairs": 2, "clips": 1, "priors": 1}
TEXTS_KEPT = 64
"""Texts whose states stay in memory."""


class StoredSamples:
    """The samples of a sealed training set; ``has_video`` False leaves out their video, as does a set without any.

    Raises InputError where the index lacks an array that a sample needs.
    """

    def __init__(self, data: TrainingSet, posterior_seed: int, *, has_video: bool = True) -> None:
        self.header, self._seed = data.header, posterior_seed
        self._reader = LatentReader(data.index, data.root)
        columns = data.samples.to_pydict()
        self._chosen: list[str] = columns["chosen"]
        self._has_video = has_video and (self._chosen[0], VIDEO) in self._reader
        self._rejected: list[str] = columns["rejected"]
        self._text_ids: list[str] = columns["text_id"]
        self._moves = [torch.tensor(columns[f"moves_{name}"], dtype=torch.bool) for name in ("video", "audio")]
        self._weights = torch.tensor(columns["weight"], dtype=torch.float32)
        self._sizes = [
            ClipSize(*size) for size in zip(*(columns[name] for name in ClipSize.__annotations__), strict=True)
        ]
        self.ids = tuple(columns["sample_id"])
        self._require_arrays()
        self._text = lru_cache(maxsize=TEXTS_KEPT)(self._read_text)

    def buckets(self) -> Buckets:
        """The bucket of every sample, buckets in the order of their sizes."""
        sizes = sorted(set(self._sizes), key=lambda size: (size.num_frames, size.height_px, size.width_px))
        first = {size: row for row, size in reversed(list(enumerate(self._sizes)))}
        kinds = tuple(Bucket(self._shapes(first[size]), size) for size in sizes)
        place = {size: index for index, size in enumerate(sizes)}
        return Buckets(tuple(place[size] for size in self._sizes), kinds, ROWS_OF[self.header.kind])

    def texts(self, rows: Sequence[int]) -> TextRows:
        """See :class:`avpref.trainer.data.sample_data.Samples`."""
        return self._padded([self._text_ids[row] for row in rows])

    def negative(self) -> TextRows | None:
        """See :class:`avpref.trainer.data.sample_data.Samples`."""
        return self._padded([self.header.negative_id]) if self.header.negative_id else None

    def _require_arrays(self) -> None:
        video = [VIDEO] if self._has_video else []
        clips = dict.fromkeys([*self._chosen, *(clip for clip in self._rejected if clip)])
        self._reader.require((clip, part) for clip in clips for part in (*video, AUDIO))
        texts = dict.fromkeys([*self._text_ids, *([self.header.negative_id] if self.header.negative_id else [])])
        self._reader.require((text, TEXT_STATES) for text in texts)
        delayed = dict.fromkeys(self._chosen) if self.header.num_delays else {}
        self._reader.require((clip, DELAYED) for clip in delayed)
        self._reader.require_shards()

    def _shapes(self, row: int) -> LatentShapes:
        clip = self._chosen[row]
        video = cast(tuple[int, int, int, int], self._reader.shape(clip, VIDEO)) if self._has_video else None
        return LatentShapes(video, cast(tuple[int, int, int], self._reader.shape(clip, AUDIO)))

    def _latents(self, clips: Sequence[str], epochs: Sequence[int]) -> Latents:
        video = (
            torch.from_numpy(np.stack([self._reader.read(clip, VIDEO) for clip in clips])) if self._has_video else None
        )
        audio = [self._audio(clip, epoch) for clip, epoch in zip(clips, epochs, strict=True)]
        return Latents(video, torch.stack(audio))

    def _audio(self, clip: str, epoch: int) -> Tensor:
        mean = torch.from_numpy(self._reader.read(clip, AUDIO))
        if (clip, LOG_VARIANCE) not in self._reader:
            return mean
        return self._sampled(mean, torch.from_numpy(self._reader.read(clip, LOG_VARIANCE)), clip, epoch, -1)

    def _sampled(self, mean: Tensor, log_variance: Tensor, clip: str, epoch: int, version: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed("posterior", self._seed, clip, epoch, version))
        return mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)

    def _read_text(self, text_id: str) -> Tensor:
        return torch.from_numpy(self._reader.read(text_id, TEXT_STATES))

    def _padded(self, text_ids: Sequence[str]) -> TextRows:
        states = torch.zeros(len(text_ids), self.header.text_len, self.header.text_dim)
        mask = torch.zeros(len(text_ids), self.header.text_len)
        for row, text_id in enumerate(text_ids):
            text = self._text(text_id)
            states[row, : len(text)], mask[row, : len(text)] = text, 1.0
        return TextRows(states, mask)


class StoredClips(StoredSamples):
    """See :class:`avpref.trainer.data.sample_data.ClipRows`."""

    def clips(self, indices: Sequence[SampleIndex]) -> Latents:
        """See :class:`avpref.trainer.data.sample_data.ClipRows`."""
        return self._latents([self._chosen[index.row] for index in indices], [index.epoch for index in indices])


class StoredPriorClips(StoredClips):
    """See :class:`avpref.trainer.prior.prior_batches.PriorRows`."""

    def negatives(self, indices: Sequence[SampleIndex], kind: str) -> Latents:
        """See :class:`avpref.trainer.prior.prior_batches.PriorRows`: of n negatives of a kind, number epoch mod n."""
        video = [torch.from_numpy(self._negative(index, VIDEO, kind)) for index in indices]
        return Latents(torch.stack(video), torch.stack([self._negative_audio(index, kind) for index in indices]))

    def _negative(self, index: SampleIndex, track: str, kind: str, name: str = "") -> np.ndarray:
        several = self._reader.read(self._chosen[index.row], name or negative_part(track, kind))
        chosen: np.ndarray = several[index.epoch % len(several)]
        return chosen

    def _negative_audio(self, index: SampleIndex, kind: str) -> Tensor:
        clip, part = self._chosen[index.row], negative_part(AUDIO, kind)
        mean = torch.from_numpy(self._negative(index, AUDIO, kind))
        if (clip, log_variance_of(part)) not in self._reader:
            return mean
        log_variance = torch.from_numpy(self._negative(index, AUDIO, kind, log_variance_of(part)))
        return self._sampled(mean, log_variance, f"{clip}/{kind}", index.epoch, -1)

    def _require_arrays(self) -> None:
        super()._require_arrays()
        parts = [negative_part(track, kind) for track in (VIDEO, AUDIO) for kind in NEGATIVE_KINDS]
        self._reader.require((clip, part) for clip in self._chosen for part in parts)


class StoredPairs(StoredSamples):
    """See :class:`avpref.trainer.data.sample_data.PairRows`."""

    @property
    def num_delays(self) -> int:
        """Versions of each chosen clip with delayed audio."""
        return self.header.num_delays

    def sides(self, indices: Sequence[SampleIndex]) -> tuple[Latents, Latents]:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        epochs = [index.epoch for index in indices]
        chosen, rejected = (
            self._latents([clips[index.row] for index in indices], epochs) for clips in (self._chosen, self._rejected)
        )
        return chosen, rejected

    def delayed(self, index: SampleIndex, version: int) -> Tensor:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        clip = self._chosen[index.row]
        mean = torch.from_numpy(self._reader.read(clip, DELAYED)[version])
        if (clip, DELAYED_LOG_VARIANCE) not in self._reader:
            return mean
        log_variance = torch.from_numpy(self._reader.read(clip, DELAYED_LOG_VARIANCE)[version])
        return self._sampled(mean, log_variance, clip, index.epoch, version)

    def moves(self, rows: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        video, audio = self._moves
        return None if bool(video.all()) and bool(audio.all()) else (video[list(rows)], audio[list(rows)])

    def pair_weights(self, rows: Sequence[int]) -> Tensor | None:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        return None if bool((self._weights == 1).all()) else self._weights[list(rows)]


def open_training_set(path: Path, kind: Kind, fingerprint: str) -> TrainingSet:
    """The sealed set at ``path``. Raises InputError as :func:`read_training_set`, and for latents of another ``fingerprint``."""
    data = read_training_set(path, kind)
    if fingerprint and data.header.fingerprint != fingerprint:
        raise InputError(
            f"{path}: latents of fingerprint {data.header.fingerprint}",
            f"fingerprint {fingerprint}: the codec, clip shapes and delays of this configuration",
            f"delete {path} and run: avpref runs resume RUN",
        )
    return data
