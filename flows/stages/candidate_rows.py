"""Candidates of a run: which are asked for, with which network, and where the finished ones are."""

from __future__ import annotations

import sys
from dataclasses import fields
from typing import Any

import pyarrow as pa

from avpref.datasets import tables
from avpref.domain import Candidate, Origin
from avpref.storage.run_folder import RunFolder
from avpref.storage.unit import Unit

FEW = 2
"""A column is shared by rows where it has fewer than one distinct text per so many rows."""


def read_candidates(folder: RunFolder, units: list[Unit]) -> list[Candidate]:
    """Candidates of finished units, in the plan's order."""
    return as_candidates(folder.units(tables.CANDIDATES).read(units)[0])


def as_candidates(rows: pa.Table) -> list[Candidate]:
    """Rows of the candidate table as dataclasses. Texts that rows share are one object: most columns say the same in all."""
    columns = {field.name: _values(rows[field.name]) for field in fields(Candidate)}
    columns["origin"] = [Origin(value) for value in columns["origin"]]
    return [Candidate(*values) for values in zip(*columns.values(), strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    if not pa.types.is_string(column.type):
        return column.to_pylist()
    encoded = column.combine_chunks().dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    if len(distinct) * FEW < len(column):
        distinct = [sys.intern(value) for value in distinct]  # one object for all batches, too
    return [distinct[index] for index in encoded.indices.to_pylist()]
