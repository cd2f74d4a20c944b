"""Small training data: latents and texts of one shape in one safetensors file, which every launcher reads.

The flows write a latent store instead (:mod:`avpref.trainer.data.stored_data`). Tensors are memory-mapped, so rows are read when they are
used. Sample ids are JSON in the file's metadata.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from avpref.errors import InputError
from avpref.models.flow import Latents, LatentShapes
from avpref.storage.local_files import replace
from avpref.trainer.data.buckets import Buckets, SampleIndex, one_bucket
from avpref.trainer.data.sample_data import TextRows

SCHEMA = "1"
METADATA_KEY = "avpref"
REMAKE = "write it again with save_clip_set or save_pair_set (avpref retrain)"


@dataclass(frozen=True)
class ClipSet:
    """Training clips: N samples over P texts.

    video [N, C, T, h, w] and audio [N, C, L, M] latents (None: absent), text [P, L, D], text_mask [P, L] (true = token),
    text_index [N] (row of text of each sample), negative_text [1, L, D] and negative_mask [1, L] for caption dropout.
    Raises InputError for shapes that do not match.
    """

    ids: tuple[str, ...]
    text: Tensor
    text_mask: Tensor
    text_index: Tensor
    video: Tensor | None = None
    audio: Tensor | None = None
    negative_text: Tensor | None = None
    negative_mask: Tensor | None = None

    def __post_init__(self) -> None:
        _check_rows("clip set", self.ids, {"video": (self.video, 5), "audio": (self.audio, 4)})
        _check_texts(self, len(self.ids))

    def buckets(self) -> Buckets:
        """One bucket."""
        return one_bucket(len(self.ids), latent_shapes_of(self.video, self.audio), 1)

    def texts(self, rows: Sequence[int]) -> TextRows:
        """See :class:`avpref.trainer.data.sample_data.Samples`."""
        return _texts(self, rows)

    def negative(self) -> TextRows | None:
        """See :class:`avpref.trainer.data.sample_data.Samples`."""
        return _negative(self)

    def clips(self, indices: Sequence[SampleIndex]) -> Latents:
        """See :class:`avpref.trainer.data.sample_data.ClipRows`."""
        rows = [index.row for index in indices]
        return Latents(_rows(self.video, rows), _rows(self.audio, rows))


@dataclass(frozen=True)
class PairSet:
    """Preference pairs: N chosen and N rejected clips of equal shape over P texts; texts as in :class:`ClipSet`.

    desync_audio [N, K, C, L, M] (optional) holds K shifted versions of each chosen clip's audio, for rule-made rejected clips.
    moves_video and moves_audio, bool [N] (both or none), say which modalities the loss of a pair moves; without them every pair
    moves all. weights, float32 [N] (optional), weigh the pairs. Raises InputError for shapes that do not match, and for a pair that
    moves no modality of the data.
    """

    ids: tuple[str, ...]
    text: Tensor
    text_mask: Tensor
    text_index: Tensor
    chosen_video: Tensor | None = None
    rejected_video: Tensor | None = None
    chosen_audio: Tensor | None = None
    rejected_audio: Tensor | None = None
    negative_text: Tensor | None = None
    negative_mask: Tensor | None = None
    desync_audio: Tensor | None = None
    moves_video: Tensor | None = None
    moves_audio: Tensor | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        video = {"chosen_video": (self.chosen_video, 5), "rejected_video": (self.rejected_video, 5)}
        audio = {"chosen_audio": (self.chosen_audio, 4), "rejected_audio": (self.rejected_audio, 4)}
        _check_rows("pair set", self.ids, video | audio)
        for chosen, rejected in ((self.chosen_video, self.rejected_video), (self.chosen_audio, self.rejected_audio)):
            shapes = [None if tensor is None else tuple(tensor.shape) for tensor in (chosen, rejected)]
            if shapes[0] != shapes[1]:
                found = f"chosen clips have shape {shapes[0]}, rejected clips {shapes[1]}"
                raise InputError(found, "equal shapes", REMAKE)
        if self.desync_audio is not None:
            self._check_desync(self.desync_audio)
        self._check_moves()
        if self.weights is not None and (self.weights.shape != (len(self.ids),) or bool((self.weights < 0).any())):
            raise InputError(f"weights {list(self.weights.shape)}", f"[{len(self.ids)}], none below 0", REMAKE)
        _check_texts(self, len(self.ids))

    @property
    def num_delays(self) -> int:
        """Versions of each chosen clip with shifted audio."""
        return 0 if self.desync_audio is None else self.desync_audio.shape[1]

    def buckets(self) -> Buckets:
        """One bucket."""
        return one_bucket(len(self.ids), latent_shapes_of(self.chosen_video, self.chosen_audio), 2)

    def texts(self, rows: Sequence[int]) -> TextRows:
        """See :class:`avpref.trainer.data.sample_data.Samples`."""
        return _texts(self, rows)

    def negative(self) -> TextRows | None:
        """See :class:`avpref.trainer.data.sample_data.Samples`."""
        return _negative(self)

    def sides(self, indices: Sequence[SampleIndex]) -> tuple[Latents, Latents]:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        rows = [index.row for index in indices]
        chosen = Latents(_rows(self.chosen_video, rows), _rows(self.chosen_audio, rows))
        return chosen, Latents(_rows(self.rejected_video, rows), _rows(self.rejected_audio, rows))

    def delayed(self, index: SampleIndex, version: int) -> Tensor:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        assert self.desync_audio is not None
        return self.desync_audio[index.row, version].float()

    def moves(self, rows: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        if self.moves_video is None or self.moves_audio is None:
            return None
        return self.moves_video[list(rows)], self.moves_audio[list(rows)]

    def pair_weights(self, rows: Sequence[int]) -> Tensor | None:
        """See :class:`avpref.trainer.data.sample_data.PairRows`."""
        return None if self.weights is None else self.weights[list(rows)]

    def _check_desync(self, desync: Tensor) -> None:
        audio = self.chosen_audio
        if audio is None or desync.ndim != 5 or desync[:, 0].shape != audio.shape:
            expected = None if audio is None else [audio.shape[0], "delays", *audio.shape[1:]]
            raise InputError(f"desync_audio has shape {list(desync.shape)}", f"shape {expected}", REMAKE)

    def _check_moves(self) -> None:
        video, audio = self.moves_video, self.moves_audio
        if video is None and audio is None:
            return
        if video is None or audio is None:
            raise InputError("one of moves_video and moves_audio", "both or none", REMAKE)
        for name, moves in (("moves_video", video), ("moves_audio", audio)):
            if moves.shape != (len(self.ids),) or moves.dtype != torch.bool:
                raise InputError(f"{name} is {moves.dtype} {list(moves.shape)}", f"bool [{len(self.ids)}]", REMAKE)
        none = torch.zeros_like(video)
        moved = (none if self.chosen_video is None else video) | (none if self.chosen_audio is None else audio)
        if not moved.all():
            pair = self.ids[int(moved.int().argmin())]
            raise InputError(f"pair {pair} moves no modality of the data", "at least one", REMAKE)


Data = TypeVar("Data", ClipSet, PairSet)


def latent_shapes_of(video: Tensor | None, audio: Tensor | None) -> LatentShapes:
    """Shapes of one sample's latents from video [N, C, T, h, w] and audio [N, C, L, M]."""
    video_shape = None if video is None else cast(tuple[int, int, int, int], tuple(video.shape[1:]))
    audio_shape = None if audio is None else cast(tuple[int, int, int], tuple(audio.shape[1:]))
    return LatentShapes(video_shape, audio_shape)


