"""The committed files of score units: one per scorer, so that a new scorer adds only its own work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from avpref.datasets.rows import QuarantineRow
from avpref.storage.files import Files
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles, record_plan

EMBEDDINGS = "embeddings"
"""Folder of the embeddings of reward models: one safetensors file per unit, tensors named ``CANDIDATE.text|video|audio``."""


@dataclass(frozen=True)
class ScoreFiles:
    """Units that several scorers finish together, each under its own fingerprint. A unit is done when all scorers have committed it.

    The methods are those of :class:`avpref.storage.unit_files.UnitFiles`. Picklable: workers carry it.
    """

    files: UnitFiles
    fingerprints: tuple[str, ...]

    @property
    def store(self) -> Files:
        """The store of the units of all stages."""
        return self.files.store

    def parts(self, unit: Unit) -> list[Unit]:
        """The unit under the fingerprint of each scorer, in the order of the scorers."""
        return [replace(unit, fingerprint=fingerprint) for fingerprint in self.fingerprints]

    def record_plan(self, name: str, units: Sequence[Unit]) -> None:
        """See :class:`avpref.storage.unit_files.CommittedUnits`; the fingerprints are the scorers'."""
        record_plan(self.files.files, units[0].stage, name, self.fingerprints)

    def exists(self, unit: Unit) -> bool:
        """Whether every scorer has committed the unit."""
        return all(self.files.exists(part) for part in self.parts(unit))

    def finished(self, units: Sequence[Unit]) -> list[Unit]:
        """Those of ``units`` that every scorer has committed, in their order."""
        done_by_all = list(units)
        for fingerprint in self.fingerprints:
            parts = [replace(unit, fingerprint=fingerprint) for unit in done_by_all]
            done = {part.name for part in self.files.finished(parts)}
            done_by_all = [unit for unit in done_by_all if unit.name in done]
        return done_by_all

    def commit(self, unit: Unit, rows: Sequence[object], quarantined: Sequence[QuarantineRow] = ()) -> bool:
        """Commit the quarantined candidates for every scorer that has not committed the unit. ``rows`` must be empty."""
        assert not rows
        return all([self.files.commit(part, [], quarantined) for part in self.parts(unit)])

    def join(self, unit: Unit, pieces: Sequence[Unit]) -> bool:
        """Commit, for each scorer, a unit that was finished in pieces."""
        halves = zip(*(self.parts(piece) for piece in pieces), strict=True)
        return all([self.files.join(part, half) for part, half in zip(self.parts(unit), halves, strict=True)])

    def quarantined(self, units: Sequence[Unit]) -> list[QuarantineRow]:
        """The quarantined candidates of ``units``, each once."""
        return distinct(self.files.quarantined([part for unit in units for part in self.parts(unit)]))


def distinct(rows: Iterable[QuarantineRow]) -> list[QuarantineRow]:
    """The rows, equal ones once: a clip that no scorer could read counts once, not once per scorer."""
    first: dict[tuple[str, str, str, str], QuarantineRow] = {}
    for row in rows:
        first.setdefault((row.candidate_id, row.stage, row.error, row.message), row)
    return list(first.values())
