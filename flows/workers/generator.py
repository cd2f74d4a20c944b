"""The parts of the generator that a configuration describes: base model, network files, codec, text encoder and sampler."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from avpref.config.base_settings import BaseSections
from avpref.config.schema import Settings
from avpref.datasets.table_terms import BaseTerms
from avpref.devices import resolved
from avpref.domain import OWN_TERMS
from avpref.flows.workers.prompt_sources import clip_shape
from avpref.media.geometry import ClipShape
from avpref.models.bases.base_model import Base, Sampler
from avpref.models.bases.base_opening import open_base
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.codecs.codec import Codec
from avpref.models.text import TextBatch, TextEncoder

TEXTS = "texts"
"""Folder in the folder of runs where text states are kept."""


def base_of(settings: Settings) -> Base:
    """The configuration's base model; nothing is loaded. Raises ConfigError where it cannot be used."""
    return open_base(settings.base_sections)


def stated_terms(settings: Settings) -> BaseTerms | None:
    """The terms that tables made from clips of the base model state; None for the product's own toy network."""
    base = base_of(settings)
    if not base.version and base.terms == OWN_TERMS:
        return None
    return BaseTerms(settings.base.model, base.terms.licence, base.terms.commercial_use)


def open_codec(settings: Settings, device: str = "cpu") -> Codec:
    """The configuration's codec for the run's clips.

    Raises ConfigError where it cannot make clips of their shape, InputError where weights are absent.
    """
    return base_of(settings).codec(clip_shape(settings), device)


def open_text_encoder(settings: Settings, runs: Path, device: str = "cpu") -> TextEncoder:
    """The configuration's text encoder; states are kept in ``runs`` unless the configuration names another folder.

    Weights are loaded with the first text whose states are not stored yet. Raises InputError where they are absent.
    """
    return base_of(settings).text_encoder(runs / TEXTS, device)


def codec_identity(settings: Settings) -> str:
    """Hash of everything that the codec's output depends on, weights included. Raises as :func:`open_codec`."""
    return _codec_identity(settings.base_sections, clip_shape(settings))


def text_identity(settings: Settings) -> str:
    """Hash of everything that the text encoder's output depends on, weights included. Raises as :func:`open_text_encoder`."""
    return _text_identity(settings.base_sections)


@lru_cache
def _codec_identity(sections: BaseSections, shape: ClipShape) -> str:
    return open_base(sections).codec_fingerprint(shape)


@lru_cache
def _text_identity(sections: BaseSections) -> str:
    return open_base(sections).text_fingerprint()


def device_of(settings: Settings) -> str:
    """The device that the executor names; ``auto`` is CUDA where a GPU is available."""
    return resolved(settings.executor.device)


@dataclass(frozen=True)
class NetworkFiles:
    """A checkpoint file and, optionally, an adapter folder in PEFT format; ``hash`` covers the content of both."""

    checkpoint: Path
    hash: str
    adapter: Path | None = None
    adapter_hash: str = ""


def load_for_sampling(files: NetworkFiles, settings: Settings) -> VelocityNetwork:
    """The network in evaluation mode, the adapter merged into its weights. Raises InputError for unreadable or unsuitable files."""
    network = base_of(settings).load(files.checkpoint)
    if files.adapter is not None:
        from avpref.trainer.adapter_files import fold_adapter  # importing PEFT takes seconds

        fold_adapter(network, files.adapter)
    return network.eval()


def open_sampler(settings: Settings) -> Sampler:
    """The configuration's sampler of the run's clips. Raises ConfigError where no shift can be derived from their length."""
    return base_of(settings).sampler(settings.sampling, clip_shape(settings))


def negative_text(encoder: TextEncoder, settings: Settings) -> TextBatch:
    """The encoded negative prompt, one row. Guidance points away from it, and caption dropout replaces texts by it."""
    return encoder.encode([settings.sampling.negative_prompt])