def _rows(latents: Tensor | None, rows: Sequence[int]) -> Tensor | None:
    return None if latents is None else latents[list(rows)].float()


def _texts(data: ClipSet | PairSet, rows: Sequence[int]) -> TextRows:
    index = data.text_index[list(rows)]
    return TextRows(data.text[index].float(), data.text_mask[index])


def _negative(data: ClipSet | PairSet) -> TextRows | None:
    if data.negative_text is None or data.negative_mask is None:
        return None
    return TextRows(data.negative_text, data.negative_mask)


def _check_rows(kind: str, ids: tuple[str, ...], latents: dict[str, tuple[Tensor | None, int]]) -> None:
    if not ids or len(set(ids)) != len(ids):
        raise InputError(
            f"{kind} with {len(ids)} ids, {len(set(ids))} different", "at least one sample, unique ids", REMAKE
        )
    present = {name: (tensor, rank) for name, (tensor, rank) in latents.items() if tensor is not None}
    if not present:
        raise InputError(f"{kind} without latents", f"one of {', '.join(latents)}", REMAKE)
    for name, (tensor, rank) in present.items():
        if tensor.ndim != rank or tensor.shape[0] != len(ids):
            raise InputError(f"{kind}: {name} has shape {list(tensor.shape)}", f"{rank} axes, {len(ids)} rows", REMAKE)


