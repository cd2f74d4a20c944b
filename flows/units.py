"""The committed files of units: one Parquet file each, rows and quarantine together, under a derived name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from avpref.cluster import Unit
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.errors import TableError
from avpref.store import commit_once

QUARANTINE_KEY = b"avpref.quarantine"


class CommittedUnits(Protocol):
    """What a stage asks of the files of its units. Implementations are picklable: workers carry them."""

    @property
    def folder(self) -> Path:
        """Where the units of all stages are."""
        ...

    def fingerprints_of(self, units: Sequence[Unit]) -> set[str]:
        """The stage fingerprints under which ``units`` are committed."""
        ...

    def exists(self, unit: Unit) -> bool:
        """Whether the unit is done."""
        ...

    def commit(self, unit: Unit, rows: Sequence[Any], quarantined: Sequence[QuarantineRow] = ()) -> bool:
        """Commit the unit's rows and what it gave up on; the first commit wins."""
        ...

    def join(self, unit: Unit, pieces: Sequence[Unit]) -> bool:
        """Commit a unit that was finished in pieces."""
        ...

    def quarantined(self, units: Sequence[Unit]) -> list[QuarantineRow]:
        """What ``units`` gave up on."""
        ...


@dataclass(frozen=True)
class UnitFiles:
    """Where the units of one table are committed. Picklable: workers carry it."""

    folder: Path
    table: tables.Table

    def path(self, unit: Unit) -> Path:
        """The unit's file: stage, stage fingerprint, then the unit's derived name."""
        return self.folder / unit.stage / unit.fingerprint / f"{unit.name}.parquet"

    def fingerprints_of(self, units: Sequence[Unit]) -> set[str]:
        """The stage fingerprints under which ``units`` are committed: their own."""
        return {unit.fingerprint for unit in units}

    def exists(self, unit: Unit) -> bool:
        """Whether the unit is done."""
        return self.path(unit).exists()

    def commit(self, unit: Unit, rows: Sequence[Any], quarantined: Sequence[QuarantineRow] = ()) -> bool:
        """Commit the unit's rows (dataclasses of the table) and what it gave up on. The first commit wins."""
        return self._commit(unit, tables.to_arrow(self.table, rows), quarantined)

    def join(self, unit: Unit, pieces: Sequence[Unit]) -> bool:
        """Commit a unit that was finished in pieces."""
        rows, quarantined = self.read(pieces)
        return self._commit(unit, rows, quarantined)

    def read(self, units: Sequence[Unit]) -> tuple[pa.Table, list[QuarantineRow]]:
        """Rows and quarantine of ``units``, in the plan's order. Raises TableError for one that is not done or not whole."""
        parts, quarantined = [], []
        for unit in units:
            with _readable(self.path(unit)) as path:
                part = pq.ParquetFile(path).read()
            quarantined += _quarantine_rows(part.schema)
            parts.append(part.replace_schema_metadata(None))
        if not parts:
            return tables.to_arrow(self.table, []), []
        return pa.concat_tables(parts), quarantined

    def quarantined(self, units: Sequence[Unit]) -> list[QuarantineRow]:
        """What ``units`` gave up on; reads footers alone. Raises as :meth:`read`."""
        found = []
        for unit in units:
            with _readable(self.path(unit)) as path:
                found += _quarantine_rows(pq.read_schema(path))
        return found

    def _commit(self, unit: Unit, rows: pa.Table, quarantined: Sequence[QuarantineRow]) -> bool:
        metadata = {**(rows.schema.metadata or {}), QUARANTINE_KEY: json.dumps([asdict(row) for row in quarantined])}
        buffer = io.BytesIO()
        pq.write_table(rows.replace_schema_metadata(metadata), buffer, compression="zstd")
        return commit_once(self.path(unit), buffer.getvalue())


@contextmanager
def _readable(path: Path) -> Iterator[Path]:
    try:
        yield path
    except (OSError, pa.ArrowException) as error:
        fix = f"delete {path} and run: avpref runs resume RUN"
        raise TableError(f"{path} cannot be read: {error}", "a whole unit", fix) from error


def _quarantine_rows(schema: pa.Schema) -> list[QuarantineRow]:
    return [QuarantineRow(**row) for row in json.loads((schema.metadata or {}).get(QUARANTINE_KEY, b"[]"))]
