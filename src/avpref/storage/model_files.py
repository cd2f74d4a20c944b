"""Finished models: in the run's folder, and published to where the run keeps its files if that is elsewhere.

Training works on a local disk. A finished model is published file by file under the hash of its content, and a document
that is committed last says that it is whole and which content counts: of two drivers that train at once the first wins,
and the other takes over what the first published.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from avpref.errors import InputError
from avpref.identity import digest
from avpref.storage.file_hashes import sha256_of
from avpref.storage.object_files import ObjectFiles

PUBLISHED = "published.json"


class TrainedFiles(Protocol):
    """Files of finished models by the local folder that they were trained in. Picklable: workers carry it."""

    def bring(self, path: Path) -> bool:
        """Whether the local file or folder ``path`` is there, once what was published of its model has been fetched."""
        ...

    def publish(self, output: Path, names: Sequence[str]) -> None:
        """Make ``names`` of the finished model in ``output`` known to other machines, or take over what one published."""
        ...

    def published(self) -> list[str]:
        """Names of all published files, relative to the run."""
        ...


@dataclass(frozen=True)
class KeptModels:
    """Models stay where they were trained: the run's folder is all that there is."""

    def bring(self, path: Path) -> bool:
        """See :class:`TrainedFiles`."""
        return path.exists()

    def publish(self, output: Path, names: Sequence[str]) -> None:
        """See :class:`TrainedFiles`."""

    def published(self) -> list[str]:
        """See :class:`TrainedFiles`."""
        return []


@dataclass(frozen=True)
class PublishedModels:
    """Models in a bucket, ``FOLDER/CONTENT/NAME`` with ``FOLDER/published.json``; ``root`` is their local folder."""

    files: ObjectFiles
    root: Path

    def bring(self, path: Path) -> bool:
        """See :class:`TrainedFiles`. Raises InputError for an object that is not what was published."""
        if path.is_file() or not path.is_relative_to(self.root):
            return path.exists()
        found = self._document(path.relative_to(self.root).parts[0])
        if found is None:
            return False
        self._fetch(found)
        return path.exists()

    def publish(self, output: Path, names: Sequence[str]) -> None:
        """See :class:`TrainedFiles`. Files that the trainer did not write are left out."""
        folder = output.relative_to(self.root).as_posix()
        hashes = {name: sha256_of(output / name) for name in names if (output / name).exists()}
        own = _Publication(folder, digest("model", hashes), hashes)
        counts = self._document(folder)
        if counts is None:
            for name in hashes:
                self.files.upload(own.name(name), output / name)
            document = {"content": own.content, "files": hashes}
            self.files.commit_once(f"{folder}/{PUBLISHED}", json.dumps(document, indent=1).encode())
            counts = self._document(folder)
        if counts is not None and counts != own:
            self._fetch(counts)

    def published(self) -> list[str]:
        """See :class:`TrainedFiles`."""
        return [f"models/{name}" for name in self.files.names()]

    def _document(self, folder: str) -> _Publication | None:
        name = f"{folder}/{PUBLISHED}"
        try:
            raw = json.loads(self.files.read(name))
            return _Publication(folder, raw["content"], dict(raw["files"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            place = self.files.uri(name)
            raise InputError(f"{place}: {error}", "what a finished training published", f"remove {place}") from error

    def _fetch(self, found: _Publication) -> None:
        for name, sha256 in found.hashes.items():
            path = self.root / found.folder / name
            if not path.exists() or sha256_of(path) != sha256:
                self.files.download(found.name(name), path, sha256)


@dataclass(frozen=True)
class _Publication:
    """One model as it was published: file name → SHA-256."""

    folder: str
    content: str
    hashes: dict[str, str]

    def name(self, name: str) -> str:
        """Where a file of it is."""
        return f"{self.folder}/{self.content}/{name}"
