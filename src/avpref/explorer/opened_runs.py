"""The runs of a folder as the explorer has them open: settings, database, media, made files. A run that continues is read again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from avpref.domain import Candidate
from avpref.errors import InputError
from avpref.explorer.made_files import MadeFiles, made_files_of
from avpref.explorer.run_database import RunDatabase, candidate_of, open_database, table_versions
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_folder import RunFolder, list_runs, open_root

MAX_OPEN = 4
LOOK_S, LOOK_BUCKET_S = 1.0, 15.0
"""Seconds after which the versions of a run's tables are read again, from a folder and from a bucket."""


@dataclass
class OpenedRun:
    """One run. Build with :meth:`OpenedRuns.run`."""

    folder: RunFolder
    made: MadeFiles
    _database: RunDatabase | None = None
    _looked_s: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.folder.run_id

    @property
    def database(self) -> RunDatabase:
        """The database of the run's present tables. Raises StorageError where the run's store cannot be reached."""
        with self._lock:
            pause_s = LOOK_S if isinstance(self.folder.files, LocalFiles) else LOOK_BUCKET_S
            if self._database is not None and time.monotonic() - self._looked_s < pause_s:
                return self._database
            versions = tuple(sorted(table_versions(self.folder).items()))
            if self._database is None or self._database.versions != versions:
                self._database = open_database(self.folder, self.made.root)  # cursors keep a former one open
            self._looked_s = time.monotonic()
            return self._database

    def clip(self, candidate_id: str) -> Candidate:
        """A clip by its id. Raises InputError where the run has no such clip."""
        clip = candidate_of(self.database, candidate_id)
        if clip is None:
            raise InputError(f"run {self.run_id} has no clip {candidate_id}", "the id of a clip of this run")
        return clip


@dataclass(frozen=True)
class OpenedRuns:
    """The runs in ``runs``; at most four stay open."""

    runs: Path
    _opened: OrderedDict[str, OpenedRun] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def names(self) -> list[str]:
        """Ids of all runs, newest first."""
        return list_runs(self.runs)

    def run(self, run_id: str) -> OpenedRun:
        """The run ``run_id``. Raises InputError for an id of no run, and as :func:`avpref.storage.run_folder.open_root`."""
        with self._lock:
            opened = self._opened.pop(run_id, None)
            if opened is None:
                if run_id not in self.names():
                    raise InputError(
                        f"no run {run_id} in {self.runs}", "the id of a run", "avpref runs list --runs DIR"
                    )
                runs = self.runs.resolve()
                opened = OpenedRun(open_root(runs / run_id), made_files_of(runs, run_id))
            self._opened[run_id] = opened
            while len(self._opened) > MAX_OPEN:
                self._opened.popitem(last=False)
            return opened
