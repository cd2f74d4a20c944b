"""Small JSON documents of a run, and files that are kept both in the run's store and in its folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles


@dataclass(frozen=True)
class Documents:
    """Documents under ``files``; ``folder`` is the run's folder on this machine, the same place unless a bucket is used."""

    files: Files
    folder: LocalFiles

    def write(self, name: str, document: Any) -> None:
        """Replace a small JSON document."""
        self.files.replace(name, json.dumps(document, indent=1, ensure_ascii=False).encode())

    def read(self, name: str) -> Any:
        """A JSON document, or None where there is none."""
        try:
            return json.loads(self.files.read(name))
        except FileNotFoundError:
            return None

    def commit_everywhere(self, name: str, data: bytes) -> None:
        """Create a file in the store and in the folder, where it does not exist yet."""
        for files in self.copies():
            files.commit_once(name, data)

    def replace_everywhere(self, name: str, data: bytes) -> None:
        """Replace a file in the store and in the folder, where its content differs."""
        for files in self.copies():
            if not files.exists(name) or files.read(name) != data:
                files.replace(name, data)

    def copies(self) -> list[Files]:
        """The store and then the folder, once where they are the same."""
        return [self.files] if self.files == self.folder else [self.files, self.folder]
