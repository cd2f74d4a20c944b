"""DeSync: the offset in seconds between sound and picture, estimated by Synchformer.

A clip is split into overlapping segments of 0.64 s; the features of a segment are computed per stream. A comparator takes exactly
14 segments of both streams, 4.8 s, and gives logits for the offsets −2.0, −1.8, … 2.0 s. ``desync`` is the magnitude of the most
likely offset, as published: one of eleven values. ``desync_expected`` is the mean magnitude under the softmax, which breaks ties;
if all offsets are equally likely, it is 22/21 s. :class:`WindowLayout` says which windows of 14 segments a clip has.

Front end: V. Iashin et al., "Synchformer: Efficient Synchronization from Sparse Cues" (2024); windows: the evaluations of JavisBench and
of MMAudio (av-benchmark). Segments of different clips never share a batch, so a clip's numbers do not depend on other clips.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from avpref.domain import CHANNEL_MEAN, METRIC_BY_NAME, PICTURE_AND_SOUND, Dimension, Metric, Terms
from avpref.errors import InputError
from avpref.identity import digest
from avpref.media.spectra import RATE_HZ, htk_mel_power, resample
from avpref.rewards.frames import indices_at_rate, square_frames
from avpref.rewards.model_scorer import CPU, ModelScorer, NotScorable, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS, fill
from avpref.rewards.synchformer.linear import pack
from avpref.rewards.synchformer.synchformer_towers import FULL, TINY, Synchformer, SynchformerSizes
from avpref.storage.weight_files import fit, on_meta, read_weights

VERSION = 2
FPS_HZ = 25.0
SEGMENT_SAMPLES, STRIDE_SAMPLES = 10_240, 5_120
MEL_FLOOR, MEL_MEAN, MEL_STD = 1e-6, -4.2677393, 4.5689974
OFFSETS_PER_S = 5
SEGMENTS_AT_ONCE = 14
PICTURES_AT_ONCE_ON_CPU = 1
"""One segment of frames uses all of a CPU; more of them do not fit into its caches (benchmarks/synchformer_trunk.md)."""
UNUSED = ("vfeat_extractor.patch_embed.",)
"""Tensors of the published weights that the model does not use: a patch embedding for single frames."""

DESYNC_EXPECTED = Metric("desync_expected", "s", False, Dimension.AV, PICTURE_AND_SOUND)
SYNCHFORMER_METRICS = (METRIC_BY_NAME["desync"], DESYNC_EXPECTED)
SYNCHFORMER_TERMS = Terms(
    "weights without a licence of their own (code: MIT); research only", commercial_use=False, sound=CHANNEL_MEAN
)


class WindowLayout(StrEnum):
    """The windows of 14 segments of a clip; its number is the mean over them."""

    JAVISBENCH = "javisbench"
    """Consecutive windows, the last one aligned to the end; a clip with fewer segments is repeated from its start."""
    AV_BENCHMARK = "av_benchmark"
    """The first 14 and the last 14 segments; a clip with fewer is skipped."""


def segments_of_windows(num_segments: int, windows: WindowLayout, length: int = FULL.comparator_segments) -> Tensor:
    """The segment indices of each window: int64 [W, ``length``]. Raises NotScorable for too few segments."""
    if num_segments < 1 or (windows is WindowLayout.AV_BENCHMARK and num_segments < length):
        needed = 1 if windows is WindowLayout.JAVISBENCH else length
        raise NotScorable(f"too short: {num_segments} segments of both tracks, {needed} needed")
    last = max(num_segments - length, 0)
    match windows:
        case WindowLayout.JAVISBENCH:
            starts = [*range(0, last, length), last]
        case WindowLayout.AV_BENCHMARK:
            starts = [0, last]
    return (torch.tensor(starts)[:, None] + torch.arange(length)) % num_segments


@dataclass(frozen=True)
class DesyncEstimate:
    """Magnitude of the offset between sound and picture in seconds, averaged over a clip's windows."""

    likeliest_s: float
    expected_s: float


