"""Rows of a run's sealed tables as dataclasses of the domain: prompts, candidates, norm; and the hash of the pairs."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import pyarrow as pa

from avpref.datasets import tables
from avpref.datasets.selection import normalise
from avpref.domain import ALL_DIMENSIONS, Candidate, Origin, Prompt, Split
from avpref.identity import digest
from avpref.storage.run_tables import RunTables

FEW = 2
"""Texts of a column are interned where it has fewer than one distinct text per this many rows."""


def read_prompts(sealed: RunTables) -> list[Prompt]:
    """The sealed prompts, in order. Raises InputError before stage ``prompts`` has run."""
    rows = sealed.read(tables.PROMPTS).to_pylist()
    return [Prompt(**{**row, "split": Split(row["split"])}) for row in rows]


def read_candidates(sealed: RunTables) -> list[Candidate]:
    """The sealed candidates, in the plan's order. Raises InputError before stage ``generate`` has run."""
    return [candidate for rows in sealed.batches(tables.CANDIDATES) for candidate in as_candidates(rows)]


def as_candidates(rows: pa.Table) -> list[Candidate]:
    """Rows of the candidate table as dataclasses. Rows with equal text in a column share one string object."""
    columns = {field.name: _values(rows[field.name]) for field in fields(Candidate)}
    columns["origin"] = [Origin(value) for value in columns["origin"]]
    return [Candidate(*values) for values in zip(*columns.values(), strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_string(column.type):
        return column.to_pylist()
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    if len(distinct) * FEW < len(column):
        distinct = [sys.intern(value) for value in distinct]  # one object for all batches
    return [distinct[index] for index in encoded.indices.to_pylist()]


def read_norm(sealed: RunTables) -> normalise.Norm:
    """The norm that the run's pairs were selected with. Raises InputError before stage ``pair`` has run."""
    saved = sealed.read(tables.NORMS)
    return normalise.from_arrow(saved, saved["norm_id"][0].as_py())


def pairs_hash(sealed: RunTables) -> str:
    """Content hash of the pair table: equal for equal pairs, margins and scores, whichever run measured their norm."""
    return hash_of_pairs(sealed.read(tables.PAIRS))


def hash_of_pairs(pairs: pa.Table) -> str:
    """As :func:`pairs_hash`, of rows that need not be sealed.

    Pairs that all speak for every dimension have the hash that they had before pairs had a dimension.
    """
    is_joint = set(pairs["dimension"].to_pylist()) <= {ALL_DIMENSIONS}
    return digest("pairs", pairs.drop_columns(["norm_id", *(["dimension"] if is_joint else [])]).to_pylist(), size=32)
