"""Counter-based training noise: all random values of a sample depend only on (run seed, sample id, epoch).

Timestep, noise, caption dropout and rule-made rejected audio of a sample are therefore the same in every batch, order, rank and
world size, and a resumed run needs no random state. Chosen and rejected clips of a pair share all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from avpref.errors import ConfigError
from avpref.identity import derive_seed
from avpref.models.conditioning import LatentTimes
from avpref.models.embeddings import TIMESTEP_SCALE
from avpref.models.flow import (
    Latents,
    LatentShapes,
    interpolate,
    logit_normal,
    shift_timesteps,
    velocity_target,
)
from avpref.models.stretched_times import draw_stretched_time
from avpref.trainer.data.buckets import Buckets, SampleIndex, Schedule
from avpref.trainer.data.conditions import NO_DRAWS, ConditionDraws, LatentMasks, with_known
from avpref.trainer.data.sample_data import ClipRows, PairRows, Samples
from avpref.trainer.losses import Moves


@dataclass(frozen=True)
class NoiseConfig:
    """Distribution of training noise: seed, logit-normal timesteps with a shift, and the probabilities of two changes.

    ``caption_dropout`` is the probability that the negative text replaces the caption, ``desync_share`` the one that the chosen clip
    with shifted audio replaces the rejected clip. With ``independent`` audio has a timestep of its own. With ``rounded`` the network
    sees timesteps as the released trainer passes them: bfloat16 on the scale of 0 to 1000, while x_t has the exact t.
    ``desync_epochs`` E > 0 is a curriculum: in epoch e only the first ceil(K (e + 1) / E) of K shifted versions are drawn.
    ``audio_shift`` and ``stretched`` are those of :class:`avpref.models.bases.base_model.TimestepLaw`.
    """

    seed: int
    shift: float
    loc: float = 0.0
    spread: float = 1.0
    caption_dropout: float = 0.0
    desync_share: float = 0.0
    independent: bool = False
    rounded: bool = False
    desync_epochs: int = 0
    audio_shift: float | None = None
    stretched: bool = False

    def num_drawn(self, num_versions: int, epoch: int) -> int:
        """How many of ``num_versions`` shifted versions are drawn from in ``epoch``."""
        if not self.desync_epochs:
            return num_versions
        return min(num_versions, -(-num_versions * (epoch + 1) // self.desync_epochs))


class SampleNoise(NamedTuple):
    """Random values of one sample: timestep t [] in [0, 1], caption dropout, index of the shifted audio, noise x1.

    ``desync`` is None for a sample that keeps its own rejected clip; ``noise`` has the shapes of the sample's latents. ``t_audio`` []
    is the audio's own timestep, None where it shares ``t``.
    """

    t: Tensor
    drops_caption: bool
    desync: int | None
    noise: Latents
    t_audio: Tensor | None = None


class FlowBatch(NamedTuple):
    """Rows ready for the network: noisy latents x_t, velocity targets, t [B], text [B, L, D], text_mask [B, L].

    A batch of n pairs has 2n rows: all chosen, then all rejected, with equal t, noise and text. ``indices`` has n entries, and so
    have ``moves`` and ``weights`` (of the pairs), which are None where every pair moves all modalities and where all count alike.
    ``t_audio`` [B] is None where audio shares ``t``; ``rounded`` says how the network sees timesteps (:class:`NoiseConfig`).
    ``masks`` say which latents are known and clean, ``dropped`` [B, n] which conditions the network drops; None: none.
    """

    noisy: Latents
    target: Latents
    t: Tensor
    text: Tensor
    text_mask: Tensor
    indices: tuple[SampleIndex, ...]
    moves: Moves | None = None
    t_audio: Tensor | None = None
    weights: Tensor | None = None
    rounded: bool = False
    masks: LatentMasks | None = None
    dropped: Tensor | None = None

    @property
    def times(self) -> Tensor | LatentTimes:
        """Timesteps as the network takes them: [B], or one per latent frame where audio has its own or latents are known."""
        t = _as_released(self.t) if self.rounded else self.t
        if self.t_audio is None and self.masks is None:
            return t
        t_audio = _as_released(self.audio_times) if self.rounded else self.audio_times
        video, audio = self.noisy
        times = LatentTimes(
            None if video is None else t[:, None].expand(-1, video.shape[2]),
            None if audio is None else t_audio[:, None].expand(-1, audio.shape[2]),
        )
        if self.masks is None or times.video is None or times.audio is None:
            return times
        return LatentTimes(times.video * self.masks.video, times.audio * self.masks.audio)

    @property
    def audio_times(self) -> Tensor:
        """Timesteps of the audio, [B]."""
        return self.t if self.t_audio is None else self.t_audio

    def rows(self, part: slice) -> FlowBatch:
        """The rows ``part`` alone, without what belongs to pairs."""
        noisy, target = (
            Latents(*(None if x is None else x[part] for x in latents)) for latents in (self.noisy, self.target)
        )
        t_audio = None if self.t_audio is None else self.t_audio[part]
        text, mask = self.text[part], self.text_mask[part]
        return FlowBatch(noisy, target, self.t[part], text, mask, (), None, t_audio, None, self.rounded)

    @property
    def num_rows(self) -> int:
        """Rows of the batch."""
        return len(self.t)

    @property
    def latents(self) -> Latents:
        """The noisy latents."""
        return self.noisy

    def pinned(self) -> FlowBatch:
        """The same batch, with latents and text in pinned memory."""
        noisy, target = (
            Latents(*(None if x is None else x.pin_memory() for x in latents)) for latents in (self.noisy, self.target)
        )
        return self._replace(noisy=noisy, target=target, text=self.text.pin_memory())

    def to(self, device: torch.device) -> FlowBatch:
        """The same batch on ``device``."""
        noisy, target = (
            Latents(*(None if x is None else x.to(device) for x in latents)) for latents in (self.noisy, self.target)
        )
        return self._replace(
            noisy=noisy,
            target=target,
            t=self.t.to(device),
            text=self.text.to(device),
            text_mask=self.text_mask.to(device),
            moves=None if self.moves is None else Moves(*(moved.to(device) for moved in self.moves)),
            t_audio=None if self.t_audio is None else self.t_audio.to(device),
            weights=None if self.weights is None else self.weights.to(device),
            masks=None if self.masks is None else self.masks.to(device),
            dropped=None if self.dropped is None else self.dropped.to(device),
        )


def _as_released(t: Tensor) -> Tensor:
    """Timesteps [B] rounded to bfloat16 on the scale of 0 to 1000."""
    return (t * TIMESTEP_SCALE).bfloat16().float() / TIMESTEP_SCALE


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
    if config.stretched:
        t = _stretched_timestep(config, config.shift, derive_seed("timestep", config.seed, sample_id, epoch))
    caption, desync, delay = torch.rand(3, generator=generator).tolist()
    num_drawn = config.num_drawn(num_delays, epoch)
    delay_index = int(delay * num_drawn) if num_delays and desync < config.desync_share else None
    noise = (None if shape is None else torch.randn(shape, generator=generator) for shape in shapes)
    t_audio = _audio_timestep(config, sample_id, epoch) if config.independent else None
    return SampleNoise(t, caption < config.caption_dropout, delay_index, Latents(*noise), t_audio)


def _audio_timestep(config: NoiseConfig, sample_id: str, epoch: int) -> Tensor:
    """The audio's own timestep []; a generator of its own leaves all other draws as they are."""
    seed = derive_seed("audio timestep", config.seed, sample_id, epoch)
    shift = config.shift if config.audio_shift is None else config.audio_shift
    if config.stretched:
        return _stretched_timestep(config, shift, seed)
    generator = torch.Generator().manual_seed(seed)
    return shift_timesteps(logit_normal((), generator, config.loc, config.spread), shift)


