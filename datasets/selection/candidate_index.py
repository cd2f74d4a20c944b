"""The candidate index: candidates in canonical order, prompt, index, id, whatever the order of the files.

The position of a candidate in the index is its *ordinal*; later steps know candidates by ordinal alone, so that ties are broken
alike whatever the order of the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from avpref.datasets.selection.candidate_order import (
    MAX_INT32,
    Positions,
    PromptRuns,
    order_of,
    ordinals_of,
    sorted_positions,
)
from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.selection_source import Piece, SelectionSource, in_order, num_rows, pieces
from avpref.datasets.selection.text_columns import RowTexts, Texts, combined
from avpref.datasets.selection.text_hashes import Words, hashes_of
from avpref.domain import Origin, Split

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

DICTIONARIES = ("prompt_id", "origin")
SIZES = ("num_frames", "height_px", "width_px")
COLUMNS = ("candidate_id", "prompt_id", "index", "origin", *SIZES)


@dataclass(frozen=True, eq=False)
class Prompts:
    """Every known prompt in order of its id: those of table ``prompts`` and those of candidates.

    ``ids`` [P]; ``split`` [P]: texts, ``train`` for a prompt that the table does not list; ``is_listed`` [P]: whether it does;
    ``is_known`` [P]: whether it takes part; ``num_doubled``: rows of the table whose id another row has.
    """

    ids: pa.Array
    split: pa.Array
    is_listed: Flags
    is_known: Flags
    num_doubled: int

    @cached_property
    def texts(self) -> Texts:
        """The ids, to be copied."""
        return Texts(self.ids)

    @cached_property
    def is_train(self) -> Flags:
        """Whether a prompt's pairs may be trained on [P]."""
        return np.asarray(pc.equal(self.split, str(Split.TRAIN)).to_numpy(zero_copy_only=False))


