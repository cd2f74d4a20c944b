"""The base model: everything that the loop needs to know of a generator of sounding video.

The loop samples, encodes, trains, evaluates and exports through :class:`Base` alone. A base model of one's own implements the
abstract methods; see docs/write-a-base-model.md. All other methods have a default that suits a network whose weights are one
safetensors file with the names of its own state dict.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch
from pydantic import JsonValue
from torch import Tensor

from avpref.config.network_settings import SamplingSettings
from avpref.config.training_settings import TimestepSettings
from avpref.domain import Terms
from avpref.errors import ConfigError
from avpref.media.geometry import ClipShape
from avpref.models.bases.own_files import copy_adapter, load_own, save_own
from avpref.models.bases.velocity_network import VelocityNetwork
from avpref.models.checkpoints.lora_files import Lora, read_factors
from avpref.models.codecs.codec import Codec
from avpref.models.conditioning import Conditioning
from avpref.models.flow import Latents, LatentShapes
from avpref.models.sampling import EulerSampler, SamplerSettings
from avpref.models.text import TextBatch, TextEncoder
from avpref.storage.file_hashes import sha256_of
from avpref.storage.weight_files import on_meta

UNSTATED_TERMS = Terms("not stated", commercial_use=False)
PEFT_LAYOUT = "peft"
"""The layout of adapters that training writes: ``adapter_config.json`` and ``adapter_model.safetensors``."""


@dataclass(frozen=True)
class TimestepLaw:
    """Distribution of training timesteps: t = r s / (1 + (r - 1) s) with s = sigmoid(``loc`` + ``spread`` · N(0, 1)), r = ``shift``.

    ``audio_shift`` is r of audio with timesteps of its own; None: the same. ``stretched``: the law of
    :mod:`avpref.models.stretched_times` with mu = ``loc`` + ln r.
    """

    shift: float
    loc: float = 0.0
    spread: float = 1.0
    audio_shift: float | None = None
    stretched: bool = False


@dataclass(frozen=True)
class Precisions:
    """Dtypes of text encoder and codec (``float32``, ``bfloat16``); empty for a part without weights, which is cheap everywhere."""

    text: str = ""
    codec: str = ""


@dataclass(frozen=True)
class Work:
    """Work of one row through the network: tokens of a clip, and floating point operations of one forward pass.

    ``attention_flop`` is the share of the products of queries, keys and values; 0 where it is not known.
    """

    num_tokens: int
    forward_flop: float
    attention_flop: float = 0.0


@dataclass(frozen=True)
class GivenWeights:
    """Weights that a configuration names: a file or folder in a layout of the base model, a LoRA to fold in, and the dtype to keep.

    ``lora`` is None for the adapter that the network's folder holds, if any.
    """

    network: str
    lora: Path | None
    dtype: torch.dtype


class Sampler(Protocol):
    """Draws clips from a network, with the guidance of its base model."""

    @property
    def num_passes(self) -> int:
        """Rows that the network computes per clip: steps times the passes of the guidance."""
        ...

    def sample(
        self,
        network: Callable[..., Latents],
        noise: Latents,
        text: TextBatch,
        negative: TextBatch,
        *,
        conditioning: Conditioning | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Latents:
        """Latents, float32, in the shapes of ``noise``: B rows, each a function of its own row of noise and text.

        ``negative`` is one row of text states, from which guidance points away. ``conditioning`` has latents that are known: they
        come out unchanged. ``progress`` is called as progress(steps done, steps).
        """
        ...


class Base(ABC):
    """A base model with its settings. Making an instance is cheap and loads nothing; errors of settings are ConfigErrors.

    A class is made with an instance of its ``Settings`` (a pydantic model or a dataclass), or without arguments if it has none.
    """

    terms: Terms = UNSTATED_TERMS
    """Licence of the weights, shown with adapters and in reports."""
    precisions: Precisions = Precisions()
    adapter_layouts: tuple[str, ...] = (PEFT_LAYOUT,)
    """Layouts in which adapters can be exported."""
    network_layouts: tuple[str, ...] = ()
    """Layouts of other programs in which whole networks can be exported."""
    fingerprint: str = ""
    """A text that changes whenever results change; empty: the version of the class is a hash of the source of its package."""
    not_of_results: frozenset[str] = frozenset()
    """Names of settings that no result depends on, such as paths of weights, whose bytes enter fingerprints anyway."""
    is_stereo: bool = False
    """Whether clips have two channels of sound; otherwise recordings are mixed to mono before they are encoded."""
    num_conditions: int = 1
    """Conditions of the network that SFT drops independently of each other (``sft.caption_dropout`` for each). With more than one the
    network's ``forward`` takes ``dropped`` [B, n] and has states of its own for what is dropped; with one, the negative text replaces
    the caption."""
    aligns_sound: bool = False
    """Whether an audio-only network places its tokens on the time axis of video latents: its ``forward`` takes ``num_video_latents``."""
    version: str = ""
    """Hash of the class's source and settings, set when the base model is opened; empty for :class:`JavisBase`, which the product's
    own version and the configuration's sections cover."""

    @abstractmethod
    def build_network(self) -> VelocityNetwork:
        """A new network on the current default device, with torch's initial values."""

    @abstractmethod
    def codec(self, shape: ClipShape, device: str = "cpu") -> Codec:
        """Encoder and decoder of clips of ``shape``; weights are loaded at first use.

        Raises ConfigError where there is no clip of this shape, InputError where weights are absent.
        """

    @abstractmethod
    def text_encoder(self, cache: Path, device: str = "cpu") -> TextEncoder:
        """The encoder of texts. States that are costly are kept in ``cache``, named by (encoder's fingerprint, text).

        All states of a text are one tensor [L, D]: a base model with several kinds of states joins them and its network takes
        them apart. Weights are loaded with the first text whose states are not kept yet.
        """

    @property
    def identity(self) -> Mapping[str, JsonValue]:
        """JSON values that the network's structure depends on; they enter fingerprints."""
        return {"version": self.version}

    def codec_fingerprint(self, shape: ClipShape) -> str:
        """Hash of everything that latents and decoded clips of ``shape`` depend on, weights included."""
        return self.codec(shape).fingerprint

    def text_fingerprint(self) -> str:
        """Hash of everything that text states depend on, weights included."""
        return self.text_encoder(Path()).fingerprint

    def check_texts(self, texts: Sequence[str]) -> None:
        """Raises InputError for a text that is too long for the text encoder. The default accepts all: its encoder cuts them."""
        return

    def outline(self) -> VelocityNetwork:
        """The network on the meta device: names and shapes without memory."""
        return on_meta(self.build_network)

    def create(self, seed: int) -> VelocityNetwork:
        """A float32 network on the CPU whose random values depend on ``seed`` alone; the global random state does not change."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.build_network()

    def load(self, path: Path, device: torch.device | str = "cpu") -> VelocityNetwork:
        """The network that :meth:`save` wrote, in the file's dtype. Raises InputError for a file of another base model or structure."""
        return load_own(path, self.build_network, self.identity, device)

    def save(self, path: Path, network: VelocityNetwork, metadata: Mapping[str, str] | None = None) -> None:
        """Write ``network`` as one safetensors file, whole or not at all; equal networks give equal bytes. Raises StorageError."""
        save_own(path, network, self.identity, metadata)

    def convert(self, weights: GivenWeights) -> VelocityNetwork:
        """The network of given weights, the LoRA folded in. Raises InputError naming what does not fit.

        The default reads files of :meth:`save`.
        """
        if weights.lora is not None:
            found = f"sft.lora with base model {type(self).__name__}, which reads whole networks only"
            raise ConfigError(found, "weights with the adapter folded in", "--set sft.lora=")
        return self.load(Path(weights.network)).to(weights.dtype)

    def convert_under(self, weights: GivenWeights) -> VelocityNetwork:
        """The network that :meth:`convert` folds the LoRA into, without it. Raises InputError as :meth:`convert`."""
        return self.convert(replace(weights, lora=None))

    def given_adapter(self, weights: GivenWeights) -> Path | None:
        """Path of the LoRA that :meth:`convert` folds in; None where the weights have none. Raises InputError for absent weights."""
        return weights.lora

    def read_adapter(self, path: Path) -> Lora:
        """The LoRA at ``path``, in any layout that :meth:`convert` reads, under the names of the network's modules.

        Raises InputError for an unreadable one. The default reads PEFT's format and files with ComfyUI's or diffusers' prefix.
        """
        return read_factors(path)

    def start(self, weights: GivenWeights, seed: int) -> VelocityNetwork:
        """The network that SFT starts from. The default is :meth:`convert`; ``seed`` is for tensors that ``weights`` lack."""
        return self.convert(weights)

    def given_hash(self, network: str) -> str:
        """Content hash of the weights that a configuration names. Raises InputError where they are absent."""
        return sha256_of(Path(network))

    def audio_branch(self, network: VelocityNetwork) -> VelocityNetwork:
        """An audio-only network with the values of ``network`` whose audio tensors alone require gradients, for ``sft.audio_steps``."""
        found = f"sft.audio_steps with base model {type(self).__name__}, which has no audio branch to train alone"
        raise ConfigError(found, "0", "--set sft.audio_steps=0")

    def freeze_for_joint(self, network: VelocityNetwork) -> None:
        """Let only the parameters require gradients that the released joint training (``sft.trained: released``) trains; here all."""
        return

    def redrawn_texts(self, states: Tensor, seeds: Sequence[int]) -> Tensor:
        """States [n, L, D] of texts as one step of SFT sees them, a row of which depends on the row and on its seed; here unchanged.

        For base models with conditions that are drawn from a distribution.
        """
        return states

    def timestep_law(self, timesteps: TimestepSettings, shape: ClipShape) -> TimestepLaw:
        """Distribution of the training timesteps of clips of ``shape``. Raises ConfigError where no shift can be derived.

        The default takes the fixed shift of the settings.
        """
        return TimestepLaw(_fixed(timesteps.shift, "timesteps.shift", self), timesteps.loc, timesteps.spread)

    def sampler(self, settings: SamplingSettings, shape: ClipShape) -> Sampler:
        """The sampler of clips of ``shape``. Raises ConfigError as :meth:`timestep_law`.

        The default integrates with Euler steps, classifier-free guidance and the fixed shift of the settings.
        """
        ratio = _fixed(settings.shift, "sampling.shift", self)
        return EulerSampler(SamplerSettings(settings.steps, settings.guidance, ratio))

    def work(self, shape: ClipShape) -> Work:
        """Work of one row of a clip of ``shape``: that of its latents."""
        return self.latent_work(self.codec(shape).latent_shapes())

    def latent_work(self, shapes: LatentShapes) -> Work:
        """Work of one row of latents. The default counts latent cells as tokens, and two operations per value and token."""
        cells = sum(torch.Size(part[1:]).numel() for part in shapes if part is not None)
        return Work(cells, 2.0 * cells * self._num_values)

    def text_shape(self) -> tuple[int, int]:
        """Length and width of the states of one text. The default encodes one, which suits encoders without weights."""
        _, length, width = self.text_encoder(Path()).encode(["a text"]).states.shape
        return length, width

    @property
    def num_blocks(self) -> int:
        """Equal blocks of the network, of which :meth:`shallow` builds fewer; 0 where it cannot."""
        return 0

    def shallow(self, num_blocks: int) -> VelocityNetwork:
        """The network with ``num_blocks`` of its blocks, for plans of memory; needed where :attr:`num_blocks` is not 0."""
        raise NotImplementedError(f"{type(self).__name__} builds no shallow network")

    @cached_property
    def _num_values(self) -> int:
        return sum(parameter.numel() for parameter in self.outline().parameters())

    def export_adapter(self, adapter: Path, output: Path, layout: str) -> None:
        """Write the adapter in folder ``adapter`` to ``output`` in one of :attr:`adapter_layouts`. Raises ConfigError for another one."""
        require_layout(layout, self.adapter_layouts)
        copy_adapter(adapter, output)

    def export_network(self, network: VelocityNetwork, output: Path, layout: str) -> None:
        """Write ``network`` into the folder ``output`` in one of :attr:`network_layouts`. Raises ConfigError for another one.

        The default has no layout: the file of :meth:`save` is the network's own.
        """
        require_layout(layout, self.network_layouts)
        raise NotImplementedError(f"{type(self).__name__} names network layouts and exports none")


def require_layout(layout: str, layouts: tuple[str, ...]) -> None:
    """Raises ConfigError for a layout that is not one of ``layouts``."""
    if layout in layouts:
        return
    if not layouts:
        raise ConfigError(f"layout {layout}", "no export: this base model has none", "copy the network's own file")
    raise ConfigError(f"layout {layout}", f"one of {', '.join(layouts)}", f"--layout {layouts[0]}")


def _fixed(shift: float | None, key: str, base: Base) -> float:
    if shift is None:
        found = f"{key} is empty, and base model {type(base).__name__} derives no shift"
        raise ConfigError(found, "a fixed shift", f"set {key}, for example 3.0")
    return shift