def _stretched_timestep(config: NoiseConfig, shift: float, seed: int) -> Tensor:
    """A timestep [] of the stretched law, from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    return draw_stretched_time(generator, config.loc + math.log(shift), config.spread)


def _stack_times(noises: list[SampleNoise]) -> tuple[Tensor, Tensor | None]:
    """Timesteps [n] of the samples, and those of their audio where it has its own."""
    own = [sample.t_audio for sample in noises if sample.t_audio is not None]
    return torch.stack([sample.t for sample in noises]), torch.stack(own) if own else None


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
    """The noise of each sample: of equal shapes in a bucket, and with the bucket's distribution."""

    def __init__(self, buckets: Buckets, configs: Sequence[NoiseConfig]) -> None:
        self._of_row, self._shapes = buckets.of_row, [bucket.shapes for bucket in buckets.kinds]
        self._configs = configs

    def draw(self, ids: Sequence[str], indices: Sequence[SampleIndex], num_delays: int = 0) -> list[SampleNoise]:
        """Random values of samples of one bucket."""
        buckets = {self._of_row[index.row] for index in indices}
        assert len(buckets) == 1, "a batch holds samples of one bucket"
        config, shapes = self._configs[min(buckets)], self._shapes[min(buckets)]
        return [draw_sample_noise(config, ids[index.row], index.epoch, shapes, num_delays) for index in indices]


