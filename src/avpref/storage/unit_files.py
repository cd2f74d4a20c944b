"""The committed files of units: one Parquet file per unit with its rows and its quarantined candidates, under a derived name."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import InputError, TableError
from avpref.storage.files import Files
from avpref.storage.unit import Unit

PLAN_PREFIX = "plan-"
"""Prefix of the files beside a stage's units that list the fingerprints of the stage's current plan.

Only garbage collection reads them, to find units that no plan names any more.
"""
QUARANTINE_KEY = b"avpref.quarantine"


class CommittedUnits(Protocol):
    """The committed units of a stage. Implementations are picklable: workers carry them."""

    @property
    def store(self) -> Files:
        """The store of the units of all stages."""
        ...

    def record_plan(self, name: str, units: Sequence[Unit]) -> None:
        """Record the fingerprints that pass ``name`` of a stage uses for ``units``; ``units`` must not be empty."""
        ...

    def exists(self, unit: Unit) -> bool:
        """Whether the unit is done."""
        ...

    def finished(self, units: Sequence[Unit]) -> list[Unit]:
        """Those of ``units`` that are done, in their order; each folder is listed once."""
        ...

    def commit(self, unit: Unit, rows: Sequence[Any], quarantined: Sequence[QuarantineRow] = ()) -> bool:
        """Commit the unit's rows and its quarantined candidates; returns whether this call did. The first commit wins."""
        ...

    def join(self, unit: Unit, pieces: Sequence[Unit]) -> bool:
        """Commit a unit that was finished in pieces."""
        ...

    def quarantined(self, units: Sequence[Unit]) -> list[QuarantineRow]:
        """The quarantined candidates of ``units``."""
        ...


@dataclass(frozen=True)
class UnitFiles:
    """The committed units of one table. Picklable: workers carry it."""

    files: Files
    table: tables.Table

    @property
    def store(self) -> Files:
        """The store of the units of all stages."""
        return self.files

    def name(self, unit: Unit) -> str:
        """The unit's file: stage, stage fingerprint, then the unit's derived name."""
        return f"{unit.stage}/{unit.fingerprint}/{unit.name}.parquet"

    def record_plan(self, name: str, units: Sequence[Unit]) -> None:
        """See :class:`CommittedUnits`; the fingerprints are the units' own."""
        record_plan(self.files, units[0].stage, name, {unit.fingerprint for unit in units})

    def exists(self, unit: Unit) -> bool:
        """Whether the unit is done."""
        return self.files.exists(self.name(unit))

    def finished(self, units: Sequence[Unit]) -> list[Unit]:
        """See :class:`CommittedUnits`."""
        folders = {name.rpartition("/")[0] for name in map(self.name, units)}
        listed = {name for folder in folders for name in self.files.children(folder)}
        return [unit for unit in units if self.name(unit) in listed]

    def commit(self, unit: Unit, rows: Sequence[Any], quarantined: Sequence[QuarantineRow] = ()) -> bool:
        """See :class:`CommittedUnits`; ``rows`` are dataclasses of the table."""
        return self._commit(unit, tables.to_arrow(self.table, rows), quarantined)

    def commit_rows(self, unit: Unit, rows: pa.Table, quarantined: Sequence[QuarantineRow]) -> bool:
        """Commit rows that were committed before, in this or another run, under the unit's name. The first commit wins."""
        return self._commit(unit, tables.conform(self.table, rows), quarantined)

    def join(self, unit: Unit, pieces: Sequence[Unit]) -> bool:
        """Commit a unit that was finished in pieces."""
        rows, quarantined = self.read(pieces)
        return self._commit(unit, rows, quarantined)

    def read(self, units: Sequence[Unit]) -> tuple[pa.Table, list[QuarantineRow]]:
        """Rows and quarantined candidates of ``units``, in their order. Raises TableError for a unit that is absent or broken."""
        parts, quarantined = [], []
        for part, quarantined_rows in self.read_each(units):
            quarantined += quarantined_rows
            parts.append(part)
        if not parts:
            return tables.to_arrow(self.table, []), []
        return pa.concat_tables(parts), quarantined

    def read_each(self, units: Sequence[Unit]) -> Iterator[tuple[pa.Table, list[QuarantineRow]]]:
        """Rows and quarantined candidates of each of ``units``, in their order. Raises as :meth:`read`."""
        for part in self._parsed(units, lambda stream: pq.ParquetFile(stream).read()):
            yield part.replace_schema_metadata(None), _quarantine_rows(part.schema)

    def quarantined(self, units: Sequence[Unit]) -> list[QuarantineRow]:
        """The quarantined candidates of ``units``; reads only the files' footers. Raises as :meth:`read`."""
        return [row for schema in self._parsed(units, pq.read_schema) for row in _quarantine_rows(schema)]

    def _commit(self, unit: Unit, rows: pa.Table, quarantined: Sequence[QuarantineRow]) -> bool:
        metadata = {**(rows.schema.metadata or {}), QUARANTINE_KEY: json.dumps([asdict(row) for row in quarantined])}
        buffer = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata(metadata), buffer, compression="zstd")
        return self.files.commit_once(self.name(unit), buffer.getvalue())

    def _parsed(self, units: Sequence[Unit], parse: Callable[[BinaryIO], Any]) -> Iterator[Any]:
        names = [self.name(unit) for unit in units]
        streams = self.files.open_all(names)
        for name in names:
            with self._readable(name):
                parsed = parse(next(streams))
            yield parsed

    @contextmanager
    def _readable(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            uri = self.files.uri(name)
            fix = f"delete {uri} and run: avpref runs resume RUN"
            raise TableError(f"{uri} cannot be read: {error}", "a whole unit", fix) from error


def _quarantine_rows(schema: pa.Schema) -> list[QuarantineRow]:
    return [QuarantineRow(**row) for row in json.loads((schema.metadata or {}).get(QUARANTINE_KEY, b"[]"))]


def record_plan(units: Files, stage: str, name: str, fingerprints: Iterable[str]) -> None:
    """Record that pass ``name`` of ``stage`` uses ``fingerprints``; ``units`` is the store of all stages' units."""
    file = f"{stage}/{PLAN_PREFIX}{name}.json"
    data = json.dumps({"fingerprints": sorted(set(fingerprints))}).encode()
    try:
        is_known = units.read(file) == data
    except FileNotFoundError:
        is_known = False
    if not is_known:
        units.replace(file, data)


def planned(stage: Path) -> frozenset[str] | None:
    """The fingerprints of the current plan of the stage with folder ``stage``; None where no plan was recorded.

    Raises InputError for a file that cannot be read.
    """
    files = sorted(stage.glob(f"{PLAN_PREFIX}*.json"))
    fingerprints: set[str] = set()
    for path in files:
        try:
            fingerprints |= set(json.loads(path.read_text())["fingerprints"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = f"delete {path} and run: avpref runs resume RUN"
            raise InputError(f"{path}: {error}", "a plan written by this product", fix) from error
    return frozenset(fingerprints) if files else None
