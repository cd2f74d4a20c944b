"""AVHScore and JavisScore: similarity of each frame to the sound, of the whole clip and of windows of 2 s.

After the JavisBench evaluation (Liu et al., "JavisDiT", 2025): every frame is embedded as a still picture by ImageBind. AVHScore is
the mean cosine of the frames with the sound of the whole clip. JavisScore compares the frames of a window with the window's sound:
the mean of the lowest 40 % of the cosines, so that a short mismatch lowers it, averaged over windows.

One defect is not reproduced: the original subtracts the mean of each cut of the sound in place, so later cuts that overlap it contain
a small step. Here every cut is taken from the original sound, which changes scores by about 1e-5.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.domain import FIRST_CHANNEL, PICTURE_AND_SOUND, Dimension, Metric, Terms
from avpref.identity import digest
from avpref.media.spectra import RATE_HZ
from avpref.models.features.clip_pictures import normalised_pixels
from avpref.models.imagebind.imagebind_towers import PAIR, SIDE, TINY, Modality, Towers
from avpref.rewards.imagebind.imagebind import (
    COSINE_EPS,
    IMAGEBIND_TERMS,
    TINY_WEIGHTS,
    first_channel,
    random_towers,
    read_towers,
)
from avpref.rewards.imagebind.imagebind_views import (
    NUM_SOUND_CLIPS,
    IndexRange,
    Views,
    embed_views,
    sound_16k,
    sound_cuts,
    sound_views,
)
from avpref.rewards.model_scorer import CPU, ModelScorer, NotScorable, Placement, Prepared
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS

VERSION = 1
WINDOW_S, OVERLAP_S = 2.0, 1.5
LOWEST_SHARE = 0.4
IMAGES_PER_CLIP = 32
"""Maximum number of pictures in a batch of the network, per clip of the scorer's batch."""
USED_MODALITIES = (Modality.VISION, Modality.AUDIO)

JAVIS_SCORE = Metric("javis_score", "cosine", True, Dimension.AV, PICTURE_AND_SOUND)
AVH_SCORE = Metric("avh_score", "cosine", True, Dimension.AV, PICTURE_AND_SOUND)
JAVIS_METRICS = (JAVIS_SCORE, AVH_SCORE)


@dataclass(frozen=True)
class PairedWindows:
    """Windows of equal length, as many of the picture (frames) as of the sound (samples at 16 kHz)."""

    frames: tuple[IndexRange, ...]
    samples: tuple[IndexRange, ...]

    @property
    def num_frames(self) -> int:
        """Number of frames of each window."""
        return self.frames[0][1] - self.frames[0][0]


@dataclass(frozen=True, eq=False)
class JavisInputs:
    """``pictures``: uint8 [3, 224, 224], one per frame; ``sound``: three cuts of the whole sound, then three of each window."""

    pictures: Views
    sound: Views
    windows: PairedWindows


@dataclass(frozen=True, eq=False)
class FrameEmbeddings:
    """Embeddings of a clip: ``frames`` [T, E], the whole ``sound`` [E], ``window_sounds`` [W, E]; float32 on the CPU."""

    frames: Tensor
    sound: Tensor
    window_sounds: Tensor


class JavisScorer(ModelScorer[JavisInputs]):
    """Fills javis_score and avh_score. ``towers`` must have those of vision and audio, and may have that of text."""

    def __init__(self, towers: Towers, placement: Placement, weights_id: str, terms: Terms = IMAGEBIND_TERMS) -> None:
        self.towers = towers
        super().__init__(placement, terms)
        self._weights_id = weights_id

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return JAVIS_METRICS

    @property
    def fingerprint(self) -> str:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        settings = (WINDOW_S, OVERLAP_S, LOWEST_SHARE)
        return digest("javis score", VERSION, self._weights_id, str(self._placement.dtype), settings)

    def prepare(self, clip: ScorableClip) -> Prepared[JavisInputs]:
        """See the base class; the validity rules are applied to the first channel, the one that is used."""
        return super().prepare(first_channel(clip))

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> JavisInputs:
        """Every frame resized and cropped, and the cuts of the sound ``clip.clip.audio``.

        Raises NotScorable if the lowest 40 % of a window's frames are less than one frame.
        """
        frames, audio = clip.clip.frames, clip.clip.audio
        assert frames is not None and audio is not None
        if not num_lowest(min(len(frames), int(WINDOW_S * clip.clip.fps_hz))):
            raise NotScorable(f"too few frames in a window of {WINDOW_S:g} s to keep the lowest {LOWEST_SHARE:.0%}")
        sound = sound_16k(audio, clip.clip.sample_rate_hz)
        windows = paired_windows(len(frames), clip.clip.fps_hz, len(sound))
        pictures = Views(tuple(resize_and_crop(frame) for frame in frames), tuple(range(len(frames))))
        return JavisInputs(pictures, sound_views(sound, _cuts(len(sound), windows)), windows)

    def embed(self, batch: Sequence[JavisInputs]) -> list[FrameEmbeddings]:
        """Embeddings of prepared clips; the scores are their cosines."""
        device, at_once = self._placement.device, IMAGES_PER_CLIP * len(batch)
        with torch.inference_mode():
            pictures = embed_views(self.embed_stills, [clip.pictures for clip in batch], device, at_once)
            cuts = embed_views(self.towers.embed_sounds, [clip.sound for clip in batch], device, at_once)
            sounds = [clip.unflatten(0, (-1, NUM_SOUND_CLIPS)).mean(dim=1) for clip in cuts]
            return [
                FrameEmbeddings(frames, sound[0], sound[1:]) for frames, sound in zip(pictures, sounds, strict=True)
            ]

    def measure(self, batch: Sequence[JavisInputs]) -> list[Mapping[str, float]]:
        """See the base class."""
        pairs = zip(batch, self.embed(batch), strict=True)
        return [javis_metrics(embeddings, clip.windows) for clip, embeddings in pairs]

    def embed_stills(self, pictures: Tensor) -> Tensor:
        """Pictures uint8 [N, 3, 224, 224] → embeddings [N, E]; the two frames of a pair are the same picture."""
        pixels = normalised_pixels(pictures.float() / 255.0)
        return self.towers.embed_images(pixels[:, :, None].expand(-1, -1, PAIR, -1, -1))


