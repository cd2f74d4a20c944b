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

from avpref.datasets.selection.id_lookup import IdLookup
from avpref.datasets.selection.selection_source import Piece, SelectionSource, in_order, num_rows, pieces
from avpref.datasets.selection.text_columns import RowTexts, combined
from avpref.datasets.selection.text_hashes import Words, equal_length_words, hashes_of
from avpref.domain import Origin, Split

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

DICTIONARIES = ("prompt_id", "origin")
SIZES = ("num_frames", "height_px", "width_px")
MAX_INT32 = 2**31 - 1
SLICE = 1 << 16
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
    row: Ints
    prompt: NDArray[np.int32]
    is_ground_truth: Flags
    num_candidates: Ints
    sizes: tuple[NDArray[np.integer], ...]

    def __len__(self) -> int:
        return len(self.row)

    def ids(self, ordinals: Ints) -> pa.Array:
        """Ids of the candidates with these ordinals."""
        return self.row_ids.take(pa.array(self.row[ordinals]))

    def ordinal_of_row(self) -> Ints:
        """The ordinal of every row of the files [R], −1 for a candidate that is left out."""
        return _inverse(self.row, len(self.row_ids))

    def sizes_of(self, ordinals: Ints) -> tuple[Ints, Ints, Ints]:
        """Frames, height and width of the candidates with these ordinals; pixels."""
        rows = self.row[ordinals]
        num_frames, height_px, width_px = (column[rows].astype(np.int64) for column in self.sizes)
        return num_frames, height_px, width_px

    def prompt_ids(self, prompts: NDArray[np.integer]) -> pa.Array:
        """Ids of the prompts at these positions."""
        return self.prompts.ids.take(pa.array(prompts))


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
    row = _order(code, rows.numbers["index"], candidates.ids)
    num_candidates = np.bincount(code, minlength=len(known))
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
    order = _sorted_positions(words)
    ordered = words.take(pa.array(order))
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = pc.not_equal(ordered.slice(1), ordered.slice(0, max(len(order) - 1, 0))).to_numpy(zero_copy_only=False)
    position = np.empty(len(order), np.int32)
    position[order] = np.cumsum(is_new, dtype=np.int32) - 1
    codes, start = [], 0
    for chunk in chunks:
        codes.append(position[start : start + len(chunk.dictionary)][chunk.indices.to_numpy()])
        start += len(chunk.dictionary)
    of_rows = np.concatenate(codes) if codes else np.zeros(0, np.int32)
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


def _order(code: NDArray[np.int32], index: NDArray[np.integer], ids: pa.Array) -> Ints:
    """Rows in the order of prompt, index and id; by ``ids`` only where prompt and index are equal."""
    order = _by_runs(code, index)
    if order is not None:
        return order
    order = _by_two(code, index)
    is_tie = (np.diff(code[order]) == 0) & (np.diff(index[order]) == 0)
    if not is_tie.any():
        return order
    is_tied = np.zeros(len(code), dtype=bool)
    is_tied[order[:-1][is_tie]] = is_tied[order[1:][is_tie]] = True
    tied = np.flatnonzero(is_tied)
    place = np.zeros(len(code), np.int64)
    place[tied[_sorted_positions(ids.take(pa.array(tied)))]] = np.arange(len(tied))
    return np.lexsort((place, index, code))


def _by_runs(code: NDArray[np.int32], index: NDArray[np.integer]) -> Ints | None:
    """Rows in the order of code, then index, without a sort; None unless every prompt's rows follow each other, index ascending."""
    if not len(code):
        return None
    is_new = code[1:] != code[:-1]
    if not (is_new | (index[1:] > index[:-1])).all():
        return None
    starts = np.append(0, np.flatnonzero(is_new) + 1)
    run_of_code = np.full(int(code.max()) + 1, -1)
    run_of_code[code[starts]] = np.arange(len(starts))
    runs = run_of_code[run_of_code >= 0]
    if len(runs) != len(starts):
        return None
    lengths = np.diff(np.append(starts, len(code)))[runs]
    rows = np.repeat(starts[runs] - (np.cumsum(lengths) - lengths), lengths)
    for start in range(0, len(rows), SLICE):
        rows[start : start + SLICE] += np.arange(start, min(start + SLICE, len(rows)))
    return rows


def _inverse(row: Ints, num_rows: int) -> Ints:
    ordinals = np.full(num_rows, -1)
    for start in range(0, len(row), SLICE):
        own = row[start : start + SLICE]
        ordinals[own] = np.arange(start, start + len(own))
    return ordinals


def _by_two(code: NDArray[np.int32], index: NDArray[np.integer]) -> Ints:
    """Rows in the order of code, then index; one sort where both fit into one integer."""
    if not len(code):
        return np.zeros(0, np.int64)
    low, span = int(index.min()), int(index.max()) - int(index.min()) + 1
    if span < 2**31:
        return np.argsort(code.astype(np.int64) * span + (index - low), kind="stable")
    return np.lexsort((index, code))


def _sorted_positions(texts: pa.Array) -> Ints:
    """Positions of ``texts`` in the order of their UTF-8 bytes."""
    words = equal_length_words(texts)
    if words is None:
        return pc.sort_indices(texts).to_numpy().astype(np.int64)
    first_word = words[0].astype(np.uint64)
    order = np.argsort(first_word)
    first = first_word[order]
    same = np.flatnonzero(first[1:] == first[:-1])
    if len(same):  # ties of the first word are ordered among themselves
        is_run = np.zeros(len(order), dtype=bool)
        is_run[same] = is_run[same + 1] = True
        places = np.flatnonzero(is_run)
        members = order[places]
        order[places] = members[np.lexsort([word[members].astype(np.uint64) for word in words[::-1]])]
    return order


def _is_ground_truth(column: pa.ChunkedArray) -> Flags:
    parts = [
        np.array([name == Origin.GROUND_TRUTH for name in chunk.dictionary.to_pylist()], bool)[chunk.indices.to_numpy()]
        for chunk in column.chunks
    ]
    return np.concatenate(parts)
