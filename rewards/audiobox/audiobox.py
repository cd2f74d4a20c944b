"""AudioBox-Aesthetics: predicted human ratings of a sound, from 1 to 10 on four axes (A. Tjandra et al., 2025; weights CC-BY-4.0).

Sound at 16 kHz is split into windows of 10 s, each padded with zeros to 10 s; a clip's number is the mean over its windows,
weighted by their lengths before padding. The padding changes the numbers (it enters a normalisation over the window) and is part
of the published model, so a clip of 4 s costs as much as one of 10 s. ``audio_quality`` is the mean of the four axes as in
JavisBench, production complexity included; each axis is also a metric.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.domain import CHANNEL_MEAN, METRIC_BY_NAME, SOUND, Dimension, Metric, Terms
from avpref.errors import InputError
from avpref.identity import digest
from avpref.media.spectra import RATE_HZ, resample
from avpref.rewards.audiobox.audiobox_network import AXES, FULL, TINY, AudioBoxNetwork, AudioBoxSizes, HeadLayout
from avpref.rewards.model_scorer import CPU, ModelScorer, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS, fill
from avpref.storage.weight_files import fit, on_meta, read_weights

VERSION = 1
WINDOW = 10 * RATE_HZ
UNIT = "1-10"
AUDIOBOX_TERMS = Terms("CC-BY-4.0", commercial_use=True, sound=CHANNEL_MEAN)
AXIS_METRICS = tuple(Metric(f"audiobox_{axis.lower()}", UNIT, True, Dimension.AUDIO, SOUND) for axis in AXES)
AUDIOBOX_METRICS = (*AXIS_METRICS, replace(METRIC_BY_NAME["audio_quality"], unit=UNIT))
UNUSED = ("wavlm_model.mask_emb",)
"""Tensors of the published weights that only training uses."""


@dataclass(frozen=True)
class AxisScale:
    """Mean and standard deviation of the labels of an axis: the network's output x means the rating x · std + mean."""

    mean: float
    std: float


class AudioBoxScorer(ModelScorer[Tensor]):
    """Fills :data:`AUDIOBOX_METRICS`. Its input is the clip's sound [S] at 16 kHz, mono."""

    def __init__(
        self,
        network: AudioBoxNetwork,
        scales: Sequence[AxisScale],
        placement: Placement,
        *,
        weights_id: str,
        terms: Terms = AUDIOBOX_TERMS,
    ) -> None:
        """``network`` is on the device of ``placement``; ``scales`` are in the order of :data:`AXES`."""
        super().__init__(placement, terms)
        self._network, self._scales, self._weights_id = network, tuple(scales), weights_id

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The four axes, then their mean."""
        return AUDIOBOX_METRICS

    @property
    def fingerprint(self) -> str:
        """Hash of version, weights, sizes, label scales, floating-point type and validity rules."""
        settings = (repr(self._network.sizes), repr(self._scales), str(self._placement.dtype), repr(self.rules))
        return digest("audiobox", VERSION, self._weights_id, *settings)

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> Tensor:
        """The mean of the clip's channels [S] at 16 kHz, float32, resampled after averaging; the published order gives the same."""
        sound = clip.clip.channel_mean
        assert sound is not None
        return resample(torch.from_numpy(sound.astype(np.float32)), clip.clip.sample_rate_hz, RATE_HZ)

    def measure(self, batch: Sequence[Tensor]) -> list[Mapping[str, float]]:
        """See the base class. A batch of the network has at most as many windows as ``batch`` has clips, however long they are."""
        clip_windows = [sound.split(WINDOW) for sound in batch]
        windows = [window for split in clip_windows for window in split]
        parts = [windows[start : start + len(batch)] for start in range(0, len(windows), len(batch))]
        ratings = torch.cat([self._ratings(part) for part in parts]).split([len(split) for split in clip_windows])
        return [_mean_ratings(split, rating) for split, rating in zip(clip_windows, ratings, strict=True)]

    def _ratings(self, windows: Sequence[Tensor]) -> Tensor:
        """Ratings [N, 4] of N windows in float64 on the CPU, on the scale of the labels."""
        device, dtype = self._placement.device, self._placement.dtype
        padded = torch.stack([F.pad(window, (0, WINDOW - len(window))) for window in windows])
        lengths = torch.tensor([len(window) for window in windows], device=device)
        raw = self._network(padded.to(device, dtype), lengths).double().cpu()
        mean, std = torch.tensor([(scale.mean, scale.std) for scale in self._scales], dtype=torch.float64).T
        return raw * std + mean


def _mean_ratings(windows: Sequence[Tensor], ratings: Tensor) -> Mapping[str, float]:
    """Ratings [N, 4] of a clip's windows → its numbers by metric: means weighted by the lengths of the windows."""
    lengths = torch.tensor([len(window) for window in windows], dtype=torch.float64)
    axes = [float(value) for value in lengths @ ratings / lengths.sum()]
    values = {metric.name: value for metric, value in zip(AXIS_METRICS, axes, strict=True)}
    return {**values, "audio_quality": math.fsum(axes) / len(axes)}


