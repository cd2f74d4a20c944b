"""VideoAlign (VideoReward): visual quality, motion quality and text alignment of a clip.

The published model (weights Apache-2.0, code MIT) is a Qwen2-VL that reads a rubric and gives a number at each of three tokens. The
caption follows the first two of them, so visual and motion quality do not depend on it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from avpref.domain import METRIC_BY_NAME, NO_SOUND, PICTURE, PROMPT_AND_PICTURE, Dimension, Metric, Terms
from avpref.errors import InputError
from avpref.identity import digest
from avpref.rewards.model_scorer import CPU, ModelScorer, NotScorable, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS
from avpref.rewards.videoalign.videoalign_frames import FrameRules, num_tokens, patch_grid, patches, sample_frames
from avpref.rewards.videoalign.videoalign_network import (
    FULL,
    TINY,
    VideoAlignNetwork,
    VideoAlignSizes,
    load_network,
    random_network,
)
from avpref.rewards.videoalign.videoalign_settings import PUBLISHED, PublishedSettings, read_settings
from avpref.rewards.videoalign.videoalign_text import (
    FETCH,
    PUBLISHED_RENDERINGS,
    VideoAlignText,
    read_text,
    reward_positions,
    tiny_text,
)
from avpref.rewards.weights.catalogue import VIDEOALIGN
from avpref.storage.weight_files import read_weights

VERSION = 1
PADDING_ID = 0

RAW_METRICS = (
    METRIC_BY_NAME["visual_quality"],
    METRIC_BY_NAME["motion_quality"],
    Metric("text_alignment", "scorer units", True, Dimension.VIDEO, PROMPT_AND_PICTURE),
)
NORMALISED_METRICS = (
    Metric("videoalign_vq", "standard deviations", True, Dimension.VIDEO, PICTURE),
    Metric("videoalign_mq", "standard deviations", True, Dimension.VIDEO, PICTURE),
    Metric("videoalign_ta", "standard deviations", True, Dimension.VIDEO, PROMPT_AND_PICTURE),
)
"""The three raw metrics, minus the published mean and divided by the published standard deviation."""

VIDEOALIGN_METRICS = (*RAW_METRICS, *NORMALISED_METRICS)

TINY_FRAMES = FrameRules(min_pixels=56 * 56, max_pixels=84 * 84)


@dataclass(frozen=True, eq=False)
class VideoAlignInputs:
    """Sampled and resized frames uint8 [N, h, w, 3], and the token ids int64 [L] of rubric and caption."""

    frames: Tensor
    token_ids: Tensor


class VideoAlignScorer(ModelScorer[VideoAlignInputs]):
    """Fills six metrics per clip: raw and normalised. Those of text alignment are skipped for an empty text."""

    text_metrics = frozenset({RAW_METRICS[2].name, NORMALISED_METRICS[2].name})

    def __init__(
        self,
        network: VideoAlignNetwork,
        text: VideoAlignText,
        settings: PublishedSettings,
        placement: Placement,
        weights_id: str,
        terms: Terms,
    ) -> None:
        """``weights_id`` identifies the weights in the fingerprint: their SHA-256, or the sizes of random ones."""
        self._network, self._text, self._settings = network, text, settings
        super().__init__(placement, terms)
        self._weights_id = weights_id

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Raw and normalised: visual quality, motion quality, text alignment."""
        return VIDEOALIGN_METRICS

    @property
    def fingerprint(self) -> str:
        """Hash of version, weights, rubric, tokenizer, settings and floating-point type."""
        settings = asdict(self._settings)
        dtype = str(self._placement.dtype)
        return digest("videoalign", VERSION, self._weights_id, self._text.identity, settings, dtype)

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> VideoAlignInputs:
        """Sampled and resized frames, and the token ids.

        Raises NotScorable for too few frames, extreme aspect ratios, and more tokens than the model has positions.
        """
        assert clip.clip.frames is not None, "the validity rules did not skip a clip without picture"
        try:
            frames = sample_frames(clip.clip.frames, clip.clip.fps_hz, self._settings.frames)
        except ValueError as error:
            raise NotScorable(str(error)) from error
        token_ids = self._text.token_ids(clip.text, num_tokens(frames))
        max_positions = self._network.sizes.max_positions
        if len(token_ids) > max_positions:
            raise NotScorable(f"{len(token_ids)} tokens of picture and text; the model knows {max_positions} positions")
        return VideoAlignInputs(frames, token_ids)

    def measure(self, batch: Sequence[VideoAlignInputs]) -> list[Mapping[str, float]]:
        """All six numbers of each clip. Token ids are padded on the right; clips may differ in size."""
        device = self._placement.device
        clip_patches = torch.cat([patches(clip.frames.to(device)) for clip in batch])
        grids = torch.tensor([patch_grid(clip.frames) for clip in batch], device=device)
        token_ids = pad_sequence([clip.token_ids for clip in batch], batch_first=True, padding_value=PADDING_ID)
        positions = torch.stack([reward_positions(clip.token_ids, self._text.reward_ids) for clip in batch])
        rewards = self._network(clip_patches, grids, token_ids.to(device), positions.to(device)).double().tolist()
        return [self._named(row) for row in rewards]

    def _named(self, rewards: Sequence[float]) -> dict[str, float]:
        settings = self._settings
        named = {metric.name: reward for metric, reward in zip(RAW_METRICS, rewards, strict=True)}
        columns = zip(NORMALISED_METRICS, rewards, settings.means, settings.deviations, strict=True)
        return named | {metric.name: (reward - mean) / deviation for metric, reward, mean, deviation in columns}


def load_videoalign(
    paths: Mapping[str, Path],
    placement: Placement,
    weights_id: str,
    *,
    sizes: VideoAlignSizes = FULL,
    renderings: Mapping[str, str] = PUBLISHED_RENDERINGS,
) -> VideoAlignScorer:
    """The scorer with the published model; ``paths`` are its files by name.

    The names are ``model.pth``, ``model_config.json``, ``tokenizer.json`` and ``prompt_template.py``. The weights were published
    in bfloat16. Raises InputError for a file that is absent, damaged, or does not match ``sizes`` and ``renderings``.
    """
    settings = read_settings(paths["model_config.json"])
    text = read_text(paths["prompt_template.py"], paths["tokenizer.json"], renderings)
    if text.vocab_size != sizes.vocab_size:
        found = f"{paths['tokenizer.json']} knows {text.vocab_size} tokens"
        raise InputError(found, f"{sizes.vocab_size} tokens", FETCH)
    weights = paths["model.pth"]
    network = load_network(
        read_weights(weights), weights, sizes, text.video_id, settings.adapter, placement.device, placement.dtype
    )
    return VideoAlignScorer(network, text, settings, placement, weights_id, VIDEOALIGN.terms)


def tiny_videoalign(placement: Placement = CPU) -> VideoAlignScorer:
    """The scorer with a small network of random weights over single bytes, for tests and dry runs: its numbers are meaningless."""
    text = tiny_text()
    network = random_network(TINY, text.video_id, placement.device, placement.dtype)
    settings = replace(PUBLISHED, frames=TINY_FRAMES)
    return VideoAlignScorer(
        network, text, settings, placement, f"random weights, {TINY}", replace(MEANINGLESS, sound=NO_SOUND)
    )
