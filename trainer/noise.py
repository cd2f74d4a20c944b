"""Counter-based randomness: what is drawn for a sample depends on (run seed, sample id, draw) and on nothing else.

The timestep, the noise, caption dropout and the rule-made rejected clip of draw k of a sample are therefore the same in every
batch, order, rank and world size, and a resumed run needs no random state. Chosen and rejected clips of a pair share all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, cast

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
from avpref.trainer.batches import ClipSet, PairSet


class Pick(NamedTuple):
    """One sample of a batch: its row in the data file and how often it was drawn before (its epoch)."""

    row: int
    draw: int


@dataclass(frozen=True)
class DrawLaw:
    """The distribution of draws: run seed, timesteps (logit-normal, then shift), and shares of the two rule-made changes."""

    seed: int
    shift: float
    loc: float = 0.0
    spread: float = 1.0
    caption_dropout: float = 0.0
    desync_share: float = 0.0


class Draw(NamedTuple):
    """One draw: timestep in [0, 1], whether the caption is dropped, index of the rule-made rejected audio, and noise."""

    t: Tensor
    drops_caption: bool
    desync: int | None
    noise: Latents


class FlowBatch(NamedTuple):
    """Rows ready for the network: noisy latents x_t, velocity targets, t [B], text [B, L, D], text_mask [B, L].

    A batch of n pairs has 2n rows: all chosen, then all rejected, with equal t, noise and text. ``picks`` names the n samples.
    """

    noisy: Latents
    target: Latents
    t: Tensor
    text: Tensor
    text_mask: Tensor
    picks: tuple[Pick, ...]

    def to(self, device: torch.device) -> FlowBatch:
        """The same batch on ``device``."""
        noisy = Latents(*(None if x is None else x.to(device) for x in self.noisy))
        target = Latents(*(None if x is None else x.to(device) for x in self.target))
        return FlowBatch(noisy, target, self.t.to(device), self.text.to(device), self.text_mask.to(device), self.picks)


def resolve_shift(timesteps: TimestepSettings, clip: ClipSettings) -> float:
    """The fixed shift of ``timesteps``, or the ratio of the clip's size and length. Raises ConfigError for clips under 17 frames."""
    if timesteps.shift is not None:
        return timesteps.shift
    try:
        return shift_ratio(clip.height_px, clip.width_px, clip.num_frames, timesteps.scale)
    except ValueError as error:
        raise ConfigError(str(error), "a shift ratio above 0", "set timesteps.shift, for example 3.0") from error


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_samples: int) -> tuple[int, ...]:
    """The order of an epoch: a permutation of 0..num_samples-1 that depends on the seed and the epoch."""
    generator = torch.Generator().manual_seed(derive_seed("order", seed, epoch))
    return tuple(torch.randperm(num_samples, generator=generator).tolist())


