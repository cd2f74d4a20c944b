"""The quarantine documents of a run: one JSON file per stage, with a row for every item that the stage gave up."""

from __future__ import annotations

from collections.abc import Sequence

from avpref.datasets.rows import QuarantineRow
from avpref.storage.run_folder import RunFolder


def quarantine_file(stage: str) -> str:
    """Name of the document that ``stage`` writes; :data:`avpref.storage.documents.QUARANTINE_FILES` lists them all."""
    return f"quarantine-{stage}.json"


def write_quarantine(run: RunFolder, file: str, rows: Sequence[QuarantineRow]) -> None:
    """Replace the document ``file`` with ``rows``."""
    run.documents.write(file, [vars(row) for row in rows])


def read_quarantine(run: RunFolder, file: str) -> list[QuarantineRow]:
    """The rows of the document ``file``; empty where it does not exist."""
    return [QuarantineRow(**row) for row in run.documents.read(file) or []]
