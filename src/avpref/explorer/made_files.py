"""Files that the explorer makes from a run and keeps: databases, thumbnails, spectrograms, sounds.

They lie in ``.explorer/<run id>/`` beside the runs, never inside a run's folder, and may be deleted at any time. Their names are
hashes of what they are made from. Where the folder of runs cannot be written, they lie in a folder of this process instead.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from avpref.errors import StorageError
from avpref.storage.local_files import commit_once

FOLDER = ".explorer"


@dataclass(frozen=True)
class MadeFiles:
    """A folder of files that are made when they are first asked for. One maker works at a time for one name."""

    root: Path
    _locks: dict[str, threading.Lock] = field(default_factory=dict, init=False, compare=False, repr=False)

    def path(self, name: str, make: Callable[[], bytes]) -> Path:
        """The file ``name``, made by ``make`` unless it exists. Raises as ``make`` and StorageError."""
        path = self.root / name
        if not path.exists():
            with self._locks.setdefault(name, threading.Lock()):
                if not path.exists():
                    commit_once(path, make())
        return path


def made_files_of(runs: Path, run_id: str) -> MadeFiles:
    """The made files of a run: beside the runs, or in a temporary folder where the folder of runs is read-only."""
    root = runs / FOLDER / run_id
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return MadeFiles(root)
    except OSError:
        pass  # a read-only folder of runs
    try:
        return MadeFiles(Path(tempfile.mkdtemp(prefix="avpref-explorer-")))
    except OSError as error:
        raise StorageError(f"cannot write {root} nor a temporary folder: {error}", "a folder to write to") from error
