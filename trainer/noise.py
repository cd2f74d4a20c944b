"""Counter-based training noise: all random values of a sample depend only on (run seed, sample id, epoch).

Timestep, noise, caption dropout and rule-made rejected audio of a sample are therefore the same in every batch, order, rank and
world size, and a resumed run needs no random state. Chosen and rejected clips of a pair share all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from avpref.config.data_settings import ClipSettings
from avpref.config.training_settings import TimestepSettings
from avpref.errors import ConfigError
from avpref.identity import derive_seed
from avpref.models.flow import (
    Latents,
    LatentShapes,
    interpolate,
    logit_normal,
    shift_ratio,
    shift_timesteps,
    velocity_target,
)
from avpref.storage.latents.latent_reader import ClipSize
from avpref.trainer.data.buckets import Buckets, SampleIndex, Schedule, epoch_order
from avpref.trainer.data.sample_data import ClipRows, PairRows, Samples
from avpref.trainer.losses import Moves


@dataclass(frozen=True)
class NoiseConfig:
    """Distribution of training noise: seed, logit-normal timesteps with a shift, and the probabilities of two changes.

    ``caption_dropout`` is the probability that the negative text replaces the caption, ``desync_share`` the one that the chosen clip
    with shifted audio replaces the rejected clip.
    """

    seed: int
    shift: float
    loc: float = 0.0
    spread: float = 1.0
    caption_dropout: float = 0.0
    desync_share: float = 0.0


class SampleNoise(NamedTuple):
    """Random values of one sample: timestep t [] in [0, 1], caption dropout, index of the shifted audio, noise x1.

    ``desync`` is None for a sample that keeps its own rejected clip; ``noise`` has the shapes of the sample's latents.
    """

    t: Tensor
    drops_caption: bool
    desync: int | None
    noise: Latents


class FlowBatch(NamedTuple):
    """Rows ready for the network: noisy latents x_t, velocity targets, t [B], text [B, L, D], text_mask [B, L].

    A batch of n pairs has 2n rows: all chosen, then all rejected, with equal t, noise and text. ``indices`` has n entries, and so
    has ``moves``, which is None where every pair moves all modalities.
    """

    noisy: Latents
    target: Latents
    t: Tensor
    text: Tensor
    text_mask: Tensor
    indices: tuple[SampleIndex, ...]
    moves: Moves | None = None

    def to(self, device: torch.device) -> FlowBatch:
        """The same batch on ``device``."""
        noisy = Latents(*(None if x is None else x.to(device) for x in self.noisy))
        target = Latents(*(None if x is None else x.to(device) for x in self.target))
        moves = None if self.moves is None else Moves(*(moved.to(device) for moved in self.moves))
        return FlowBatch(
            noisy, target, self.t.to(device), self.text.to(device), self.text_mask.to(device), self.indices, moves
        )


def resolve_shift(timesteps: TimestepSettings, clip: ClipSettings | ClipSize) -> float:
    """The fixed shift of ``timesteps``, or the ratio from the clip's size and length. Raises ConfigError for clips of 2 to 16 frames."""
    if timesteps.shift is not None:
        return timesteps.shift
    try:
        return shift_ratio(clip.height_px, clip.width_px, clip.num_frames, timesteps.scale)
    except ValueError as error:
        raise ConfigError(str(error), "a shift ratio above 0", "set timesteps.shift, for example 3.0") from error


def indices_of_step(seed: int, step: int, batch_size: int, num_samples: int) -> list[SampleIndex]:
    """Samples of the global batch of ``step`` (0-based): the epochs' orders, concatenated and cut into batches.

    Invariant: over any ``num_samples`` consecutive positions that start an epoch, each sample occurs once.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [
        SampleIndex(epoch_order(seed, p // num_samples, num_samples)[p % num_samples], p // num_samples)
        for p in positions
    ]


def shard_for_rank(indices: Sequence[SampleIndex], rank: int, world: int) -> list[SampleIndex]:
    """The contiguous part of a global batch for ``rank`` of ``world``; the sizes of the parts differ by one at most."""
    return list(indices[rank * len(indices) // world : (rank + 1) * len(indices) // world])


def draw_sample_noise(
    config: NoiseConfig, sample_id: str, epoch: int, shapes: LatentShapes, num_delays: int = 0
) -> SampleNoise:
    """Random values of a sample in ``epoch``, for latents of ``shapes`` and ``num_delays`` versions of shifted audio.

    Invariant: equal arguments give equal values; ``caption_dropout`` and ``desync_share`` do not change timestep and noise.
    """
    generator = torch.Generator().manual_seed(derive_seed("draw", config.seed, sample_id, epoch))
    t = shift_timesteps(logit_normal((), generator, config.loc, config.spread), config.shift)
    caption, desync, delay = torch.rand(3, generator=generator).tolist()
    delay_index = int(delay * num_delays) if num_delays and desync < config.desync_share else None
    noise = (None if shape is None else torch.randn(shape, generator=generator) for shape in shapes)
    return SampleNoise(t, caption < config.caption_dropout, delay_index, Latents(*noise))


def _texts(data: Samples, rows: Sequence[int], noises: Sequence[SampleNoise]) -> tuple[Tensor, Tensor]:
    states, mask = data.texts(rows)
    for position, noise in enumerate(noises):
        if noise.drops_caption:
            negative = data.negative()
            assert negative is not None
            states[position], mask[position] = negative.states[0], negative.mask[0]
    return states, mask


def _stack_noise(noises: list[SampleNoise]) -> Latents:
    video = [sample.noise.video for sample in noises if sample.noise.video is not None]
    audio = [sample.noise.audio for sample in noises if sample.noise.audio is not None]
    return Latents(torch.stack(video) if video else None, torch.stack(audio) if audio else None)


def _flow(x0: Tensor | None, x1: Tensor | None, t: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if x0 is None or x1 is None:
        return None, None
    return interpolate(x0, x1, t), velocity_target(x0, x1)


def _require_negative_text(config: NoiseConfig, data: Samples) -> None:
    if config.caption_dropout and data.negative() is None:
        found = f"caption_dropout {config.caption_dropout} and no negative_text in the data file"
        raise ConfigError(found, "an encoded negative prompt", "set caption_dropout: 0, or write negative_text")


class _BucketNoise:
    """The noise of each sample: of equal shapes in a bucket, and with the bucket's shift."""

    def __init__(self, buckets: Buckets, config: NoiseConfig, shifts: Sequence[float]) -> None:
        self._of_row, self._shapes = buckets.of_row, [bucket.shapes for bucket in buckets.kinds]
        self._configs = [replace(config, shift=shift) for shift in shifts] or [config] * len(buckets.kinds)

    def draw(self, ids: Sequence[str], indices: Sequence[SampleIndex], num_delays: int = 0) -> list[SampleNoise]:
        """Random values of samples of one bucket."""
        buckets = {self._of_row[index.row] for index in indices}
        assert len(buckets) == 1, "a batch holds samples of one bucket"
        config, shapes = self._configs[min(buckets)], self._shapes[min(buckets)]
        return [draw_sample_noise(config, ids[index.row], index.epoch, shapes, num_delays) for index in indices]