class ClipSource:
    """Batches of training clips. Raises ConfigError for caption dropout without a negative text in the data.

    ``of_buckets`` has the noise of each bucket, which differs in its timesteps alone; none: ``config`` for all. ``draws`` are the
    conditions that are drawn in every step.
    """

    def __init__(
        self,
        clips: ClipRows,
        config: NoiseConfig,
        schedule: Schedule | None = None,
        of_buckets: Sequence[NoiseConfig] = (),
        draws: ConditionDraws = NO_DRAWS,
    ) -> None:
        _require_negative_text(config, clips)
        self.clips, self.config, self._draws = clips, config, draws
        self.ids, self.schedule = clips.ids, schedule or Schedule(clips.buckets())
        self._noise = _BucketNoise(self.schedule.buckets, of_buckets or [config] * len(self.schedule.buckets.kinds))

    def batch(self, indices: Sequence[SampleIndex]) -> FlowBatch:
        """Noisy rows and targets of ``indices``, of one bucket; row i depends on indices[i] alone."""
        rows = [index.row for index in indices]
        noises = self._noise.draw(self.ids, indices)
        noise, (t, t_audio) = _stack_noise(noises), _stack_times(noises)
        times = (t, t if t_audio is None else t_audio)
        clean, draws = self.clips.clips(indices), self._draws
        flows = [_flow(data, x1, time) for data, x1, time in zip(clean, noise, times, strict=True)]
        noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
        text, mask = _texts(self.clips, rows, noises)
        batch = FlowBatch(noisy, target, t, text, mask, tuple(indices), t_audio=t_audio, rounded=self.config.rounded)
        known = draws.masks(self.ids, indices, noisy)
        return batch._replace(
            noisy=noisy if known is None else with_known(noisy, clean, known),
            text=draws.texts(self.ids, indices, text),
            masks=known,
            dropped=draws.dropped(self.ids, indices),
        )


class PairSource:
    """Batches of preference pairs. Raises ConfigError as :class:`ClipSource`, and for ``desync_share`` without shifted audio."""

    def __init__(
        self,
        pairs: PairRows,
        config: NoiseConfig,
        schedule: Schedule | None = None,
        of_buckets: Sequence[NoiseConfig] = (),
    ) -> None:
        _require_negative_text(config, pairs)
        if config.desync_share and not pairs.num_delays:
            found = f"desync_share {config.desync_share} and no desync_audio in the data file"
            raise ConfigError(
                found, "shifted versions of the chosen audio", "set dpo.desync_share: 0, or write desync_audio"
            )
        self.pairs, self.config = pairs, config
        self.ids, self.schedule = pairs.ids, schedule or Schedule(pairs.buckets())
        self._noise = _BucketNoise(self.schedule.buckets, of_buckets or [config] * len(self.schedule.buckets.kinds))

    def batch(self, indices: Sequence[SampleIndex]) -> FlowBatch:
        """Noisy rows and targets of ``indices``, of one bucket, chosen then rejected; rows i and n + i depend on indices[i] alone."""
        rows = [index.row for index in indices]
        noises = self._noise.draw(self.ids, indices, self.pairs.num_delays)
        noise, (t, t_audio) = _stack_noise(noises), _stack_times(noises)
        t, t_audio = t.repeat(2), None if t_audio is None else t_audio.repeat(2)
        times = (t, t if t_audio is None else t_audio)
        flows = [
            _flow(data, None if x1 is None else x1.repeat(2, *[1] * (x1.ndim - 1)), time)
            for data, x1, time in zip(self._clips(indices, noises), noise, times, strict=True)
        ]
        noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
        text, mask = (part.repeat(2, *[1] * (part.ndim - 1)) for part in _texts(self.pairs, rows, noises))
        moves, weights = self._moves(rows, noises), self.pairs.pair_weights(rows)
        return FlowBatch(noisy, target, t, text, mask, tuple(indices), moves, t_audio, weights, self.config.rounded)

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
