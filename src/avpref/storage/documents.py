"""Small JSON documents of a run, and files that are kept both in the run's store and in its folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from avpref.datasets.rows import QuarantineRow
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles


def quarantine_file(stage: str) -> str:
    """Name of the quarantine document of ``stage``; :data:`QUARANTINE_FILES` lists them all."""
    return f"quarantine-{stage}.json"


RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
EVENTS_FILE = "events.jsonl"
RESULT_FILE = "result.json"
VERDICT_FILE = "evaluation.json"
REPORT_FILE = "report.html"
REFUSED_FILE = "refused.json"
QUARANTINE_FILES = (
    REFUSED_FILE,
    *(quarantine_file(stage) for stage in ("prior", "sft", "generate", "score", "train", "evaluate")),
)
"""Lists of the candidates that stages gave up, in the order of the stages; the first are recordings refused at import."""
SUMMARY_FILE = "summary.json"
"""The file of a model's folder that training writes last."""


@dataclass(frozen=True)
class Documents:
    """Documents under ``files``; ``folder`` is the run's folder on this machine, the same store unless a bucket is used."""

    files: Files
    folder: LocalFiles

    def write(self, name: str, document: Any) -> None:
        """Replace a small JSON document."""
        self.files.replace(name, json.dumps(document, indent=1, ensure_ascii=False).encode())

    def read(self, name: str) -> Any:
        """A JSON document, None where there is no file ``name``."""
        try:
            return json.loads(self.files.read(name))
        except FileNotFoundError:
            return None

    def read_quarantine(self, name: str) -> list[QuarantineRow]:
        """The rows of the quarantine document ``name``; empty where it does not exist."""
        return [QuarantineRow(**row) for row in self.read(name) or []]

    def write_quarantine(self, name: str, rows: Sequence[QuarantineRow]) -> None:
        """Replace the quarantine document ``name``, one of :data:`QUARANTINE_FILES`."""
        assert name in QUARANTINE_FILES, name
        self.write(name, [vars(row) for row in rows])

    def quarantined(self) -> list[QuarantineRow]:
        """Every item that a finished stage of the run has given up, in the order of the stages."""
        return [row for name in QUARANTINE_FILES for row in self.read_quarantine(name)]

    def commit_everywhere(self, name: str, data: bytes) -> None:
        """Create a file in the store and in the folder, unless it exists there."""
        for files in self.copies():
            files.commit_once(name, data)

    def replace_everywhere(self, name: str, data: bytes) -> None:
        """Replace a file in the store and in the folder, where its content differs."""
        for files in self.copies():
            if not files.exists(name) or files.read(name) != data:
                files.replace(name, data)

    def copies(self) -> list[Files]:
        """The store, then the folder; one entry where they are the same."""
        return [self.files] if self.files == self.folder else [self.files, self.folder]
