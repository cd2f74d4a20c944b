"""CLAP as a scorer: the cosine of text and sound in the space of LAION's contrastive model, with the network of transformers.

The sound is mono at 48 kHz. The network hears 10 s. Shorter sound is filled with zeros, as in the published numbers of JavisBench
(transformers 4.49), or repeated, as transformers 5 does by default; longer sound is cut to its middle 10 s, where the library draws a
crop from the global random state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

from avpref.domain import PROMPT_AND_SOUND, Dimension, Metric, Terms
from avpref.errors import InputError
from avpref.identity import digest
from avpref.media.spectra import resample
from avpref.rewards.model_scorer import CPU, ModelScorer, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import MEANINGLESS, fill
from avpref.storage.weight_files import fit, read_weights

VERSION = 1
RATE_HZ = 48_000
WINDOW_SAMPLES = 10 * RATE_HZ
MAX_TOKENS = 512
"""Longest text of the published tokenizer, start and end included."""
EPSILON = 1e-6
CLAP_METRICS = (Metric("clap", "cosine", True, Dimension.AUDIO, PROMPT_AND_SOUND),)
CLAP_TERMS = Terms("Apache-2.0", commercial_use=True)
EXTRACTOR: Mapping[str, Any] = {
    "feature_size": 64,
    "sampling_rate": RATE_HZ,
    "hop_length": 480,
    "max_length_s": 10,
    "fft_window_size": 1024,
    "frequency_min": 50,
    "frequency_max": 14_000,
    "truncation": "rand_trunc",
}
"""Settings of the front end of ``laion/clap-htsat-unfused``."""
BUFFERS = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")
"""Ends of the names of tensors that follow from the sizes; files of other versions of transformers lack some of them."""
TINY = {
    "text_config": {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 514,
        "projection_dim": 24,
    },
    "audio_config": {
        "patch_embeds_hidden_size": 16,
        "hidden_size": 128,
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [2, 2, 4, 4],
        "enable_fusion": False,
        "projection_dim": 24,
    },
    "projection_dim": 24,
}


class ShortClips(StrEnum):
    """How sound of less than 10 s is filled: with zeros, or by whole repetitions followed by zeros."""

    ZEROS = "zeros"
    REPEAT = "repeat"


Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, eq=False)
class ClapInputs:
    """A clip for the network: log-mel spectrogram [1, 1001, 64] and token ids."""

    mel: Tensor
    tokens: list[int]


class ClapScorer(ModelScorer[ClapInputs]):
    """Fills :data:`CLAP_METRICS`."""

    text_metrics = frozenset({"clap"})

    def __init__(
        self,
        network: ClapModel,
        tokenize: Tokenize,
        placement: Placement,
        short_clips: ShortClips,
        *,
        weights_id: str,
        terms: Terms = CLAP_TERMS,
    ) -> None:
        """``network`` is on the device of ``placement``; ``tokenize`` gives ids with start and end."""
        super().__init__(placement, terms)
        self._network, self._tokenize, self._short_clips, self._weights_id = network, tokenize, short_clips, weights_id
        self._extractor = ClapFeatureExtractor(**EXTRACTOR)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The cosine alone."""
        return CLAP_METRICS

    @property
    def fingerprint(self) -> str:
        """Hash of version, weights, floating-point type, filling of short clips and validity rules."""
        settings = (str(self.placement.dtype), self._short_clips.value, repr(self.rules))
        return digest("clap", VERSION, self._weights_id, *settings)

    def inputs(self, clip: ScorableClip, metrics: Collection[str]) -> ClapInputs:
        """See the base class."""
        assert clip.clip.audio is not None
        sound = resample(torch.from_numpy(clip.clip.audio.astype(np.float32)), clip.clip.sample_rate_hz, RATE_HZ)
        return ClapInputs(self.mel(sound.numpy()), self._tokenize(clip.text))

    def mel(self, sound: np.ndarray) -> Tensor:
        """Log-mel spectrogram [1, 1001, 64] in dB of mono sound [S] at 48 kHz, cut or filled to 10 s."""
        start = max(0, (len(sound) - WINDOW_SAMPLES) // 2)
        sound = sound[start : start + WINDOW_SAMPLES].astype(np.float64)
        padding = "pad" if self._short_clips is ShortClips.ZEROS else "repeatpad"
        extract: Callable[..., Mapping[str, Any]] = self._extractor
        features = extract(sound, sampling_rate=RATE_HZ, padding=padding, return_tensors="np")
        return torch.from_numpy(np.asarray(features["input_features"][0], dtype=np.float32))

    def measure(self, batch: Sequence[ClapInputs]) -> list[Mapping[str, float]]:
        """See the base class. Texts are embedded one by one, so that no number depends on the length of another text."""
        device, dtype = self.placement.device, self.placement.dtype
        sound = self.embed_sound(torch.stack([inputs.mel for inputs in batch]).to(device, dtype))
        texts = torch.cat([self.embed_text(torch.tensor([inputs.tokens], device=device)) for inputs in batch])
        cosines = functional.cosine_similarity(sound.double(), texts.double(), dim=-1, eps=EPSILON)
        return [{"clap": value} for value in cosines.tolist()]

    def embed_sound(self, mel: Tensor) -> Tensor:
        """[B, 1, 1001, 64] → unit vectors [B, D]."""
        embeddings: Tensor = self._network.get_audio_features(input_features=mel).pooler_output
        return embeddings

    def embed_text(self, tokens: Tensor) -> Tensor:
        """Token ids [B, L], without padding → unit vectors [B, D]."""
        mask = torch.ones_like(tokens)
        embeddings: Tensor = self._network.get_text_features(input_ids=tokens, attention_mask=mask).pooler_output
        return embeddings


def build_clap(config: Mapping[str, Any]) -> ClapModel:
    """The network of the sizes in ``config`` (``config.json`` of the published files), with values that loading replaces."""
    with torch.random.fork_rng(devices=[]):
        return ClapModel(ClapConfig(**config)).eval().requires_grad_(False)


def load_tensors(network: ClapModel, tensors: Mapping[str, Tensor], source: Path | str, placement: Placement) -> None:
    """Give ``network`` the published tensors. Raises InputError for missing, unexpected or misshapen ones."""
    computed = {name: tensor for name, tensor in network.state_dict().items() if name.endswith(BUFFERS)}
    fit(network, {**computed, **tensors}, source, device=placement.device, dtype=placement.dtype)


def load_clap(
    paths: Mapping[str, Path], placement: Placement, weights_id: str, short_clips: ShortClips = ShortClips.ZEROS
) -> ClapScorer:
    """The scorer with the published files ``model.safetensors``, ``config.json`` and ``tokenizer.json``. Raises InputError."""
    fix = "avpref weights verify clap"
    try:
        config = json.loads(paths["config.json"].read_text(encoding="utf-8"))
        network = build_clap({key: config[key] for key in ("text_config", "audio_config", "projection_dim")})
        tokenizer: Any = Tokenizer.from_file(str(paths["tokenizer.json"]))
    except Exception as error:  # the tokenizers package raises Exception itself
        found = f"{paths['config.json'].parent}: {type(error).__name__}: {error}"
        raise InputError(found, "config.json and tokenizer.json of laion/clap-htsat-unfused", fix) from error
    load_tensors(network, read_weights(paths["model.safetensors"]), paths["model.safetensors"], placement)
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return ClapScorer(network, lambda text: tokenizer.encode(text).ids, placement, short_clips, weights_id=weights_id)


def tiny_clap(placement: Placement = CPU, short_clips: ShortClips = ShortClips.ZEROS) -> ClapScorer:
    """The scorer with a small network of random weights, for tests and dry runs: its numbers are meaningless."""
    network = build_clap(TINY)
    fill(network, device=placement.device)
    module: Any = network  # transformers wraps the method "to" in a way that loses its type
    moved = module.to(device=torch.device(placement.device), dtype=placement.dtype)
    return ClapScorer(moved, _bytes, placement, short_clips, weights_id="random weights", terms=MEANINGLESS)


def _bytes(text: str) -> list[int]:
    """Ids of the tiny network: the bytes of the text, between start and end."""
    return [0, *(4 + byte for byte in text.encode()[: MAX_TOKENS - 2]), 2]
