"""ImageBind scores: do picture, sound and text belong together? Cosines of one embedding each.

After ``imagebind`` of facebookresearch/ImageBind as the JavisBench evaluation uses it: the mean of fifteen picture views, the mean of
three sound cuts (not made unit length again) and the text's embedding. Weights and original code are CC-BY-NC-SA-4.0: not for commercial
use. The sound is that of the first channel alone; a clip whose first channel is silent is not judged, nor a text that holds one of
the tokenizer's special marks or of which less than a quarter would be read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from avpref.domain import METRIC_BY_NAME, Metric, Terms
from avpref.errors import InputError
from avpref.identity import digest
from avpref.rewards.imagebind.clip_text import CONTEXT, LongPrompts, encode, has_special_ids, in_context
from avpref.rewards.imagebind.imagebind_towers import (
    EVERY_MODALITY,
    FULL,
    TINY,
    UNBUILT,
    ImageBindSizes,
    Modality,
    Towers,
    causal_mask,
)
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
IMAGEBIND_TERMS = Terms("CC-BY-NC-SA-4.0", commercial_use=False)
TINY_WEIGHTS = "random weights"
VIEWS_PER_CLIP = 15
MAX_TEXT_IDS = 4 * CONTEXT
MASK = "modality_preprocessors.text.mask"
COSINE_EPS = 1e-6

TEXT_VIDEO, TEXT_AUDIO, AUDIO_VIDEO = (METRIC_BY_NAME[name] for name in ("text_video", "text_audio", "audio_video"))
IMAGEBIND_METRICS = (TEXT_VIDEO, TEXT_AUDIO, AUDIO_VIDEO)


@dataclass(frozen=True, eq=False)
class ImageBindInputs:
    """Ids of the text (77 of them), views of the picture and cuts of the sound; None where no metric needs them."""

    text_ids: tuple[int, ...] | None
    picture: Views | None
    sound: Views | None


@dataclass(frozen=True, eq=False)
class ClipEmbeddings:
    """Embeddings [E] of a clip and its text, float32 on the CPU; None where there was nothing to embed.

    Their lengths are those of ImageBind (text 14.3 with the published weights; video at most 1, audio at most 20, as means of views).
    """

    text: Tensor | None
    video: Tensor | None
    audio: Tensor | None


class ImageBindScorer(ModelScorer[ImageBindInputs]):
    """The metrics text_video, text_audio and audio_video, all from one pass through each tower."""

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
        self._aside: list[ClipEmbeddings] = []
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
        """See the base; the sound is judged by its first channel, the one that is heard."""
        return super().prepare(first_channel(clip))

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> ImageBindInputs:
        """What the towers need for ``metrics``, each made once. ``clip.clip.audio`` is what is heard.

        Raises NotScorable for a picture with less than one frame in 2 s.
        """
        asked = set(metrics)
        ids = in_context(encode(clip.text), self.long_prompts) if asked & self.text_metrics else None
        picture = sound = None
        if asked & {TEXT_VIDEO.name, AUDIO_VIDEO.name}:
            assert clip.clip.frames is not None
            picture = picture_views(clip.clip.frames, clip.clip.fps_hz)
        if asked & {TEXT_AUDIO.name, AUDIO_VIDEO.name}:
            assert clip.clip.audio is not None
            heard = sound_16k(clip.clip.audio, clip.clip.sample_rate_hz)
            sound = sound_views(heard, sound_cuts(len(heard)))
        return ImageBindInputs(ids, picture, sound)

    def embed(self, batch: Sequence[ImageBindInputs]) -> list[ClipEmbeddings]:
        """Embeddings of prepared clips: what the scores are cosines of."""
        with torch.inference_mode():
            texts = iter(self._texts([each.text_ids for each in batch if each.text_ids is not None]))
            pictures = iter(self._views(self.towers.embed_images, [each.picture for each in batch]))
            sounds = iter(self._views(self.towers.embed_sounds, [each.sound for each in batch]))
            return [
                ClipEmbeddings(
                    None if each.text_ids is None else next(texts),
                    None if each.picture is None else next(pictures),
                    None if each.sound is None else next(sounds),
                )
                for each in batch
            ]

    def measure(self, batch: Sequence[ImageBindInputs]) -> list[Mapping[str, float]]:
        """See the base."""
        found = self.embed(batch)
        if self.stores_embeddings:
            self._aside += found
        return [cosines(each) for each in found]

    def pop_embeddings(self) -> list[Mapping[str, Tensor]]:
        """Embeddings named ``text``, ``video`` and ``audio``, where the scorer was asked to store them."""
        found, self._aside = self._aside, []
        return [{name: each for name, each in vars(one).items() if each is not None} for one in found]

    def _texts(self, ids: Sequence[tuple[int, ...]]) -> Sequence[Tensor]:
        if not ids:
            return []
        return self.towers.embed_texts(torch.tensor(ids, device=self._placement.device)).cpu().unbind()

    def _views(self, embed: Callable[[Tensor], Tensor], views: Sequence[Views | None]) -> list[Tensor]:
        found = [each for each in views if each is not None]
        if not found:
            return []
        at_once = VIEWS_PER_CLIP * len(views)
        return [each.mean(dim=0) for each in embed_views(embed, found, self._placement.device, at_once)]

    def skip_reason(self, clip: ScorableClip, metric: Metric, found: Sequence[Flag]) -> str:
        """See the base; texts that the tokenizer cannot take whole or plain are not judged."""
        why = super().skip_reason(clip, metric, found)
        return why if why or metric.name not in self.text_metrics else text_reason(clip.text)


def cosines(embeddings: ClipEmbeddings) -> Mapping[str, float]:
    """The metrics whose two embeddings are there, in [-1, 1]; scales do not matter."""
    text, video, audio = embeddings.text, embeddings.video, embeddings.audio
    pairs = {TEXT_VIDEO: (text, video), TEXT_AUDIO: (text, audio), AUDIO_VIDEO: (audio, video)}
    return {
        metric.name: F.cosine_similarity(first.double(), second.double(), dim=0, eps=COSINE_EPS).item()
        for metric, (first, second) in pairs.items()
        if first is not None and second is not None
    }


def text_reason(text: str) -> str:
    """Why ``text`` cannot be compared with; empty where it can."""
    ids = encode(text)
    if len(ids) == 2:
        return NO_TEXT
    if has_special_ids(ids):
        return "the text holds a special mark of the tokenizer"
    if len(ids) > MAX_TEXT_IDS:
        return f"the text has {len(ids)} tokens, of which {CONTEXT} are read; at most {MAX_TEXT_IDS} are taken"
    return ""


def first_channel(clip: ScorableClip) -> ScorableClip:
    """``clip`` with the first channel as its sound, which is all that ImageBind hears."""
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

    ``weights_id`` is what the fingerprint knows of the file, such as its SHA-256. Raises InputError: see :func:`read_towers`.
    """
    towers = read_towers(path, placement)
    return ImageBindScorer(
        towers, placement, weights_id, long_prompts=long_prompts, stores_embeddings=stores_embeddings
    )


