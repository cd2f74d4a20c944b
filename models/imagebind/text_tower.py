"""ImageBind's text tower alone, for its states: tokens and transformer, without the head that makes embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from avpref.errors import InputError
from avpref.models.imagebind.clip_text import LongPrompts, encode, in_context
from avpref.models.imagebind.imagebind_towers import Modality, TextStem, TowerAttention, TowerSizes, Trunk, causal_mask
from avpref.storage.weight_files import fit, on_meta, read_weights

MASK = "modality_preprocessors.text.mask"
PARTS = ("modality_preprocessors", "modality_trunks", "modality_heads", "modality_postprocessors")


class TextTower(nn.Module):
    """Token ids to states; names are those of ``imagebind_huge.pth``."""

    def __init__(self, sizes: TowerSizes) -> None:
        super().__init__()
        name = str(Modality.TEXT)
        self.modality_preprocessors = nn.ModuleDict({name: TextStem(sizes.dim)})
        self.modality_trunks = nn.ModuleDict({name: Trunk(sizes, TowerAttention, nn.Sequential())})

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """States [B, 77, D] after the last block; texts of more than 77 tokens are cut without an end token, as JavisDiT v0.1 does."""
        ids = [in_context(encode(text), LongPrompts.JAVISBENCH) for text in texts]
        name = str(Modality.TEXT)
        stem = self.modality_preprocessors[name]
        assert isinstance(stem, TextStem)
        tokens, mask = stem(torch.tensor(ids, device=stem.pos_embed.device))
        states: Tensor = self.modality_trunks[name](tokens, mask)
        return states


def read_text_tower(path: Path, sizes: TowerSizes, device: torch.device | str = "cpu") -> TextTower:
    """The text tower of the published file at ``path``, float32; tensors of other towers and of the head are ignored.

    Raises InputError for a file that cannot be read, for tensors that are missing, unexpected or of another shape, and for a mask that is
    not causal.
    """
    tower = on_meta(lambda: TextTower(sizes))
    tensors = {name: tensor for name, tensor in read_weights(path).items() if isinstance(tensor, Tensor)}
    require_causal(tensors, path)
    used = tuple(f"{part}.{Modality.TEXT}." for part in PARTS[:2])
    other = {name for name in tensors if name.startswith(PARTS) and not name.startswith(used)}
    own = {name: tensor for name, tensor in tensors.items() if name not in other}
    fit(tower, own, f"{path} (ImageBind's text tower)", device=device, dtype=torch.float32)
    return tower


def require_causal(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises InputError for a text mask among ``tensors`` that is not causal."""
    if MASK in tensors and not torch.equal(tensors[MASK].float(), causal_mask()):
        raise InputError(
            f"{path}: {MASK} is not causal", "-inf above the diagonal and 0 elsewhere", "avpref weights verify"
        )