def picks_of_step(seed: int, step: int, batch_size: int, num_samples: int) -> list[Pick]:
    """Samples of the global batch of ``step`` (0-based): the epochs' orders laid end to end and cut into batches.

    Invariant: over any ``num_samples`` consecutive positions that start an epoch, each sample occurs once.
    """
    positions = range(step * batch_size, (step + 1) * batch_size)
    return [
        Pick(epoch_order(seed, p // num_samples, num_samples)[p % num_samples], p // num_samples) for p in positions
    ]


def share(picks: Sequence[Pick], rank: int, world: int) -> list[Pick]:
    """The contiguous part of a global batch that ``rank`` of ``world`` works on; parts differ by one row at most."""
    return list(picks[rank * len(picks) // world : (rank + 1) * len(picks) // world])


def draw_sample(law: DrawLaw, sample_id: str, draw: int, shapes: LatentShapes, num_delays: int = 0) -> Draw:
    """Draw number ``draw`` of a sample with latents of ``shapes``; ``num_delays`` rule-made rejected audios to choose from."""
    generator = torch.Generator().manual_seed(derive_seed("draw", law.seed, sample_id, draw))
    t = shift_timesteps(logit_normal((), generator, law.loc, law.spread), law.shift)
    caption, is_desync, which = torch.rand(3, generator=generator).tolist()
    desync = int(which * num_delays) if num_delays and is_desync < law.desync_share else None
    noise = (None if shape is None else torch.randn(shape, generator=generator) for shape in shapes)
    return Draw(t, caption < law.caption_dropout, desync, Latents(*noise))


def shapes_of(video: Tensor | None, audio: Tensor | None) -> LatentShapes:
    """Shapes of one sample's latents from video [N, C, T, h, w] and audio [N, C, L, M]."""
    one_video = None if video is None else cast(tuple[int, int, int, int], tuple(video.shape[1:]))
    one_audio = None if audio is None else cast(tuple[int, int, int], tuple(audio.shape[1:]))
    return LatentShapes(one_video, one_audio)


def _texts(data: ClipSet | PairSet, rows: list[int], draws: list[Draw]) -> tuple[Tensor, Tensor]:
    index = data.text_index[rows]
    text, mask = data.text[index].float(), data.text_mask[index]
    for position, draw in enumerate(draws):
        if draw.drops_caption:
            assert data.negative_text is not None and data.negative_mask is not None
            text[position], mask[position] = data.negative_text[0], data.negative_mask[0]
    return text, mask


def _noise(draws: list[Draw]) -> Latents:
    video = [draw.noise.video for draw in draws if draw.noise.video is not None]
    audio = [draw.noise.audio for draw in draws if draw.noise.audio is not None]
    return Latents(torch.stack(video) if video else None, torch.stack(audio) if audio else None)


def _flow(x0: Tensor | None, x1: Tensor | None, t: Tensor) -> tuple[Tensor | None, Tensor | None]:
    if x0 is None or x1 is None:
        return None, None
    return interpolate(x0, x1, t), velocity_target(x0, x1)


def _check_law(law: DrawLaw, data: ClipSet | PairSet) -> None:
    if law.caption_dropout and data.negative_text is None:
        found = f"caption_dropout {law.caption_dropout} and no negative_text in the data file"
        raise ConfigError(found, "an encoded negative prompt", "set caption_dropout: 0, or write negative_text")


class ClipSource:
    """Batches of a :class:`ClipSet` under a law. Raises ConfigError where captions shall be dropped and no substitute is stored."""

    def __init__(self, clips: ClipSet, law: DrawLaw) -> None:
        _check_law(law, clips)
        self.clips, self.law = clips, law
        self.ids = clips.ids
        self._shapes = shapes_of(clips.video, clips.audio)

    def batch(self, picks: Sequence[Pick]) -> FlowBatch:
        """Noisy rows and targets of ``picks``; row i depends on picks[i] alone."""
        rows = [pick.row for pick in picks]
        draws = [draw_sample(self.law, self.ids[pick.row], pick.draw, self._shapes) for pick in picks]
        noise, t = _noise(draws), torch.stack([draw.t for draw in draws])
        x0 = [None if x is None else x[rows].float() for x in (self.clips.video, self.clips.audio)]
        flows = [_flow(data, x1, t) for data, x1 in zip(x0, noise, strict=True)]
        noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
        return FlowBatch(noisy, target, t, *_texts(self.clips, rows, draws), tuple(picks))


class PairSource:
    """Batches of a :class:`PairSet` under a law. Raises ConfigError as :class:`ClipSource`, and for absent delayed audio."""

    def __init__(self, pairs: PairSet, law: DrawLaw) -> None:
        _check_law(law, pairs)
        if law.desync_share and pairs.desync_audio is None:
            found = f"desync_share {law.desync_share} and no desync_audio in the data file"
            raise ConfigError(
                found, "delayed versions of the chosen audio", "set dpo.desync_share: 0, or write desync_audio"
            )
        self.pairs, self.law = pairs, law
        self.ids = pairs.ids
        self._num_delays = 0 if pairs.desync_audio is None else pairs.desync_audio.shape[1]
        self._shapes = shapes_of(pairs.chosen_video, pairs.chosen_audio)

    def batch(self, picks: Sequence[Pick]) -> FlowBatch:
        """Noisy rows and targets of ``picks``, chosen then rejected; rows i and n + i depend on picks[i] alone."""
        rows = [pick.row for pick in picks]
        draws = [draw_sample(self.law, self.ids[p.row], p.draw, self._shapes, self._num_delays) for p in picks]
        noise, t = _noise(draws), torch.stack([draw.t for draw in draws]).repeat(2)
        flows = [
            _flow(data, None if x1 is None else x1.repeat(2, *[1] * (x1.ndim - 1)), t)
            for data, x1 in zip(self._clips(rows, draws), noise, strict=True)
        ]
        noisy, target = (Latents(*parts) for parts in zip(*flows, strict=True))
        text, mask = _texts(self.pairs, rows, draws)
        return FlowBatch(noisy, target, t, text.repeat(2, 1, 1), mask.repeat(2, 1), tuple(picks))

    def _clips(self, rows: list[int], draws: list[Draw]) -> Iterator[Tensor | None]:
        """Data of both modalities, [2n, ...]; a rule-made rejected clip is the chosen one with delayed audio."""
        pairs = self.pairs
        if pairs.chosen_video is None or pairs.rejected_video is None:
            yield None
        else:
            video = torch.cat([pairs.chosen_video[rows], pairs.rejected_video[rows]]).float()
            for position, draw in enumerate(draws):
                if draw.desync is not None:
                    video[len(rows) + position] = video[position]
            yield video
        if pairs.chosen_audio is None or pairs.rejected_audio is None:
            yield None
            return
        audio = torch.cat([pairs.chosen_audio[rows], pairs.rejected_audio[rows]]).float()
        for position, draw in enumerate(draws):
            if draw.desync is not None and pairs.desync_audio is not None:
                audio[len(rows) + position] = pairs.desync_audio[rows[position], draw.desync]
        yield audio