def load_audiobox(
    path: Path, placement: Placement, weights_id: str, sizes: AudioBoxSizes = FULL, *, config: Path | None = None
) -> AudioBoxScorer:
    """The scorer with the published weights: ``model.safetensors`` (or its folder) with ``config.json``, or ``checkpoint.pt``.

    ``config`` is the path of the configuration if it is not beside the weights; a checkpoint contains its own. Depth and norms
    of the heads are read from the tensors' names, the label scales from the configuration; ``sizes`` are all other sizes.
    ``weights_id`` identifies the file in the fingerprint. Raises InputError for files that are absent, truncated, of another
    model, or without label scales.
    """
    is_checkpoint = path.suffix in (".pt", ".pth")
    published = _read_checkpoint(path) if is_checkpoint else _read_hub_files(path, config)
    sizes = replace(sizes, head=_head_layout(published.tensors, sizes.head))
    network = on_meta(lambda: AudioBoxNetwork(sizes))
    fit(network, published.tensors, path, ignored=UNUSED, device=placement.device, dtype=placement.dtype)
    _require_settings(published, sizes)
    return AudioBoxScorer(network, [_scale(published, axis) for axis in AXES], placement, weights_id=weights_id)


def tiny_audiobox(placement: Placement = CPU) -> AudioBoxScorer:
    """The scorer with a small network of random weights, for tests and dry runs: its numbers are meaningless."""
    network = on_meta(lambda: AudioBoxNetwork(TINY))
    fill(network, device=placement.device)
    scales = [AxisScale(5.0, 1.0)] * len(AXES)
    return AudioBoxScorer(
        network.to(placement.dtype),
        scales,
        placement,
        weights_id="random weights",
        terms=replace(MEANINGLESS, sound=CHANNEL_MEAN),
    )


@dataclass(frozen=True, eq=False)
class _PublishedFile:
    """The content of the published files; ``origin`` is the file of ``settings`` and ``transform``."""

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    transform: object
    origin: Path


def _read_hub_files(path: Path, config: Path | None) -> _PublishedFile:
    path = path / "model.safetensors" if path.is_dir() else path
    tensors, config = read_weights(path), config or path.with_name("config.json")
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unusable(
            config, f"cannot be read: {error}", "the JSON file that is published beside the weights"
        ) from error
    if not isinstance(settings, Mapping):
        raise _unusable(config, f"holds a {type(settings).__name__}", "a JSON object")
    return _PublishedFile(tensors, settings, settings.get("target_transform"), config)


def _read_checkpoint(path: Path) -> _PublishedFile:
    checkpoint = read_weights(path)
    tensors, settings = (checkpoint.get(key) for key in ("state_dict", "model_cfg"))
    if not isinstance(tensors, Mapping) or not isinstance(settings, Mapping):
        keys = ", ".join(sorted(map(str, checkpoint))[:3])
        raise _unusable(path, f"holds {keys}, ...", "a checkpoint: state_dict, model_cfg and target_transform")
    named = {str(name).removeprefix("model."): tensor for name, tensor in tensors.items()}
    non_tensors = [name for name, tensor in named.items() if not isinstance(tensor, Tensor)]
    if non_tensors:
        raise _unusable(
            path, f"holds more than tensors: {', '.join(non_tensors[:3])}", "a state_dict of tensors by name"
        )
    return _PublishedFile(named, settings, checkpoint.get("target_transform"), path)


def _head_layout(tensors: Mapping[str, Tensor], default: HeadLayout) -> HeadLayout:
    """The layout of the heads, by the ranks of the weights of all axes together; a tensor that an axis lacks is then reported
    as missing.
    """
    pattern = re.compile(rf"proj_layer\.(?:{'|'.join(AXES)})\.(\d+)\.weight")
    ranks = {int(match[1]): tensor.ndim for name, tensor in tensors.items() if (match := pattern.fullmatch(name))}
    linears, norms = (tuple(sorted(index for index in ranks if ranks[index] == rank)) for rank in (2, 1))
    return HeadLayout(linears, norms) if 0 in linears else default


def _require_settings(published: _PublishedFile, sizes: AudioBoxSizes) -> None:
    """Raises InputError for a configuration that this network does not implement; absent keys are not checked."""
    expected = {
        "proj_num_layer": len(sizes.head.linears),
        "proj_ln": bool(sizes.head.norms),
        "proj_act_fn": "gelu",
        "nth_layer": sizes.num_layers + 1,
        "use_weighted_layer_sum": True,
        "normalize_embed": True,
        "output_dim": 1,
    }
    wrong = [key for key, value in expected.items() if published.settings.get(key, value) != value]
    if wrong:
        values = ", ".join(f"{key} = {published.settings[key]!r}" for key in wrong)
        raise _unusable(published.origin, f"says {values}", ", ".join(f"{key} = {expected[key]!r}" for key in wrong))


def _scale(published: _PublishedFile, axis: str) -> AxisScale:
    transform = published.transform
    entry = transform.get(axis) if isinstance(transform, Mapping) else None
    mean, std = (entry.get(key) if isinstance(entry, Mapping) else None for key in ("mean", "std"))
    if not _is_number(mean) or not _is_number(std) or std <= 0:
        expected = f"target_transform with a mean and a positive std for each of {', '.join(AXES)}"
        raise _unusable(published.origin, f"says {entry!r} of axis {axis}", expected)
    return AxisScale(float(mean), float(std))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)


def _unusable(path: Path, problem: str, expected: str) -> InputError:
    return InputError(f"{path} {problem}", expected, f"fetch {path.name} of facebook/audiobox-aesthetics again")