class ClipSource:
    """Batches of training clips. Raises ConfigError for caption dropout without a negative text in the data.

    ``shifts`` has the timestep shift of each bucket; none: that of ``config`` for all.
    """

    def __init__(
        self, clips: ClipRows, config: NoiseConfig, schedule: Schedule | None = None, shifts: Sequence[float] = ()
    ) -> None:
        _require_negative_text(config, clips)
        self.clips, self.config = clips, config
        self.ids, self.schedule = clips.ids, schedule or Schedule(clips.buckets())
        self._noise = _BucketNoise(self.schedule.buckets, config, shifts)

    def batch(self, indices: Sequence[SampleIndex]) -> FlowBatch:
        """Noisy rows and targets of ``indices``, of one bucket; row i depends on indices[i] alone."""
        rows = [index.row for index in indices]
        noises = self._noise.draw(self.ids, indices)
        noise, t = _stack_noise(noises), torch.stack([sample.t for sample in noises])
        flows = [_flow(data, x1, t) for data, x1 in zip(self.clips.clips(indices), noise, strict=True)]
        noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
        return FlowBatch(noisy, target, t, *_texts(self.clips, rows, noises), tuple(indices))


class PairSource:
    """Batches of preference pairs. Raises ConfigError as :class:`ClipSource`, and for ``desync_share`` without shifted audio."""

    def __init__(
        self, pairs: PairRows, config: NoiseConfig, schedule: Schedule | None = None, shifts: Sequence[float] = ()
    ) -> None:
        _require_negative_text(config, pairs)
        if config.desync_share and not pairs.num_delays:
            found = f"desync_share {config.desync_share} and no desync_audio in the data file"
            raise ConfigError(
                found, "shifted versions of the chosen audio", "set dpo.desync_share: 0, or write desync_audio"
            )
        self.pairs, self.config = pairs, config
        self.ids, self.schedule = pairs.ids, schedule or Schedule(pairs.buckets())
        self._noise = _BucketNoise(self.schedule.buckets, config, shifts)

    def batch(self, indices: Sequence[SampleIndex]) -> FlowBatch:
        """Noisy rows and targets of ``indices``, of one bucket, chosen then rejected; rows i and n + i depend on indices[i] alone."""
        rows = [index.row for index in indices]
        noises = self._noise.draw(self.ids, indices, self.pairs.num_delays)
        noise, t = _stack_noise(noises), torch.stack([sample.t for sample in noises]).repeat(2)
        flows = [
            _flow(data, None if x1 is None else x1.repeat(2, *[1] * (x1.ndim - 1)), t)
            for data, x1 in zip(self._clips(indices, noises), noise, strict=True)
        ]
        noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
        text, mask = _texts(self.pairs, rows, noises)
        moves = self._moves(rows, noises)
        return FlowBatch(noisy, target, t, text.repeat(2, 1, 1), mask.repeat(2, 1), tuple(indices), moves)

    def _moves(self, rows: list[int], noises: list[SampleNoise]) -> Moves | None:
        """The modalities that each pair moves, bool [n]. A rule-made rejected clip is about sync: its pair moves both."""
        moves = self.pairs.moves(rows)
        if moves is None:
            return None
        is_rule_made = torch.tensor([noise.desync is not None for noise in noises])
        return Moves(moves[0] | is_rule_made, moves[1] | is_rule_made)

    def _clips(self, indices: Sequence[SampleIndex], noises: Sequence[SampleNoise]) -> Latents:
        """Clean latents [2n, ...]: all chosen, then all rejected or made by rule from the chosen ones."""
        chosen, rejected = self.pairs.sides(indices)
        for position, (index, noise) in enumerate(zip(indices, noises, strict=True)):
            if noise.desync is None:
                continue
            if chosen.video is not None and rejected.video is not None:
                rejected.video[position] = chosen.video[position]
            if rejected.audio is not None:
                rejected.audio[position] = self.pairs.delayed(index, noise.desync)
        sides = zip(chosen, rejected, strict=True)
        return Latents(*(None if own is None or other is None else torch.cat([own, other]) for own, other in sides))