def javis_metrics(embeddings: FrameEmbeddings, windows: PairedWindows) -> Mapping[str, float]:
    """Both scores by metric name, from embeddings of any norm."""
    similarities = window_similarities(embeddings, windows)
    return {
        JAVIS_SCORE.name: window_scores(similarities, num_lowest(windows.num_frames)).mean().item(),
        AVH_SCORE.name: _cosine(embeddings.frames, embeddings.sound).mean().item(),
    }


def window_similarities(embeddings: FrameEmbeddings, windows: PairedWindows) -> Tensor:
    """Cosines [W, N] of the frames of each window with the window's sound, float64."""
    pairs = zip(windows.frames, embeddings.window_sounds, strict=True)
    return torch.stack([_cosine(embeddings.frames[start:end], sound) for (start, end), sound in pairs])


def window_scores(similarities: Tensor, num_kept: int) -> Tensor:
    """Cosines [W, N] → the mean [W] of the ``num_kept`` lowest of each row; NaN if ``num_kept`` is 0."""
    return similarities.sort(dim=-1).values[..., :num_kept].mean(dim=-1)


def num_lowest(num_frames: int, share: float = LOWEST_SHARE) -> int:
    """Number of a window's frames that count: ``share`` of them, rounded down."""
    return int(share * num_frames)


def paired_windows(
    num_frames: int, fps_hz: float, num_samples: int, window_s: float = WINDOW_S, overlap_s: float = OVERLAP_S
) -> PairedWindows:
    """Windows of picture and sound (16 kHz), the n-th of one paired with the n-th of the other; unpaired windows are dropped.

    If picture or sound is not longer than one window, there is a single window with all of both.
    """
    frame_size, sample_size = int(window_s * fps_hz), int(window_s * RATE_HZ)
    if num_frames <= frame_size or num_samples <= sample_size:
        return PairedWindows(((0, num_frames),), ((0, num_samples),))
    frames = window_ranges(num_frames, frame_size, frame_size - int(overlap_s * fps_hz))
    samples = window_ranges(num_samples, sample_size, sample_size - int(overlap_s * RATE_HZ))
    count = min(len(frames), len(samples))
    return PairedWindows(frames[:count], samples[:count])


def window_ranges(total: int, size: int, step: int) -> tuple[IndexRange, ...]:
    """Ranges of ``size`` every ``step`` that cover ``total`` > ``size``; the last one is moved back to end at ``total``."""
    assert step > 0, f"windows need a positive step, found {step}"
    count = 1 + math.ceil((total - size) / step)
    starts = [min(index * step, total - size) for index in range(count)]
    return tuple((start, start + size) for start in starts)


def resize_and_crop(frame: np.ndarray) -> Tensor:
    """Frame uint8 [H, W, 3] → [3, 224, 224]: Pillow's bicubic resize to short side 224 (long side rounded down), centre crop."""
    from PIL import Image

    height, width = frame.shape[:2]
    short = min(height, width)
    size = (int(SIDE * width / short), int(SIDE * height / short))
    resized = np.array(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    top, left = round((size[1] - SIDE) / 2), round((size[0] - SIDE) / 2)
    return torch.from_numpy(resized[top : top + SIDE, left : left + SIDE]).permute(2, 0, 1).contiguous()


def load_javis_score(path: Path, placement: Placement, weights_id: str) -> JavisScorer:
    """The scorer with the vision and audio towers of the published ``imagebind_huge.pth``. Raises InputError as :func:`read_towers`."""
    return JavisScorer(read_towers(path, placement, USED_MODALITIES), placement, weights_id)


def tiny_javis_score(placement: Placement = CPU) -> JavisScorer:
    """The scorer with small towers of random weights, for tests and dry runs: its numbers are meaningless."""
    return JavisScorer(
        random_towers(TINY, placement, USED_MODALITIES),
        placement,
        TINY_WEIGHTS,
        replace(MEANINGLESS, sound=FIRST_CHANNEL),
    )


def _cuts(num_samples: int, windows: PairedWindows) -> list[IndexRange]:
    """Three cuts of the whole sound, then three of each window; those of a window of 2 s are equal."""
    ranges = ((0, num_samples), *windows.samples)
    return [(start + first, start + last) for start, end in ranges for first, last in _cuts_within(end - start)]


def _cuts_within(length: int) -> list[IndexRange]:
    return [(first, min(last, length)) for first, last in sound_cuts(length)]


def _cosine(frames: Tensor, sound: Tensor) -> Tensor:
    """[N, E] and [E] → [N], in float64."""
    return F.cosine_similarity(frames.double(), sound.double()[None], dim=-1, eps=COSINE_EPS)
