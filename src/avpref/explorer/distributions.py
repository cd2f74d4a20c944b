"""Numbers of one clip against those of all training clips of its run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from avpref.explorer.run_database import RunDatabase
from avpref.explorer.wide_tables import quoted

MAX_VALUES = 200_000
"""Values of one column that are read; a larger run is sampled by every k-th row."""


@dataclass(frozen=True, eq=False)
class Distribution:
    """The finite values [n] of a column, sorted."""

    name: str
    values: NDArray[np.float64] = field(repr=False)

    def share_below(self, value: float | None) -> float | None:
        """Share of the values that are at most ``value``; None without a value or values."""
        if value is None or not len(self.values):
            return None
        return float(np.searchsorted(self.values, value, side="right") / len(self.values))


@dataclass(frozen=True)
class Column:
    """A column of a wide table, for training clips alone where ``training_only``."""

    table: str
    name: str
    training_only: bool = False


def distributions_of(database: RunDatabase, columns: Sequence[Column]) -> list[Distribution]:
    """The distribution of every column; remembered for a few databases."""
    return [_distribution(_Key(database.path, column), database) for column in columns]


@dataclass(frozen=True)
class _Key:
    path: Path
    column: Column


_remembered: dict[_Key, Distribution] = {}


def _distribution(key: _Key, database: RunDatabase) -> Distribution:
    if key not in _remembered:
        if len(_remembered) >= 64:
            _remembered.clear()
        _remembered[key] = Distribution(key.column.name, _values(key.column, database))
    return _remembered[key]


def _values(column: Column, database: RunDatabase) -> NDArray[np.float64]:
    con, name = database.cursor(), quoted(column.name)
    condition = f"{name} IS NOT NULL AND isfinite({name})" + (" AND side = 'training'" if column.training_only else "")
    (count,) = con.execute(f"SELECT count(*) FROM {column.table} WHERE {condition}").fetchone() or (0,)
    every = -(-count // MAX_VALUES) or 1
    query = f"SELECT {name} AS value FROM {column.table} WHERE {condition} AND rowid % {every} = 0"
    values = con.execute(query).fetchnumpy()["value"]
    return np.sort(np.asarray(values, np.float64))
