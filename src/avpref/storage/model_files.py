"""Finished models: in the run's folder, and published to the run's bucket if it uses one.

Training works on a local disk. A finished model is published file by file under the hash of its content. A document that is committed
last names the content that counts: of two drivers that train at the same time the first wins, and the other fetches its files.
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
    """Files of finished models, named by the local folder that they were trained in. Picklable: workers carry it."""

    def bring(self, path: Path) -> bool:
        """Fetch the published files of the model of ``path`` if need be; returns whether the local file or folder ``path`` exists."""
        ...

    def publish(self, output: Path, names: Sequence[str]) -> None:
        """Publish ``names`` of the finished model in ``output``, or fetch the files that another machine published first."""
        ...

    def published(self) -> list[str]:
        """Names of all published files, relative to the run's folder."""
        ...


@dataclass(frozen=True)
class KeptModels:
    """Models stay in the run's folder, where they were trained; there is no bucket."""

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
        """See :class:`TrainedFiles`. Raises InputError for an object whose content differs from the published hash."""
        if path.is_file() or not path.is_relative_to(self.root):
            return path.exists()
        publication = self._document(path.relative_to(self.root).parts[0])
        if publication is None:
            return False
        self._fetch(publication)
        return path.exists()

    def publish(self, output: Path, names: Sequence[str]) -> None:
        """See :class:`TrainedFiles`. Files that the trainer did not write are left out."""
        folder = output.relative_to(self.root).as_posix()
        hashes = {name: sha256_of(output / name) for name in names if (output / name).exists()}
        own = _Publication(folder, digest("model", hashes), hashes)
        final = self._document(folder)
        if final is None:
            for name in hashes:
                self.files.upload(own.name(name), output / name)
            document = {"content": own.content, "files": hashes}
            self.files.commit_once(f"{folder}/{PUBLISHED}", json.dumps(document, indent=1).encode())
            final = self._document(folder)
        if final is not None and final != own:
            self._fetch(final)

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
            uri = self.files.uri(name)
            raise InputError(f"{uri}: {error}", "the document of a published model", f"remove {uri}") from error

    def _fetch(self, publication: _Publication) -> None:
        for name, sha256 in publication.hashes.items():
            path = self.root / publication.folder / name
            if not path.exists() or sha256_of(path) != sha256:
                self.files.download(publication.name(name), path, sha256)


@dataclass(frozen=True)
class _Publication:
    """A published model. ``hashes``: file name → SHA-256."""

    folder: str
    content: str
    hashes: dict[str, str]

    def name(self, name: str) -> str:
        """Name of a file of the model in the store."""
        return f"{self.folder}/{self.content}/{name}"
