"""ImageBind scores: cosines between the embeddings of picture, sound and text.

After ``imagebind`` of facebookresearch/ImageBind as the JavisBench evaluation uses it: the mean of fifteen picture views, the mean of
three sound cuts (not normalised again) and the embedding of the text. Weights and original code are CC-BY-NC-SA-4.0: not for
commercial use. Only the first channel of the sound is used; a clip whose first channel is silent is skipped, and so are texts that
contain a special token of the tokenizer or of which less than a quarter fits into the context.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.domain import FIRST_CHANNEL, METRIC_BY_NAME, Metric, Terms
from avpref.identity import digest
from avpref.models.imagebind.clip_text import CONTEXT, LongPrompts, encode, has_special_ids, in_context
from avpref.models.imagebind.imagebind_towers import (
    EVERY_MODALITY,
    FULL,
    TINY,
    UNBUILT,
    ImageBindSizes,
    Modality,
    Towers,
    causal_mask,
)
from avpref.models.imagebind.text_tower import MASK, require_causal
from avpref.rewards.imagebind.imagebind_views import (
    Views,
    embed_views,
    picture_views,
    sound_16k,
    sound_cuts,
    sound_views,
)
from avpref.rewards.model_scorer import CPU, NO_TEXT, ModelScorer, Placement, Prepared
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS, fill
from avpref.rewards.validity import Flag
from avpref.storage.weight_files import fit, on_meta, read_weights

VERSION = 1
IMAGEBIND_TERMS = Terms("CC-BY-NC-SA-4.0", commercial_use=False, sound=FIRST_CHANNEL)
TINY_WEIGHTS = "random weights"
VIEWS_PER_CLIP = 15
MAX_TEXT_IDS = 4 * CONTEXT
COSINE_EPS = 1e-6

TEXT_VIDEO, TEXT_AUDIO, AUDIO_VIDEO = (METRIC_BY_NAME[name] for name in ("text_video", "text_audio", "audio_video"))
IMAGEBIND_METRICS = (TEXT_VIDEO, TEXT_AUDIO, AUDIO_VIDEO)


@dataclass(frozen=True, eq=False)
class ImageBindInputs:
    """Token ids of the text (77 of them), views of the picture and cuts of the sound; None if no metric needs them."""

    text_ids: tuple[int, ...] | None
    picture: Views | None
    sound: Views | None


@dataclass(frozen=True, eq=False)
class ClipEmbeddings:
    """Embeddings [E] of a clip and its text, float32 on the CPU; None for inputs that were None.

    Their norms are those of ImageBind: with the published weights 14.3 for text, and, as means of views, at most 1 for video and
    at most 20 for audio.
    """

    text: Tensor | None
    video: Tensor | None
    audio: Tensor | None


class ImageBindScorer(ModelScorer[ImageBindInputs]):
    """Fills text_video, text_audio and audio_video, with one pass through each tower."""

    text_metrics = frozenset({TEXT_VIDEO.name, TEXT_AUDIO.name})

    def __init__(
        self,
        towers: Towers,
        placement: Placement,
        weights_id: str,
        terms: Terms = IMAGEBIND_TERMS,
        long_prompts: LongPrompts = LongPrompts.KEEP_END,
        stores_embeddings: bool = False,
    ) -> None:
        self.towers, self.long_prompts = towers, long_prompts
        self.stores_embeddings = stores_embeddings
        self._embeddings: list[ClipEmbeddings] = []
        super().__init__(placement, terms)
        self._weights_id = weights_id

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return IMAGEBIND_METRICS

    @property
    def fingerprint(self) -> str:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return digest("imagebind", VERSION, self._weights_id, str(self._placement.dtype), str(self.long_prompts))

    def prepare(self, clip: ScorableClip) -> Prepared[ImageBindInputs]:
        """See the base class; the validity rules are applied to the first channel, the one that is used."""
        return super().prepare(first_channel(clip))

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> ImageBindInputs:
        """The inputs of the towers that ``metrics`` need, each computed once, with ``clip.clip.audio`` as the sound.

        Raises NotScorable for a picture with less than one frame in 2 s.
        """
        names = set(metrics)
        ids = in_context(encode(clip.text), self.long_prompts) if names & self.text_metrics else None
        picture = sound = None
        if names & {TEXT_VIDEO.name, AUDIO_VIDEO.name}:
            assert clip.clip.frames is not None
            picture = picture_views(clip.clip.frames, clip.clip.fps_hz)
        if names & {TEXT_AUDIO.name, AUDIO_VIDEO.name}:
            assert clip.clip.audio is not None
            samples = sound_16k(clip.clip.audio, clip.clip.sample_rate_hz)
            sound = sound_views(samples, sound_cuts(len(samples)))
        return ImageBindInputs(ids, picture, sound)

    def embed(self, batch: Sequence[ImageBindInputs]) -> list[ClipEmbeddings]:
        """Embeddings of prepared clips; the scores are their cosines."""
        with torch.inference_mode():
            texts = iter(self._embed_texts([clip.text_ids for clip in batch if clip.text_ids is not None]))
            pictures = iter(self._embed_views(self.towers.embed_images, [clip.picture for clip in batch]))
            sounds = iter(self._embed_views(self.towers.embed_sounds, [clip.sound for clip in batch]))
            return [
                ClipEmbeddings(
                    None if clip.text_ids is None else next(texts),
                    None if clip.picture is None else next(pictures),
                    None if clip.sound is None else next(sounds),
                )
                for clip in batch
            ]

    def measure(self, batch: Sequence[ImageBindInputs]) -> list[Mapping[str, float]]:
        """See the base class."""
        embeddings = self.embed(batch)
        if self.stores_embeddings:
            self._embeddings += embeddings
        return [cosines(clip) for clip in embeddings]

    def pop_embeddings(self) -> list[Mapping[str, Tensor]]:
        """See the base class: ``text``, ``video`` and ``audio`` of each clip, or nothing without ``stores_embeddings``."""
        embeddings, self._embeddings = self._embeddings, []
        return [{name: value for name, value in vars(clip).items() if value is not None} for clip in embeddings]

    def _embed_texts(self, ids: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
        if not ids:
            return []
        return self.towers.embed_texts(torch.tensor(ids, device=self._placement.device)).cpu().unbind()

    def _embed_views(self, embed: Callable[[Tensor], Tensor], views: Sequence[Views | None]) -> list[Tensor]:
        """The mean embedding [E] of each of ``views`` that is not None."""
        present = [clip for clip in views if clip is not None]
        if not present:
            return []
        at_once = VIEWS_PER_CLIP * len(views)
        return [views.mean(dim=0) for views in embed_views(embed, present, self._placement.device, at_once)]

    def skip_reason(self, clip: ScorableClip, metric: Metric, flags: Sequence[Flag]) -> str:
        """See the base class; metrics of the text are also skipped for texts that :func:`text_reason` rejects."""
        reason = super().skip_reason(clip, metric, flags)
        return reason if reason or metric.name not in self.text_metrics else text_reason(clip.text)


def cosines(embeddings: ClipEmbeddings) -> Mapping[str, float]:
    """The metrics whose two embeddings are present, in [−1, 1]; the norms of the embeddings do not matter."""
    text, video, audio = embeddings.text, embeddings.video, embeddings.audio
    pairs = {TEXT_VIDEO: (text, video), TEXT_AUDIO: (text, audio), AUDIO_VIDEO: (audio, video)}
    return {
        metric.name: F.cosine_similarity(first.double(), second.double(), dim=0, eps=COSINE_EPS).item()
        for metric, (first, second) in pairs.items()
        if first is not None and second is not None
    }


def text_reason(text: str) -> str:
    """The reason why metrics of the text are skipped for ``text``; empty if they are scored."""
    ids = encode(text)
    if len(ids) == 2:
        return NO_TEXT
    if has_special_ids(ids):
        return "the text holds a special mark of the tokenizer"
    if len(ids) > MAX_TEXT_IDS:
        return f"the text has {len(ids)} tokens, of which {CONTEXT} are read; at most {MAX_TEXT_IDS} are taken"
    return ""


def first_channel(clip: ScorableClip) -> ScorableClip:
    """``clip`` with only the first channel of its sound, the one that ImageBind uses."""
    if clip.clip.channels is None:
        return clip
    return replace(clip, clip=replace(clip.clip, audio=clip.clip.channels[0], channels=None))


def load_imagebind(
    path: Path,
    placement: Placement,
    weights_id: str,
    long_prompts: LongPrompts = LongPrompts.KEEP_END,
    stores_embeddings: bool = False,
) -> ImageBindScorer:
    """The scorer with the published weights ``imagebind_huge.pth`` (or the same tensors as safetensors).

    ``weights_id`` identifies the file in the fingerprint, such as its SHA-256. Raises InputError as :func:`read_towers`.
    """
    towers = read_towers(path, placement)
    return ImageBindScorer(
        towers, placement, weights_id, long_prompts=long_prompts, stores_embeddings=stores_embeddings
    )


def tiny_imagebind(placement: Placement = CPU, stores_embeddings: bool = False) -> ImageBindScorer:
    """The scorer with small towers of random weights, for tests and dry runs: its numbers are meaningless."""
    towers = random_towers(TINY, placement)
    return ImageBindScorer(
        towers, placement, TINY_WEIGHTS, replace(MEANINGLESS, sound=FIRST_CHANNEL), stores_embeddings=stores_embeddings
    )


def read_towers(path: Path, placement: Placement, modalities: Sequence[Modality] = EVERY_MODALITY) -> Towers:
    """The towers of ``modalities`` at full size from the file at ``path``; tensors of other modalities are ignored.

    Raises InputError for a file that cannot be read, for tensors that are missing, unexpected or of another shape, and for a text
    mask that is not causal.
    """
    towers = on_meta(lambda: Towers(FULL, modalities))
    tensors = {name: tensor for name, tensor in read_weights(path).items() if isinstance(tensor, Tensor)}
    if Modality.TEXT in modalities:
        require_causal(tensors, path)
    fit(towers, tensors, path, ignored=_ignored(modalities), device=placement.device, dtype=placement.dtype)
    return towers


def random_towers(
    sizes: ImageBindSizes, placement: Placement, modalities: Sequence[Modality] = EVERY_MODALITY
) -> Towers:
    """Towers with random weights that depend on their names alone."""
    towers = on_meta(lambda: Towers(sizes, modalities))
    fill(towers)
    if Modality.TEXT in modalities:
        towers.load_state_dict({MASK: causal_mask()}, strict=False, assign=True)
    return towers.to(placement.device, placement.dtype)


def _ignored(modalities: Sequence[Modality]) -> list[str]:
    parts = ("preprocessors", "trunks", "heads", "postprocessors")
    absent = [str(modality) for modality in EVERY_MODALITY if modality not in modalities]
    return [f"modality_{part}.{name}." for part in parts for name in (*UNBUILT, *absent)]