def _check_texts(data: ClipSet | PairSet, num_rows: int) -> None:
    text, mask, index = data.text, data.text_mask, data.text_index
    if text.ndim != 3 or mask.shape != text.shape[:2]:
        raise InputError(
            f"text {list(text.shape)}, mask {list(mask.shape)}", "text [P, L, D], text_mask [P, L]", REMAKE
        )
    if index.shape != (num_rows,) or int(index.min()) < 0 or int(index.max()) >= len(text):
        raise InputError(f"text_index {list(index.shape)}", f"{num_rows} rows of texts 0..{len(text) - 1}", REMAKE)
    if (data.negative_text is None) != (data.negative_mask is None):
        raise InputError("negative_text and negative_mask", "both or none", REMAKE)
    if data.negative_text is not None and data.negative_text.shape != (1, *text.shape[1:]):
        raise InputError(f"negative_text {list(data.negative_text.shape)}", f"{[1, *text.shape[1:]]}", REMAKE)


def save_clip_set(path: Path, clips: ClipSet) -> None:
    """Write ``clips`` to ``path`` atomically. Raises InputError for latents that are not finite, StorageError."""
    _save(path, clips)


def save_pair_set(path: Path, pairs: PairSet) -> None:
    """Write ``pairs`` to ``path`` atomically. Raises InputError for latents that are not finite, StorageError."""
    _save(path, pairs)


def load_clip_set(path: Path) -> ClipSet:
    """Read a file of :func:`save_clip_set`. Raises InputError if it is absent, unreadable or of another kind."""
    return _load(path, ClipSet)


def load_pair_set(path: Path) -> PairSet:
    """Read a file of :func:`save_pair_set`. Raises InputError if it is absent, unreadable or of another kind."""
    return _load(path, PairSet)


def _tensor_names(kind: type) -> list[str]:
    return [field.name for field in fields(kind) if field.name != "ids"]


def _save(path: Path, data: ClipSet | PairSet) -> None:
    tensors = {name: getattr(data, name) for name in _tensor_names(type(data)) if getattr(data, name) is not None}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"{name} holds values that are not finite",
                "finite latents and texts",
                "drop those clips and encode again",
            )
    # One metadata key: safetensors writes several in no fixed order, and equal data must give equal bytes.
    metadata = {METADATA_KEY: json.dumps({"kind": type(data).__name__, "schema": SCHEMA, "ids": data.ids})}
    replace(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata))


def _load(path: Path, kind: type[Data]) -> Data:
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = json.loads((stream.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: {error}", f"a {kind.__name__} file", REMAKE) from error
    if (metadata.get("kind"), metadata.get("schema")) != (kind.__name__, SCHEMA):
        found = f"{path} is a {metadata.get('kind')} of schema {metadata.get('schema')}"
        raise InputError(found, f"a {kind.__name__} of schema {SCHEMA}", REMAKE)
    missing = {"text", "text_mask", "text_index"} - tensors.keys()
    unknown = tensors.keys() - set(_tensor_names(kind))
    if missing or unknown:
        raise InputError(
            f"{path}: missing {sorted(missing)}, unknown {sorted(unknown)}", f"the keys of a {kind.__name__}", REMAKE
        )
    return kind(ids=tuple(metadata["ids"]), **tensors)
