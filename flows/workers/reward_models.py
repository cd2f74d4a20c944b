"""The reward models as scorer sources: weight files, settings and loading. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from avpref.config.scoring_settings import (
    ClapSettings,
    ImageBindSettings,
    ModelSettings,
    ScoringSettings,
    SynchformerSettings,
)
from avpref.devices import resolved
from avpref.domain import Metric, Terms
from avpref.identity import digest
from avpref.rewards.audiobox import audiobox
from avpref.rewards.clap import clap
from avpref.rewards.imagebind import imagebind, javis_score
from avpref.rewards.model_scorer import MODEL_RULES, ModelScorer, Placement
from avpref.rewards.random_weights import MEANINGLESS
from avpref.rewards.synchformer import synchformer
from avpref.rewards.videoalign import videoalign
from avpref.rewards.weights import catalogue as weights

Paths = Mapping[str, Path]
Load = Callable[[Paths, Placement, str, Any], ModelScorer[Any]]

NOT_OF_SCORES = frozenset({"folder", "batch_clips", "store_embeddings"})
"""Settings of a reward model that no score depends on."""


@dataclass(frozen=True)
class RewardModel:
    """A published reward model, or its ``tiny`` preset; see :class:`avpref.flows.workers.scorer_source.ScorerSource`."""

    slug: str
    model: weights.Model
    settings: ModelSettings
    is_tiny: bool
    metrics: tuple[Metric, ...]
    version: int
    load: Load
    tiny: Callable[[Placement, Any], ModelScorer[Any]]
    is_network: bool = True
    uses_device: bool = True
    is_isolated: bool = False
    has_canary: bool = True

    @property
    def name(self) -> str:
        """The model's name; that of the ``tiny`` preset says that its weights are random."""
        return f"{self.slug} (tiny: random weights)" if self.is_tiny else self.slug

    @property
    def terms(self) -> Terms:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        return replace(MEANINGLESS, sound=self.model.terms.sound) if self.is_tiny else self.model.terms

    @property
    def fingerprint(self) -> str:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        weights_identity = "tiny" if self.is_tiny else weights.weights_id(self._paths())
        settings = self.settings.model_dump(mode="json", exclude=set(NOT_OF_SCORES))
        return digest("reward model", self.slug, self.version, weights_identity, settings, repr(MODEL_RULES))

    @property
    def keeps_embeddings(self) -> bool:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        return isinstance(self.settings, ImageBindSettings) and self.settings.store_embeddings

    def open(self, device: str) -> ModelScorer[Any]:
        """See :class:`avpref.flows.workers.scorer_source.ScorerSource`."""
        placement = Placement(resolved(device), getattr(torch, self.settings.dtype), self.settings.batch_clips)
        if self.is_tiny:
            return self.tiny(placement, self.settings)
        paths = self._paths()
        return self.load(paths, placement, weights.weights_id(paths), self.settings)

    def _paths(self) -> Paths:
        return weights.resolve(self.model, Path(self.settings.folder) if self.settings.folder else None)


def reward_model(name: str, scoring: ScoringSettings) -> RewardModel:
    """The reward model that a configuration calls ``name``."""
    is_tiny = scoring.preset == "tiny"
    match name:
        case "audiobox":
            return RewardModel(
                name,
                weights.AUDIOBOX,
                scoring.audiobox,
                is_tiny,
                audiobox.AUDIOBOX_METRICS,
                audiobox.VERSION,
                _load_audiobox,
                _tiny_audiobox,
            )
        case "imagebind":
            return RewardModel(
                name,
                weights.IMAGEBIND,
                scoring.imagebind,
                is_tiny,
                imagebind.IMAGEBIND_METRICS,
                imagebind.VERSION,
                _load_imagebind,
                _tiny_imagebind,
            )
        case "synchformer":
            return RewardModel(
                name,
                weights.SYNCHFORMER,
                scoring.synchformer,
                is_tiny,
                synchformer.SYNCHFORMER_METRICS,
                synchformer.VERSION,
                _load_synchformer,
                _tiny_synchformer,
            )
        case "videoalign":
            return RewardModel(
                name,
                weights.VIDEOALIGN,
                scoring.videoalign,
                is_tiny,
                videoalign.VIDEOALIGN_METRICS,
                videoalign.VERSION,
                _load_videoalign,
                _tiny_videoalign,
            )
        case "javis_score":
            return RewardModel(
                name,
                weights.IMAGEBIND,
                scoring.javis_score,
                is_tiny,
                javis_score.JAVIS_METRICS,
                javis_score.VERSION,
                _load_javis_score,
                _tiny_javis_score,
            )
        case "clap":
            return RewardModel(
                name, weights.CLAP, scoring.clap, is_tiny, clap.CLAP_METRICS, clap.VERSION, _load_clap, _tiny_clap
            )
    raise AssertionError(f"{name} is no reward model")


def _load_audiobox(paths: Paths, placement: Placement, identity: str, settings: Any) -> ModelScorer[Any]:
    return audiobox.load_audiobox(paths["model.safetensors"], placement, identity, config=paths["config.json"])


def _load_imagebind(paths: Paths, placement: Placement, identity: str, settings: ImageBindSettings) -> ModelScorer[Any]:
    (path,) = paths.values()
    prompts = imagebind.LongPrompts(settings.long_prompts)
    return imagebind.load_imagebind(path, placement, identity, prompts, settings.store_embeddings)


def _load_synchformer(
    paths: Paths, placement: Placement, identity: str, settings: SynchformerSettings
) -> ModelScorer[Any]:
    (path,) = paths.values()
    return synchformer.load_synchformer(path, placement, identity, synchformer.WindowLayout(settings.windows))


def _load_clap(paths: Paths, placement: Placement, identity: str, settings: ClapSettings) -> ModelScorer[Any]:
    return clap.load_clap(paths, placement, identity, clap.ShortClips(settings.short_clips))


def _tiny_clap(placement: Placement, settings: ClapSettings) -> ModelScorer[Any]:
    return clap.tiny_clap(placement, clap.ShortClips(settings.short_clips))


def _tiny_audiobox(placement: Placement, settings: Any) -> ModelScorer[Any]:
    return audiobox.tiny_audiobox(placement)


def _tiny_imagebind(placement: Placement, settings: ImageBindSettings) -> ModelScorer[Any]:
    return imagebind.tiny_imagebind(placement, settings.store_embeddings)


def _tiny_synchformer(placement: Placement, settings: SynchformerSettings) -> ModelScorer[Any]:
    return synchformer.tiny_synchformer(placement, synchformer.WindowLayout(settings.windows))


def _tiny_videoalign(placement: Placement, settings: Any) -> ModelScorer[Any]:
    return videoalign.tiny_videoalign(placement)


def _tiny_javis_score(placement: Placement, settings: Any) -> ModelScorer[Any]:
    return javis_score.tiny_javis_score(placement)


def _load_videoalign(paths: Paths, placement: Placement, identity: str, settings: Any) -> ModelScorer[Any]:
    return videoalign.load_videoalign(paths, placement, identity)


def _load_javis_score(paths: Paths, placement: Placement, identity: str, settings: Any) -> ModelScorer[Any]:
    (path,) = paths.values()
    return javis_score.load_javis_score(path, placement, identity)
