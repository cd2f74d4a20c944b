"""A pool's folder: the state of a curation. It is built like a run's, with units, sealed tables and a log.

pool.json  config.yaml           name and configuration
units/<stage>/<fingerprint>/     committed units
tables/<table>/                  sealed versions and CURRENT
clips/                           written clips, named by id and content hash
clips.csv clips.parquet lost.csv the result: clips with texts, and everything that is not among them
events.jsonl progress/           the log and the progress

The folder is named by ``run.name`` alone: other thresholds, more sources or another measure continue the same pool, because each stage's
fingerprint says what its results depend on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from avpref import __version__
from avpref.config.executor_settings import Executor
from avpref.config.observe_settings import ObserveSettings
from avpref.config.pool.pool_loading import load_pool, pool_to_yaml
from avpref.config.pool.pool_settings import PoolConfig
from avpref.datasets.tables import Table, to_arrow
from avpref.datasets.views import Limits, open_connection
from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError, SchemaVersionError
from avpref.media.reading_rules import HdrHandling, ReadingRules
from avpref.pool.pool_tables import POOL_TABLES
from avpref.storage.documents import CONFIG_FILE
from avpref.storage.local_files import LocalFiles, storage_errors
from avpref.storage.work_folder import WorkFolder

POOL_FILE = "pool.json"
QUERIES = Path(__file__).with_name("queries")


@dataclass(frozen=True)
class PoolFolder(WorkFolder):
    """One pool's folder and its configuration. Build with :func:`create_pool` or :func:`open_pool_folder`."""

    config: PoolConfig

    @property
    def executor(self) -> Executor:
        """The executor that runs the units of the stages."""
        return self.config.executor

    @property
    def observe(self) -> ObserveSettings:
        """Settings of progress, metrics and cost."""
        return self.config.observe

    @property
    def max_quarantined_share(self) -> float:
        """The share of a stage's items, 0 to 1, that may be quarantined."""
        return self.config.run.max_quarantined_share

    @property
    def rules(self) -> ReadingRules:
        """How recordings are read."""
        return ReadingRules(self.config.clip.audio_track, HdrHandling(self.config.clip.hdr))

    def record_settings(self) -> None:
        """See :class:`avpref.storage.work_folder.WorkFolder`."""
        self.documents.replace_everywhere(CONFIG_FILE, pool_to_yaml(self.config).encode())

    def connect(self) -> duckdb.DuckDBPyConnection:
        """DuckDB with one view per table of the pool, over the manifests' files; a table that was never sealed is empty.

        Raises TableError where a file is missing or was changed.
        """
        con = open_connection(Limits())
        for table in POOL_TABLES:
            _view(con, self, table)
        con.execute(sql("all_measures"))
        return con

    def require(self, table: Table, stage: str) -> None:
        """Raises InputError unless ``table`` is sealed, with the command that runs ``stage``."""
        if not self.tables.has(table):
            fix = f"avpref pool {stage} --config {self.root / CONFIG_FILE} --pools {self.runs}"
            raise InputError(f"pool {self.root.name} has no table {table.name} yet", f"a finished stage {stage}", fix)


def arrow_rows(con: duckdb.DuckDBPyConnection, name: str, parameters: Mapping[str, object] | None = None) -> pa.Table:
    """The result of the query ``name`` of this package."""
    result: pa.Table = con.sql(sql(name), params=dict(parameters) if parameters else None).to_arrow_table()
    return result


def sql(name: str) -> str:
    """The text of ``queries/<name>.sql`` of this package."""
    return (QUERIES / f"{name}.sql").read_text(encoding="utf-8")


def _view(con: duckdb.DuckDBPyConnection, folder: PoolFolder, table: Table) -> None:
    store = folder.tables.store
    if not folder.tables.has(table):
        con.register(table.name, to_arrow(table, []))
        return
    assert isinstance(store.files, LocalFiles)
    paths = [str(store.files.path(name)) for name in store.names(folder.tables.require(table))]
    con.execute(f"SET VARIABLE files_{table.name} = $files", {"files": paths})
    con.execute(
        f"CREATE VIEW {table.name} AS SELECT * FROM read_parquet(getvariable('files_{table.name}'), hive_partitioning = false)"
    )


def create_pool(pools: Path, config: PoolConfig) -> PoolFolder:
    """The folder of the pool that ``config`` names, created unless it exists.

    Raises StorageError for a folder that cannot be written, SchemaVersionError for a pool of another schema.
    """
    root = Path(pools).resolve() / config.run.name
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    folder = PoolFolder(root, config)
    document = {"schema_version": SCHEMA_VERSION, "pool": root.name, "version": __version__}
    if not folder.files.commit_once(POOL_FILE, json.dumps(document, indent=1).encode()):
        _check_schema(folder.files.read(POOL_FILE), root)
    folder.files.commit_once(CONFIG_FILE, pool_to_yaml(config).encode())
    return folder


def open_pool_folder(pools: Path, pool: str = "") -> PoolFolder:
    """An existing pool by name, or an unambiguous beginning of one; without ``pool`` the one that changed last.

    Raises InputError that names the existing pools, SchemaVersionError for a pool of another schema.
    """
    known = list_pools(pools)
    matching = [name for name in known if name == pool] or [name for name in known if name.startswith(pool)]
    if not matching or (pool and len(matching) > 1):
        found = f"no pool {pool!r} in {pools}" if not matching else f"{pool!r} may mean {', '.join(matching)}"
        expected = f"one of: {', '.join(known) or '(none yet)'}"
        raise InputError(found, expected, "avpref pool build --config configs/pool.yaml --source DIR")
    root = Path(pools).resolve() / matching[0]
    _check_schema((root / POOL_FILE).read_bytes(), root)
    return PoolFolder(root, load_pool(root / CONFIG_FILE, environment={}))


def list_pools(pools: Path) -> list[str]:
    """Names of the pools in a folder, the one that changed last first."""
    if not Path(pools).is_dir():
        return []
    roots = [path.parent for path in Path(pools).glob(f"*/{POOL_FILE}")]
    return [root.name for root in sorted(roots, key=lambda root: (-(root / CONFIG_FILE).stat().st_mtime, root.name))]


def _check_schema(data: bytes, root: Path) -> None:
    try:
        version = json.loads(data)["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{root / POOL_FILE}: {error}", "a pool made by this product", "use another --pools DIR"
        ) from error
    if version != SCHEMA_VERSION:
        found = f"pool {root} has schema version {version}"
        raise SchemaVersionError(found, f"schema version {SCHEMA_VERSION}", "use another folder: --pools DIR")
