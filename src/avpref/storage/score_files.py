"""The committed files of score units: one per scorer, so that a new scorer adds its own work alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from avpref.datasets.rows import QuarantineRow
from avpref.storage.files import Files
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles, record_plan

EMBEDDINGS = "embeddings"
"""Folder of what reward models set aside: one safetensors file per unit, tensors named ``CANDIDATE.text|video|audio``."""
"""Folder of a run where embeddings are kept."""


@dataclass(frozen=True)
class ScoreFiles:
    """Units that several scorers finish together, each under its own fingerprint. A unit is done when all of them are.

    Same verbs as :class:`avpref.storage.unit_files.UnitFiles`. Picklable: workers carry it.
    """

    files: UnitFiles
    fingerprints: tuple[str, ...]

    @property
    def store(self) -> Files:
        """The store of the units of all stages."""
        return self.files.store

    def parts(self, unit: Unit) -> list[Unit]:
        """The unit as each scorer commits it, in the order of the scorers."""
        return [replace(unit, fingerprint=fingerprint) for fingerprint in self.fingerprints]

    def record_plan(self, name: str, units: Sequence[Unit]) -> None:
        """See :class:`avpref.storage.unit_files.CommittedUnits`; they are the scorers'."""
        record_plan(self.files.files, units[0].stage, name, self.fingerprints)

    def exists(self, unit: Unit) -> bool:
        """Whether every scorer is done with the unit."""
        return all(self.files.exists(part) for part in self.parts(unit))

    def finished(self, units: Sequence[Unit]) -> list[Unit]:
        """Those of ``units`` that every scorer is done with."""
        left = list(units)
        for fingerprint in self.fingerprints:
            done = {
                part.name for part in self.files.finished([replace(unit, fingerprint=fingerprint) for unit in left])
            }
            left = [unit for unit in left if unit.name in done]
        return left

    def commit(self, unit: Unit, rows: Sequence[object], quarantined: Sequence[QuarantineRow] = ()) -> bool:
        """Give the unit up for those scorers that are not done with it. ``rows`` must be empty: scorers commit their own."""
        assert not rows
        return all([self.files.commit(part, [], quarantined) for part in self.parts(unit)])

    def join(self, unit: Unit, pieces: Sequence[Unit]) -> bool:
        """Commit a unit that was finished in pieces."""
        halves = zip(*(self.parts(piece) for piece in pieces), strict=True)
        return all([self.files.join(part, half) for part, half in zip(self.parts(unit), halves, strict=True)])

    def quarantined(self, units: Sequence[Unit]) -> list[QuarantineRow]:
        """What ``units`` gave up on, each candidate once."""
        return distinct(self.files.quarantined([part for unit in units for part in self.parts(unit)]))


def distinct(rows: Iterable[QuarantineRow]) -> list[QuarantineRow]:
    """The first row of each candidate and stage: one that no scorer could read is one loss, not one per scorer."""
    found: dict[tuple[str, str], QuarantineRow] = {}
    for row in rows:
        found.setdefault((row.candidate_id, row.stage), row)
    return list(found.values())