def tiny_imagebind(placement: Placement = CPU, stores_embeddings: bool = False) -> ImageBindScorer:
    """A scorer of the smallest towers with random weights: its numbers mean nothing."""
    towers = random_towers(TINY, placement)
    return ImageBindScorer(towers, placement, TINY_WEIGHTS, MEANINGLESS, stores_embeddings=stores_embeddings)


def read_towers(path: Path, placement: Placement, modalities: Sequence[Modality] = EVERY_MODALITY) -> Towers:
    """The towers of ``modalities`` at full size from one file; tensors of the other modalities are left alone.

    Raises InputError for a file that cannot be read, for tensors that are missing, unexpected or of another shape, and for a text
    mask that is not causal.
    """
    towers = on_meta(lambda: Towers(FULL, modalities))
    tensors = {name: tensor for name, tensor in read_weights(path).items() if isinstance(tensor, Tensor)}
    if Modality.TEXT in modalities and MASK in tensors and not torch.equal(tensors[MASK].float(), causal_mask()):
        raise InputError(
            f"{path}: {MASK} is not causal", "-inf above the diagonal and 0 elsewhere", "avpref weights verify"
        )
    fit(towers, tensors, path, ignored=_ignored(modalities), device=placement.device, dtype=placement.dtype)
    return towers


def random_towers(
    sizes: ImageBindSizes, placement: Placement, modalities: Sequence[Modality] = EVERY_MODALITY
) -> Towers:
    """Towers with weights that depend on their names alone."""
    towers = on_meta(lambda: Towers(sizes, modalities))
    fill(towers)
    if Modality.TEXT in modalities:
        towers.load_state_dict({MASK: causal_mask()}, strict=False, assign=True)
    return towers.to(placement.device, placement.dtype)


def _ignored(modalities: Sequence[Modality]) -> list[str]:
    parts = ("preprocessors", "trunks", "heads", "postprocessors")
    absent = [str(modality) for modality in EVERY_MODALITY if modality not in modalities]
    return [f"modality_{part}.{name}." for part in parts for name in (*UNBUILT, *absent)]
