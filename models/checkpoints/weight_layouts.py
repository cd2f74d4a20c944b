"""Tensor names in two layouts: the original's (also ours) and those of diffusers' ``WanTransformer3DModel``.

The base table follows diffusers' own class, whose ``norm2`` is the original's ``norm3``, the only norm of a block with parameters.
The audio branch and added synchronisers have no class in diffusers; their names there are formed like the others. Complete module
names are looked up, because ``audio_ffn.0`` contains ``ffn.0``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum

from avpref.errors import InputError

_ADDED_ATTENTIONS = ("spatial", "temporal", "of_video", "of_audio")
_ADDED_NORMS = ("norm_spatial", "norm_temporal", "norm")
_OUTER = {
    "patch_embedding": "patch_embedding",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "prior_embedding.0": "condition_embedder.prior_embedder.linear_1",
    "prior_embedding.2": "condition_embedder.prior_embedder.linear_2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "audio_patch_embedding": "audio_patch_embedding",
    "audio_time_projection.1": "condition_embedder.audio_time_proj",
    "audio_head.head": "audio_proj_out",
    "audio_head.modulation": "audio_scale_shift_table",
}
_ATTENTIONS = {"self_attn": "attn1", "cross_attn": "attn2"}
_PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}
_IN_BLOCKS = {
    **{f"{ours}.{q}": f"{theirs}.{to_q}" for ours, theirs in _ATTENTIONS.items() for q, to_q in _PROJECTIONS.items()},
    "norm3": "norm2",
    "modulation": "scale_shift_table",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "audio_modulation.param": "audio_scale_shift_table",
    "audio_ffn.0": "audio_ffn.net.0.proj",
    "audio_ffn.2": "audio_ffn.net.2",
    **{
        f"synchroniser.{attention}.{q}": f"synchroniser.{attention}.{to_q}"
        for attention in _ADDED_ATTENTIONS
        for q, to_q in _PROJECTIONS.items()
    },
    **{f"synchroniser.{norm}": f"synchroniser.{norm}" for norm in _ADDED_NORMS},
}
_NAME = re.compile(r"(?P<block>blocks\.\d+\.)?(?P<module>.*?)(?P<ending>\.weight|\.bias)?", re.DOTALL)
AUDIO = re.compile(r"(?:.*\.)?audio_.*")
SHOWN = 3


class Layout(Enum):
    """Naming scheme of the tensors of a file. Values complete the phrase "under ... names"."""

    ORIGINAL = "original Wan"
    DIFFUSERS = "diffusers"


def is_audio(name: str) -> bool:
    """Whether a tensor or module belongs to the audio branch, in either layout."""
    return AUDIO.fullmatch(name) is not None


def in_block(name: str) -> str:
    """``name`` without its block: ``blocks.3.ffn.0`` becomes ``ffn.0``; names outside blocks do not change."""
    return re.sub(r"^blocks\.\d+\.", "", name)


def recognise(names: Iterable[str], source: object) -> Layout:
    """The layout of ``names`` (tensors or modules): the one with more names that occur in no other layout.

    Raises InputError, naming ``source``, if no name is known.
    """
    listed = list(names)
    counts = {layout: sum(_is_only_in(layout, name) for name in listed) for layout in Layout}
    if not any(counts.values()):
        found = f"{source}: no known tensor among {len(listed)}, first {sorted(listed)[:SHOWN]}"
        layouts = " or ".join(layout.value for layout in Layout)
        raise InputError(found, f"a network of this kind under {layouts} names", "check the path")
    return max(Layout, key=lambda layout: counts[layout])


def name_in(layout: Layout, name: str) -> str:
    """Name in ``layout`` of the original's tensor or module ``name``. Raises InputError for an unknown name."""
    return name if layout is Layout.ORIGINAL else diffusers_name(name)


def diffusers_name(name: str) -> str:
    """diffusers' name of the original's tensor or module ``name``. Raises InputError for an unknown name."""
    return _renamed(name, _OUTER, _IN_BLOCKS, Layout.ORIGINAL)


def original_name(name: str) -> str:
    """Inverse of :func:`diffusers_name`. Raises InputError for an unknown name."""
    return _renamed(name, _OUTER_BACK, _IN_BLOCKS_BACK, Layout.DIFFUSERS)


def _inverse(table: Mapping[str, str]) -> Mapping[str, str]:
    inverse = {theirs: ours for ours, theirs in table.items()}
    assert len(inverse) == len(table), "two names of one tensor"
    return inverse


_OUTER_BACK, _IN_BLOCKS_BACK = _inverse(_OUTER), _inverse(_IN_BLOCKS)


def _renamed(name: str, outer: Mapping[str, str], in_blocks: Mapping[str, str], layout: Layout) -> str:
    block, module, ending = _parts(name)
    table = in_blocks if block else outer
    if module not in table:
        raise InputError(f"no tensor of the network is called {name}", f"{layout.value} names", "check the file")
    return f"{block}{table[module]}{ending}"


def _is_only_in(layout: Layout, name: str) -> bool:
    block, module, _ = _parts(name)
    ours, theirs = (_IN_BLOCKS, _IN_BLOCKS_BACK) if block else (_OUTER, _OUTER_BACK)
    own, other = (ours, theirs) if layout is Layout.ORIGINAL else (theirs, ours)
    return module in own and module not in other


def _parts(name: str) -> tuple[str, str, str]:
    match = _NAME.fullmatch(name)
    assert match is not None, "the pattern takes any name"
    return match["block"] or "", match["module"], match["ending"] or ""