@dataclass(frozen=True, eq=False)
class CandidateIndex:
    """``row_ids`` [R]: ids in the order of the files. ``sizes``: frames, height and width in the order of the files, each [R].

    ``row`` [N]: the row of every ordinal. ``prompt`` [N]: the position of its prompt in ``prompts``, ascending.
    ``is_ground_truth`` [N]. ``num_candidates`` [P]: candidates of every prompt.
    """

    prompts: Prompts
    row_ids: pa.Array
    row: Positions
    prompt: NDArray[np.int32]
    is_ground_truth: Flags
    num_candidates: Ints
    sizes: tuple[NDArray[np.integer], ...]

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def texts(self) -> Texts:
        """The ids in the order of the files, to be copied."""
        return Texts(self.row_ids)

    def ids(self, ordinals: NDArray[np.signedinteger]) -> pa.Array:
        """Ids of the candidates with these ordinals."""
        return self.texts.take(self.row[ordinals])

    def ordinal_of_row(self) -> Ints:
        """The ordinal of every row of the files [R], −1 for a candidate that is left out."""
        return ordinals_of(self.row, len(self.row_ids))

    def sizes_of(self, ordinals: Ints) -> tuple[Ints, Ints, Ints]:
        """Frames, height and width of the candidates with these ordinals; pixels."""
        rows = self.row[ordinals].astype(np.int64)
        num_frames, height_px, width_px = (column[rows].astype(np.int64) for column in self.sizes)
        return num_frames, height_px, width_px

    def prompt_ids(self, prompts: NDArray[np.integer]) -> pa.Array:
        """Ids of the prompts at these positions."""
        return self.prompts.texts.take(prompts)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Columns of all candidates in the order of the files, each [R]; sizes and index are 32 bits wide where they fit."""

    hashes: Words
    is_ground_truth: Flags
    numbers: dict[str, NDArray[np.integer]]

    def part(self, first: int, count: int) -> _Rows:
        """Views of the rows of a row group."""
        rows = slice(first, first + count)
        numbers = {name: column[rows] for name, column in self.numbers.items()}
        return _Rows(self.hashes[rows], self.is_ground_truth[rows], numbers)


@dataclass(frozen=True, eq=False)
class Candidates:
    """All candidates as they were read, in the order of the files: ``ids``, numbers, and the prompts of every row group."""

    ids: pa.Array
    rows: _Rows
    prompts: list[pa.DictionaryArray]

    def lookup(self) -> IdLookup:
        """Finds the rows of candidates by id."""
        return IdLookup(self.ids, self.rows.hashes)


def read_candidates(source: SelectionSource) -> Candidates:
    """Read the candidates of ``source``."""
    count = num_rows(source.candidates)
    rows, ids = _empty(count, _width(source)), RowTexts(count)
    reads = in_order(partial(_read, rows, ids), pieces(source.candidates, DICTIONARIES), source.threads)
    prompts = [chunk for read in reads for chunk in read]
    return Candidates(ids.array(), rows, prompts)


def index_of(source: SelectionSource, candidates: Candidates) -> CandidateIndex:
    """The order of ``candidates``; reads the prompts of ``source``."""
    rows = candidates.rows
    listed_ids, listed_split = _listed(source)
    known, code, of_listed = _distinct(candidates.prompts, listed_ids)
    prompts = _prompts(known, of_listed, listed_split, source.training_only)
    runs = PromptRuns.of(code)
    row, num_candidates = order_of(runs, code, rows.numbers["index"], candidates.ids), runs.num_candidates(len(known))
    if not prompts.is_known.all():
        row, num_candidates = row[prompts.is_known[code[row]]], np.where(prompts.is_known, num_candidates, 0)
    return CandidateIndex(
        prompts=prompts,
        row_ids=candidates.ids,
        row=row,
        prompt=np.repeat(np.arange(len(known), dtype=np.int32), num_candidates),
        is_ground_truth=rows.is_ground_truth.take(row),
        num_candidates=num_candidates,
        sizes=tuple(rows.numbers[name] for name in SIZES),
    )


def _empty(count: int, kind: type[np.signedinteger]) -> _Rows:
    numbers: dict[str, NDArray[np.integer]] = {name: np.empty(count, kind) for name in ("index", *SIZES)}
    return _Rows(np.empty(count, np.uint64), np.empty(count, dtype=bool), numbers)


def _width(source: SelectionSource) -> type[np.signedinteger]:
    """32 bits where the statistics of all files say that index and sizes fit, which halves the memory; 64 otherwise."""
    bounds = [piece.bounds(name) for piece in pieces(source.candidates, ()) for name in ("index", *SIZES)]
    fits = all(known is not None and -MAX_INT32 <= known[0] <= known[1] <= MAX_INT32 for known in bounds)
    return np.int32 if fits else np.int64


def _read(rows: _Rows, ids: RowTexts, piece: Piece) -> list[pa.DictionaryArray]:
    """Copy the row groups of a piece into their place; returns their prompts."""
    prompts, first = [], piece.first_row
    for _, columns in piece.read(COLUMNS):
        if not columns.num_rows:
            continue
        own, start = rows.part(first, columns.num_rows), 0
        for chunk in columns["candidate_id"].chunks:
            own.hashes[start : start + len(chunk)] = hashes_of(chunk)
            ids.put(first + start, chunk)
            start += len(chunk)
        own.is_ground_truth[:] = _is_ground_truth(columns["origin"])
        for name, column in own.numbers.items():
            column[:] = columns[name].to_numpy()
        prompts += columns["prompt_id"].chunks
        first += columns.num_rows
    return prompts


def _listed(source: SelectionSource) -> tuple[pa.Array, pa.Array]:
    rows = [rows for piece in pieces(source.prompts, ()) for _, rows in piece.read(("prompt_id", "split"))]
    if not rows:
        return pa.array([], pa.string()), pa.array([], pa.string())
    table = pa.concat_tables(rows)
    if source.training_only:
        table = table.filter(pc.equal(table["split"], str(Split.TRAIN)))
    return combined(table["prompt_id"]), combined(table["split"])


def _distinct(chunks: list[pa.DictionaryArray], listed: pa.Array) -> tuple[pa.Array, NDArray[np.int32], Ints]:
    """All distinct ids in order [P], the position of every candidate's prompt [R], and that of every listed one."""
    words = combined(pa.chunked_array([*(chunk.dictionary for chunk in chunks), listed], pa.string()))
    order = sorted_positions(words)
    ordered = words.take(pa.array(order))
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = pc.not_equal(ordered.slice(1), ordered.slice(0, max(len(order) - 1, 0))).to_numpy(zero_copy_only=False)
    position = np.empty(len(order), np.int32)
    position[order] = np.cumsum(is_new, dtype=np.int32) - 1
    of_rows = np.empty(sum(map(len, chunks)), np.int32)
    start = first = 0
    for chunk in chunks:
        own = position[start : start + len(chunk.dictionary)]
        of_rows[first : first + len(chunk)] = own[chunk.indices.to_numpy()]
        start, first = start + len(own), first + len(chunk)
    known = ordered if is_new.all() else ordered.filter(pa.array(is_new))
    return known, of_rows, position[start:].astype(np.int64)


def _prompts(known: pa.Array, of_listed: Ints, split: pa.Array, training_only: bool) -> Prompts:
    is_listed = np.zeros(len(known), dtype=bool)
    is_listed[of_listed] = True
    row_of = np.zeros(len(known), np.int64)
    row_of[of_listed] = np.arange(len(of_listed))
    listed = split.take(pa.array(row_of)) if len(split) else pa.nulls(len(known), pa.string())
    splits = pc.if_else(pa.array(is_listed), listed, str(Split.TRAIN))
    is_known = is_listed if training_only else np.ones(len(known), dtype=bool)
    return Prompts(known, splits, is_listed, is_known, len(of_listed) - int(is_listed.sum()))


def _is_ground_truth(column: pa.ChunkedArray) -> Flags:
    parts = [
        np.array([name == Origin.GROUND_TRUTH for name in chunk.dictionary.to_pylist()], bool)[chunk.indices.to_numpy()]
        for chunk in column.chunks
    ]
    return np.concatenate(parts)
