"""LoRA adapters of LTX-2: the 28 adapted linear layers of a block, and files that other programs read.

Attention and feed-forward layers have the same names in Lightricks' and in diffusers' networks, so the two kinds of file differ only in
the prefix: ``diffusion_model.`` (Lightricks, ComfyUI) or ``transformer.`` (diffusers). Files carry no alpha, because diffusers' loader
refuses such keys: the scale alpha / rank is multiplied into B, and readers use scale 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path

from torch import Tensor

from avpref.errors import InputError
from avpref.models.checkpoints.checkpoint_files import write_tensors
from avpref.models.checkpoints.lora_files import Factors, Lora, read_factors
from avpref.storage.local_files import storage_errors

ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARDS = ("ff", "audio_ff")
LAYERS = ("net.0.proj", "net.2")
TARGETS = tuple(
    [f"{attention}.{projection}" for attention in ATTENTIONS for projection in PROJECTIONS]
    + [f"{network}.{layer}" for network in FEED_FORWARDS for layer in LAYERS]
)
"""Adapted linear layers of one block. The gates of attention (2.3, 2.5) are not adapted, as in all published adapters."""
BLOCKS = "transformer_blocks."
WRAPPED = "transformer."
"""Prefix of the module names in :class:`avpref.models.ltx2.ltx_network.LtxNetwork`."""
SHOWN = 3


class LoraLayout(StrEnum):
    """Kinds of adapter files; the value is the name in commands."""

    COMFYUI = "comfyui"
    """Lightricks' own, which ComfyUI reads."""
    DIFFUSERS = "diffusers"

    @property
    def prefix(self) -> str:
        """Prefix of the tensor names."""
        return "diffusion_model." if self is LoraLayout.COMFYUI else WRAPPED


def read_ltx_lora(path: Path) -> Lora:
    """The adapter at ``path``, a folder in PEFT's format or a file of either layout, under the names of diffusers' transformer.

    Raises InputError for an unreadable adapter, and for one with other layers than :data:`TARGETS`, such as an adapter of another base.
    """
    lora = read_factors(path)
    factors = {name.removeprefix(WRAPPED): pair for name, pair in lora.factors.items()}
    unknown = sorted(name for name in factors if not is_target(name))
    if unknown:
        raise InputError(
            f"{path} adapts {len(unknown)} layers that LTX-2 does not adapt, first {', '.join(unknown[:SHOWN])}",
            "an adapter of LTX-2: attention and feed-forward layers of its blocks",
            "point at an adapter that was trained on this base",
        )
    return Lora(path, factors, tuple(sorted({name.split(".", 2)[2] for name in factors})))


def is_target(name: str) -> bool:
    """Whether ``name`` is a layer of :data:`TARGETS` in some block: ``transformer_blocks.3.attn1.to_q``."""
    head, _, rest = name.removeprefix(BLOCKS).partition(".")
    return name.startswith(BLOCKS) and head.isdigit() and rest in TARGETS


def save_ltx_lora(lora: Lora, path: Path, layout: LoraLayout) -> None:
    """Write ``lora`` as one safetensors file in ``layout``; equal adapters give equal bytes. Raises StorageError."""
    tensors = {f"{layout.prefix}{name}": tensor for name, tensor in _scaled(lora.factors)}
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {name: tensors[name] for name in sorted(tensors)}, {"format": "pt"})


def _scaled(factors: Mapping[str, Factors]) -> Iterable[tuple[str, Tensor]]:
    """A and B of every layer, B times alpha / rank in float32 and then in B's dtype."""
    for name, pair in factors.items():
        yield f"{name}.lora_A.weight", pair.down
        yield f"{name}.lora_B.weight", (pair.up.float() * (pair.alpha / pair.rank)).to(pair.up.dtype)