def estimate_desync(logits: Tensor) -> DesyncEstimate:
    """The estimate from the logits [W, C] of a clip's windows, C odd: class i is an offset of (i − C // 2) · 0.2 s.

    Among equally likely classes the first is taken as the most likely one.
    """
    num_classes = logits.shape[-1]
    distances_s = (torch.arange(num_classes, device=logits.device) - num_classes // 2).abs().double() / OFFSETS_PER_S
    likeliest_s = distances_s[logits.argmax(dim=-1)]
    expected_s = logits.double().softmax(dim=-1) @ distances_s
    return DesyncEstimate(float(likeliest_s.mean()), float(expected_s.mean()))


def log_mel_segments(audio: Tensor, mel_frames: int = FULL.mel_frames) -> Tensor:
    """Sound [S] at 16 kHz to the network's input: normalised log-mel [segments, 128, ``mel_frames``], computed per segment.

    Each segment is padded by reflection for the spectrogram, whose end is padded with zeros before it is normalised.
    """
    power = htk_mel_power(audio.unfold(0, SEGMENT_SAMPLES, STRIDE_SAMPLES))
    log_mel = (power + MEL_FLOOR).log()
    return (functional.pad(log_mel, (0, mel_frames - log_mel.shape[-1])) - MEL_MEAN) / (2 * MEL_STD)


def video_features(network: Synchformer, frames: Tensor) -> Tensor:
    """Features [segments, steps, D] of frames uint8 [T, side, side, 3] at 25 Hz; frames after the last whole segment are ignored."""
    weight, sizes = network.vproj.weight, network.sizes
    segments = frames.to(weight.device).unfold(0, sizes.segment_frames, sizes.segment_frames // 2).movedim(-1, 1)
    at_once = PICTURES_AT_ONCE_ON_CPU if weight.device.type == "cpu" else SEGMENTS_AT_ONCE
    chunks = (chunk.float().div(255).sub(0.5).div(0.5) for chunk in segments.split(at_once))
    return torch.cat([network.vfeat_extractor(chunk.to(weight.dtype)) for chunk in chunks])


def audio_features(network: Synchformer, mel: Tensor) -> Tensor:
    """Features [segments, steps, D] of log-mel segments [segments, 128, F]; see :func:`log_mel_segments`."""
    weight = network.vproj.weight
    chunks = mel.to(weight.device, weight.dtype).split(SEGMENTS_AT_ONCE)
    return torch.cat([network.afeat_extractor(chunk) for chunk in chunks])


@dataclass(frozen=True, eq=False)
class SegmentedClip:
    """A clip after the front end: frames uint8 [T, side, side, 3], log-mel [segments, 128, F], segment indices of windows [W, 14]."""

    frames: Tensor
    mel: Tensor
    windows: Tensor


class SynchformerScorer(ModelScorer[SegmentedClip]):
    """Fills ``desync`` and ``desync_expected``, in seconds; see :class:`avpref.rewards.protocol.Scorer`.

    Scores clips of at least one segment (0.64 s of both tracks), or 14 segments (4.8 s) under :attr:`WindowLayout.AV_BENCHMARK`.
    The longer track is truncated to the shorter one, and both to whole segments.
    """

    def __init__(
        self, network: Synchformer, windows: WindowLayout, placement: Placement, terms: Terms, weights_id: str
    ) -> None:
        super().__init__(placement, terms)
        self._network, self._windows = network, windows
        parts = (weights_id, str(placement.dtype), windows.value, repr(network.sizes), repr(self.rules))
        self._fingerprint = digest("synchformer", VERSION, *parts)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """``desync`` and ``desync_expected``."""
        return SYNCHFORMER_METRICS

    @property
    def fingerprint(self) -> str:
        """Hash of this file's version, the weights, the floating-point type, sizes, windows and validity rules."""
        return self._fingerprint

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> SegmentedClip:
        """Both tracks at 25 Hz and 16 kHz, truncated to the segments that both have. Raises NotScorable for too few segments."""
        sizes, media = self._network.sizes, clip.clip
        sound = media.channel_mean
        assert media.frames is not None and sound is not None
        frame_indices = indices_at_rate(len(media.frames), media.fps_hz, FPS_HZ)
        audio = resample(torch.tensor(sound), media.sample_rate_hz, RATE_HZ)
        stride = sizes.segment_frames // 2
        count = min(
            _num_segments(len(frame_indices), sizes.segment_frames, stride),
            _num_segments(len(audio), SEGMENT_SAMPLES, STRIDE_SAMPLES),
        )
        windows = segments_of_windows(count, self._windows, sizes.comparator_segments)
        frames = square_frames(media.frames, frame_indices[: stride * (count + 1)], sizes.image_px)
        mel = log_mel_segments(audio[: STRIDE_SAMPLES * (count + 1)], sizes.mel_frames)
        return SegmentedClip(frames, mel, windows)

    def measure(self, batch: Sequence[SegmentedClip]) -> list[Mapping[str, float]]:
        """See the base class. Clips are run one after another: the segments and windows of a clip are a batch."""
        estimates = (estimate_desync(self._logits(clip)) for clip in batch)
        return [{"desync": estimate.likeliest_s, DESYNC_EXPECTED.name: estimate.expected_s} for estimate in estimates]

    def _logits(self, clip: SegmentedClip) -> Tensor:
        """Logits [W, classes] of the clip's windows."""
        video, audio = video_features(self._network, clip.frames), audio_features(self._network, clip.mel)
        windows = clip.windows.to(video.device)
        return self._network(video[windows], audio[windows])


def _num_segments(length: int, segment: int, stride: int) -> int:
    return max(0, (length - segment) // stride + 1)


def load_synchformer(
    path: Path, placement: Placement, weights_id: str, windows: WindowLayout = WindowLayout.JAVISBENCH
) -> SynchformerScorer:
    """The scorer with the published weights ``synchformer_state_dict.pth`` (513 tensors). Raises InputError for other files."""
    network = on_meta(Synchformer)
    tensors = read_weights(path)
    non_tensors = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if non_tensors:
        raise InputError(
            f"{path} holds more than tensors: {', '.join(non_tensors[:3])}",
            "synchformer_state_dict.pth, tensors by name",
            "check the path: avpref weights verify",
        )
    fit(network, tensors, path, ignored=UNUSED, device=placement.device, dtype=placement.dtype)
    pack(network.vfeat_extractor, network.sizes.video_tokens)
    return SynchformerScorer(network, windows, placement, SYNCHFORMER_TERMS, weights_id)


def tiny_synchformer(
    placement: Placement = CPU, windows: WindowLayout = WindowLayout.JAVISBENCH, sizes: SynchformerSizes = TINY
) -> SynchformerScorer:
    """The scorer with a small network of random weights, for tests and dry runs: its numbers are meaningless."""
    network = on_meta(lambda: Synchformer(sizes))
    fill(network, device=placement.device)
    network.to(placement.dtype)
    pack(network.vfeat_extractor, sizes.video_tokens)
    return SynchformerScorer(network, windows, placement, replace(MEANINGLESS, sound=CHANNEL_MEAN), "random")
