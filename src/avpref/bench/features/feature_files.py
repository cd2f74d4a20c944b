"""The on-disk store of features and scores: committed unit files of one table, a folder per fingerprint of a network or scorer.

All benchmarks under one folder share it, so a clip that was worked on before, in whatever set, is not worked on again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from avpref.bench.features.parts import FeatureItem
from avpref.datasets.metric_tables import Table
from avpref.datasets.rows import QuarantineRow
from avpref.domain import ScoreStatus
from avpref.errors import TableError
from avpref.storage.files import Files
from avpref.storage.score_files import distinct
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles, record_plan

STAGE = "features"
_TEXTS = ("key", "part", "name", "status", "reason", "kind")
FEATURES = Table(
    "bench_features",
    pa.schema(
        [pa.field(name, pa.string(), nullable=False) for name in _TEXTS]
        + [pa.field("width", pa.int64(), nullable=False), pa.field("values", pa.binary(), nullable=False)]
        + [pa.field("elapsed_ms", pa.float64(), nullable=False)]
    ),
)
"""Values of a clip: ``key`` is the clip's identity for the part, ``name`` an array or a metric, ``kind`` the type of the values."""


@dataclass(frozen=True)
class FeatureRow:
    """A row of :data:`FEATURES`: an array [rows, ``width``], or a reason. A status of ok may come with a remark as its reason."""

    key: str
    part: str
    name: str
    status: str
    reason: str
    kind: str
    width: int
    values: bytes
    elapsed_ms: float


@dataclass(frozen=True, eq=False)
class Result:
    """An array [rows, D] of a clip, or None with the ``reason``; of an array, the reason is a remark."""

    values: NDArray[np.floating] | None
    reason: str = ""


def array_row(key: str, part: str, name: str, result: Result, elapsed_ms: float) -> FeatureRow:
    """The row of a result."""
    if result.values is None:
        return FeatureRow(key, part, name, ScoreStatus.SKIPPED.value, result.reason, "", 0, b"", elapsed_ms)
    values = np.atleast_2d(np.ascontiguousarray(result.values))
    kind, content = values.dtype.newbyteorder("<").str, values.astype(values.dtype.newbyteorder("<")).tobytes()
    return FeatureRow(key, part, name, ScoreStatus.OK.value, result.reason, kind, values.shape[1], content, elapsed_ms)


def result_of(row: Mapping[str, Any]) -> Result:
    """The result in a row."""
    if row["status"] != ScoreStatus.OK:
        return Result(None, row["reason"])
    return Result(np.frombuffer(row["values"], row["kind"]).reshape(-1, row["width"]), row["reason"])


@dataclass(frozen=True)
class FeatureFiles:
    """The committed units of the store; see :class:`avpref.storage.unit_files.CommittedUnits`. A unit has a file per part.

    ``fingerprints`` are those of the parts, by name. Picklable: workers carry it.
    """

    files: UnitFiles
    fingerprints: tuple[tuple[str, str], ...]

    @property
    def store(self) -> Files:
        """See :class:`avpref.storage.unit_files.CommittedUnits`."""
        return self.files.store

    def parts(self, unit: Unit[FeatureItem]) -> dict[str, Unit]:
        """The unit under the fingerprint of each part that its items lack."""
        names = set(unit.items[0].parts)
        return {
            name: replace(unit, fingerprint=fingerprint) for name, fingerprint in self.fingerprints if name in names
        }

    def record_plan(self, name: str, units: Sequence[Unit[FeatureItem]]) -> None:
        """See :class:`avpref.storage.unit_files.CommittedUnits`."""
        record_plan(self.files.files, units[0].stage, name, [fingerprint for _, fingerprint in self.fingerprints])

    def exists(self, unit: Unit[FeatureItem]) -> bool:
        """Whether every part has committed the unit."""
        return all(self.files.exists(part) for part in self.parts(unit).values())

    def finished(self, units: Sequence[Unit[FeatureItem]]) -> list[Unit[FeatureItem]]:
        """See :class:`avpref.storage.unit_files.CommittedUnits`."""
        return [unit for unit in units if self.exists(unit)]

    def commit(
        self, unit: Unit[FeatureItem], rows: Sequence[object], quarantined: Sequence[QuarantineRow] = ()
    ) -> bool:
        """Commit the quarantined clips for every part that has not committed the unit. ``rows`` must be empty."""
        assert not rows
        return all([self.files.commit(part, [], quarantined) for part in self.parts(unit).values()])

    def join(self, unit: Unit[FeatureItem], pieces: Sequence[Unit[FeatureItem]]) -> bool:
        """See :class:`avpref.storage.unit_files.CommittedUnits`."""
        halves = [self.parts(piece) for piece in pieces]
        joined = [self.files.join(part, [half[name] for half in halves]) for name, part in self.parts(unit).items()]
        return all(joined)

    def quarantined(self, units: Sequence[Unit[FeatureItem]]) -> list[QuarantineRow]:
        """The quarantined clips of ``units``, each once."""
        return distinct(self.files.quarantined([part for unit in units for part in self.parts(unit).values()]))

    def results(self, name: str, wanted: set[str]) -> dict[str, dict[str, Result]]:
        """Stored results of a part: key of a clip → array or metric → result, for the keys in ``wanted``. Of two, the first counts.

        Raises TableError for a unit that cannot be read.
        """
        results: dict[str, dict[str, Result]] = {}
        for file in self.files.files.children(f"{STAGE}/{dict(self.fingerprints)[name]}"):
            for row in self._rows(file):
                if row["key"] in wanted:
                    results.setdefault(row["key"], {}).setdefault(row["name"], result_of(row))
        return results

    def _rows(self, file: str) -> list[dict[str, Any]]:
        store = self.files.files
        try:
            with store.open(file) as stream:
                rows: list[dict[str, Any]] = pq.ParquetFile(stream).read().to_pylist()
        except (OSError, pa.ArrowException) as error:
            uri = store.uri(file)
            raise TableError(f"{uri} cannot be read: {error}", "a whole unit", f"rm '{uri}', and run again") from error
        return rows
