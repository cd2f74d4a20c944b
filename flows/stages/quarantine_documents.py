"""The quarantine documents of a run: one JSON file per stage, with a row for every item that the stage gave up."""

from __future__ import annotations

from collections.abc import Sequence

from avpref.datasets.rows import QuarantineRow
from avpref.storage.run_folder import RunFolder

REFUSED_FILE = "refused.json"
"""The recordings that stage ``prompts`` refused."""
STAGES = ("sft", "generate", "score", "evaluate")
"""The other stages that write a quarantine document, in the order of the loop."""


def quarantine_file(stage: str) -> str:
    """Name of the document that ``stage`` writes."""
    return f"quarantine-{stage}.json"


QUARANTINE_FILES = (REFUSED_FILE, *(quarantine_file(stage) for stage in STAGES))
"""All quarantine documents, in the order in which the table ``quarantine`` lists their rows."""


def write_quarantine(run: RunFolder, file: str, rows: Sequence[QuarantineRow]) -> None:
    """Replace the document ``file`` with ``rows``."""
    run.documents.write(file, [vars(row) for row in rows])


def read_quarantine(run: RunFolder, file: str) -> list[QuarantineRow]:
    """The rows of the document ``file``; empty where it does not exist."""
    return [QuarantineRow(**row) for row in run.documents.read(file) or []]
