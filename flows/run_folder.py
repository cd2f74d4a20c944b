"""A run's folder: the truth about a run. Everything in it is named by what it depends on.

run.json  config.yaml            who this is
units/<stage>/<fingerprint>/     committed units
clips/                           candidate media, named by id and content hash
tables/<table>/                  sealed versions and CURRENT
models/<stage>-<fingerprint>/    checkpoints and trained weights
result.json report.html plots/   what came out
events.jsonl                     what happened
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from avpref import __version__, config
from avpref.cluster import Unit
from avpref.datasets import tables, views
from avpref.datasets.rows import QuarantineRow
from avpref.datasets.tables import Table
from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, SchemaVersionError, StorageError
from avpref.flows.units import UnitFiles
from avpref.identity import digest
from avpref.logs import EventLog
from avpref.settings import Settings
from avpref.store import Manifest, TableStore, commit_once, replace, storage_errors, sweep_temporaries

RUN_FILE = "run.json"
CONFIG_FILE = "config.yaml"
RESULT_FILE = "result.json"


def run_id(settings: Settings) -> str:
    """The run's identity: name, seed and the hash of its settings. The executor does not enter."""
    return f"{settings.run.name}-s{settings.run.seed}-{config.identity_hash(settings)}"


@dataclass(frozen=True)
class RunFolder:
    """One run's folder and its settings. Build with :func:`create` or :func:`open_run`."""

    root: Path
    settings: Settings

    @property
    def run_id(self) -> str:
        """The run's id, which is the folder's name."""
        return self.root.name

    @property
    def events(self) -> EventLog:
        """The structured log."""
        return EventLog(self.root / "events.jsonl")

    @property
    def tables(self) -> TableStore:
        """Sealed tables."""
        return TableStore(self.root / "tables")

    def units(self, table: Table) -> UnitFiles:
        """Committed units whose rows belong to ``table``."""
        return UnitFiles(self.root / "units", table)

    def model_folder(self, stage: str, fingerprint: str) -> Path:
        """Folder of a training stage's checkpoints and result."""
        return self.root / "models" / f"{stage}-{fingerprint}"

    def fingerprint(self, stage: str, *parts: object) -> str:
        """Stage fingerprint: the product's version, the schema's, and everything that the stage depends on."""
        return digest(stage, __version__, SCHEMA_VERSION, *parts)

    def is_sealed(self, table: Table, fingerprint: str) -> bool:
        """Whether the current version of ``table`` was made from exactly these inputs."""
        manifest = self.tables.current(table.name)
        return manifest is not None and manifest.fingerprint == fingerprint

    def seal(self, table: Table, fingerprint: str, rows: pa.Table) -> Manifest:
        """Write ``rows`` as the current version of ``table``."""
        return self.tables.seal(table.name, fingerprint, [(tables.to_bytes(rows), rows.num_rows)])

    def read(self, table: Table) -> pa.Table:
        """The current version of ``table``. Raises InputError where the stage that makes it has not run."""
        manifest = self.tables.current(table.name)
        if manifest is None:
            fix = f"avpref runs resume {self.run_id} --runs {self.root.parent}"
            raise InputError(f"run {self.run_id} has no table {table.name} yet", "a finished stage", fix)
        return tables.read_all(self.tables.paths(manifest), table)

    def has(self, table: Table) -> bool:
        """Whether ``table`` has a sealed version."""
        return self.tables.current(table.name) is not None

    def seal_units(self, table: Table, units: Sequence[Unit]) -> list[QuarantineRow]:
        """Compact finished units into one sealed version of ``table``; returns what they quarantined."""
        fingerprint = digest("units", [[unit.fingerprint, unit.name] for unit in units])
        rows, quarantined = self.units(table).read(units)
        if not self.is_sealed(table, fingerprint):
            self.seal(table, fingerprint, tables.conform(table, rows, fingerprint))
        return quarantined

    def num_rows(self, table: Table) -> int:
        """Rows of the current version of ``table``, from its manifest; 0 where there is none."""
        manifest = self.tables.current(table.name)
        return 0 if manifest is None else manifest.rows

    def connect(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with one view per sealed table of the run, over the manifests' files."""
        manifests = [self.tables.current(table.name) for table in tables.TABLES]
        return views.connect({found.table: self.tables.paths(found) for found in manifests if found is not None})

    def write_json(self, name: str, document: Any) -> None:
        """Replace a small JSON document of the run."""
        replace(self.root / name, json.dumps(document, indent=1, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """A JSON document of the run, or None."""
        path = self.root / name
        return json.loads(path.read_text()) if path.exists() else None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Own the run for the length of the block. Raises StorageError naming the other owner."""
        path = self.root / "lock"
        with storage_errors(path):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 200).decode() or "another command"
            os.close(handle)
            raise StorageError(
                f"run {self.run_id} is in use by {owner}", "one command per run", "wait for it, or stop it"
            ) from None
        try:
            with storage_errors(path):
                os.truncate(handle, 0)
                os.write(handle, f"process {os.getpid()} on {socket.gethostname()}".encode())
            sweep_temporaries(self.root)
            self._record_settings()
            yield
        finally:
            os.close(handle)

    def _record_settings(self) -> None:
        """Make the folder say what this execution was asked for; its id says that it can differ in the executor alone."""
        path, text = self.root / CONFIG_FILE, config.to_yaml(self.settings).encode()
        if path.read_bytes() != text:
            replace(path, text)


def create(runs: Path, settings: Settings) -> RunFolder:
    """The folder of the run that ``settings`` describe, made if it is not there yet.

    Raises StorageError for a folder that cannot be written, SchemaVersionError for one of another schema.
    """
    root = Path(runs).resolve() / run_id(settings)
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    document = {
        "schema_version": SCHEMA_VERSION,
        "run_id": root.name,
        "seed": settings.run.seed,
        "version": __version__,
    }
    commit_once(root / CONFIG_FILE, config.to_yaml(settings).encode())
    commit_once(root / RUN_FILE, json.dumps(document, indent=1).encode())
    _check_schema(root)
    return RunFolder(root, settings)


def open_run(runs: Path, run: str = "") -> RunFolder:
    """An existing run by id (or an unambiguous beginning of one); without ``run`` the newest.

    Raises InputError naming the runs that exist, SchemaVersionError for a run of another schema.
    """
    known = list_runs(runs)
    matching = [name for name in known if name == run] or [name for name in known if name.startswith(run)]
    if not matching or (run and len(matching) > 1):
        found = f"no run {run!r} in {runs}" if not matching else f"{run!r} may mean {', '.join(matching)}"
        raise InputError(found, f"one of: {', '.join(known) or '(none yet)'}", "avpref runs list --runs DIR")
    return open_root(Path(runs).resolve() / matching[0])


def open_root(root: Path) -> RunFolder:
    """The run in ``root``. Raises SchemaVersionError for one written by another schema, ConfigError for broken settings."""
    _check_schema(root)
    return RunFolder(root, config.load(root / CONFIG_FILE, environment={}).settings)


def list_runs(runs: Path) -> list[str]:
    """Ids of the runs in a folder, newest first."""
    if not Path(runs).is_dir():
        return []
    found = [path.parent for path in Path(runs).glob(f"*/{RUN_FILE}")]
    return [path.name for path in sorted(found, key=lambda path: (-_last_change(path), path.name))]


def _last_change(root: Path) -> float:
    marks = [root / RESULT_FILE, root / "events.jsonl", root / RUN_FILE]
    return max(mark.stat().st_mtime for mark in marks if mark.exists())


def _check_schema(root: Path) -> None:
    try:
        version = json.loads((root / RUN_FILE).read_text())["schema_version"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(
            f"{root / RUN_FILE}: {error}", "a run made by this product", "use a new folder: --runs DIR"
        ) from error
    if version != SCHEMA_VERSION:
        found = f"run folder {root} has schema version {version}"
        raise SchemaVersionError(
            found, f"schema version {SCHEMA_VERSION}", "use a new folder (--runs DIR), or the version that made it"
        )


def free_space_bytes(path: Path) -> int:
    """Free bytes on the file system of ``path``."""
    return shutil.disk_usage(path).free
