"""A folder that stages work for: committed units, sealed tables, small documents, events, one owner at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from avpref import __version__
from avpref.datasets.tables import Table
from avpref.domain import SCHEMA_VERSION
from avpref.identity import digest
from avpref.storage.documents import EVENTS_FILE, Documents
from avpref.storage.event_log import EventLog
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles, sweep_temporaries
from avpref.storage.lock import owned
from avpref.storage.run_tables import RunTables
from avpref.storage.sealed_tables import TableStore
from avpref.storage.sibling_runs import SiblingRun, siblings
from avpref.storage.unit_files import UnitFiles


@dataclass(frozen=True)
class WorkFolder:
    """A folder with its stores and log; :class:`avpref.storage.run_folder.RunFolder` is the work folder of a run."""

    root: Path

    @property
    def runs(self) -> Path:
        """The folder of runs, which holds this folder and its siblings."""
        return self.root.parent

    @property
    def files(self) -> Files:
        """The store of units, media, tables and documents: the folder itself, unless a bucket is used."""
        return LocalFiles(self.root)

    @property
    def unit_files(self) -> Files:
        """The store of committed units."""
        return self.files.subfolder("units")

    @property
    def media(self) -> Files:
        """The store that the paths of candidates' clips refer to."""
        return self.files

    @property
    def shared(self) -> Files:
        """Files that this folder and its siblings share."""
        return LocalFiles(self.runs)

    @property
    def tables(self) -> RunTables:
        """Sealed tables."""
        return RunTables(TableStore(self.files.subfolder("tables")), self.root)

    @property
    def documents(self) -> Documents:
        """Small JSON documents."""
        return Documents(self.files, LocalFiles(self.root))

    @cached_property
    def events(self) -> EventLog:
        """The structured log; one object per folder object, because it remembers where the file ends."""
        return EventLog(self.root / EVENTS_FILE, self.root.name)

    def units(self, table: Table) -> UnitFiles:
        """The committed units whose rows belong to ``table``."""
        return UnitFiles(self.unit_files, table)

    def siblings(self) -> Sequence[SiblingRun]:
        """The other runs of the same folder of runs, whose finished work may be reused."""
        return siblings(self.shared, self.root.name)

    def fingerprint(self, stage: str, *parts: object) -> str:
        """Stage fingerprint: a hash of the product's version, the schema version, and ``parts``, all inputs of the stage."""
        return digest(stage, __version__, SCHEMA_VERSION, *parts)

    @contextlib.contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """Own the folder for the length of the block; see :func:`avpref.storage.lock.owned`."""
        with owned(self.root, wait):
            self.record_settings()
            sweep_temporaries(self.root)
            yield

    def record_settings(self) -> None:
        """Write the settings of this execution into the folder; only its owner calls this."""
