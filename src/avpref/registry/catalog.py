"""All runs of a folder in one catalogue: sealed table versions, adapter records, aliases, and SQL over them.

Neither torch nor pandas is imported, so that a question costs little more than its query.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from avpref.datasets.query_texts import sql
from avpref.errors import TableError
from avpref.registry import adapter_records, aliases
from avpref.registry.adapter_records import AdapterRecord
from avpref.registry.aliases import AliasMove
from avpref.registry.id_index import index_of
from avpref.storage.local_files import LocalFiles
from avpref.storage.sealed_tables import Manifest, TableStore

Row = Mapping[str, Any]

TABLES = ("prompts", "candidates", "scores", "norms", "pairs", "evaluations", "gate_decisions")
"""The tables that lineage reads."""


@dataclass(frozen=True)
class TableVersion:
    """One sealed version of a table of the run at ``root``."""

    root: Path
    manifest: Manifest
    is_current: bool

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.root.name

    @property
    def table(self) -> str:
        """The table's name."""
        return self.manifest.table

    @property
    def version(self) -> str:
        """The version's name."""
        return self.manifest.version

    @property
    def files(self) -> list[Path]:
        """Its Parquet files."""
        return [self.root / "tables" / self.table / file.name for file in self.manifest.files]


@dataclass(frozen=True)
class RunCatalog:
    """All runs of a folder. Build with :func:`open_catalog`.

    ``sealed`` has the current and the recorded table versions, ``missing`` the recorded ones that are gone. ``records`` has each
    adapter once per set of table versions, ``names`` every record by the name of its file, ``answers`` remembered query results.
    """

    runs: Path
    con: duckdb.DuckDBPyConnection
    sealed: tuple[TableVersion, ...]
    missing: tuple[str, ...]
    records: tuple[AdapterRecord, ...]
    names: Mapping[str, AdapterRecord]
    moves: tuple[AliasMove, ...]
    answers: dict[tuple[object, ...], list[tuple[TableVersion, Row]]] = field(default_factory=dict)

    def versions(self, table: str, run: str = "") -> list[TableVersion]:
        """TableVersion versions of ``table``, of one run where ``run`` is not empty."""
        return [version for version in self.sealed if version.table == table and run in ("", version.run_id)]

    def version(self, record: AdapterRecord, table: str) -> TableVersion | None:
        """The version that an adapter's record names; None where it names none, or where the version is gone."""
        name = record.tables.get(table)
        return next((version for version in self.versions(table, record.run_id) if version.version == name), None)

    def current(self, table: str, run: str) -> TableVersion | None:
        """The current version of ``table`` of the run."""
        return next((version for version in self.versions(table, run) if version.is_current), None)

    @cached_property
    def owners(self) -> dict[str, TableVersion]:
        """Path of a Parquet file → the version that it belongs to."""
        return {str(file): version for version in self.sealed for file in version.files}

    def rows(
        self, versions: Iterable[TableVersion], column: str, values: Sequence[str], columns: Sequence[str] = ("*",)
    ) -> list[tuple[TableVersion, Row]]:
        """Rows of ``versions`` (of one table) whose ``column`` is one of ``values``, each with its version; only ``columns`` of them.

        Results are remembered, because a question asks for some rows twice.
        """
        versions = list(versions)
        key = tuple(map(id, versions)), column, tuple(values), tuple(columns)
        if key not in self.answers:
            quoted = columns if columns == ("*",) else [f'"{name}"' for name in columns]
            names = {"column": column, "columns": ", ".join(quoted)}
            self.answers[key] = self.select("rows_by_value", versions, names, values=list(values)) if values else []
        return self.answers[key]

    def with_value(self, versions: Iterable[TableVersion], column: str, values: Sequence[str]) -> list[TableVersion]:
        """Those of ``versions`` (of one table) that have one of ``values`` in ``column``; reads only that column."""
        rows = self.select("files_by_value", versions, {"column": column}, values=list(values)) if values else []
        return [version for version, _ in rows]

    def values(self, versions: Iterable[TableVersion], column: str, beginning: str) -> list[str]:
        """Distinct values of ``column`` that begin with ``beginning``, in order."""
        files = _paths(versions)
        if not files:
            return []
        query = sql("values_by_beginning").format(column=column)
        return [value for (value,) in self._execute(query, {"files": files, "beginning": beginning}).fetchall()]

    def select(
        self, query: str, versions: Iterable[TableVersion], names: Mapping[str, str] | None = None, **parameters: object
    ) -> list[tuple[TableVersion, Row]]:
        """Rows of a query over the files of ``versions``, each with its version; the query selects a column ``filename``.

        ``names`` are filled into the query's text: only the product's own column names, never a user's text.
        """
        files = _paths(versions)
        if not files:
            return []
        result = self._execute(sql(query).format(**(names or {})), {"files": files, **parameters})
        columns = [column[0] for column in result.description or ()]
        rows = [dict(zip(columns, values, strict=True)) for values in result.fetchall()]
        return [(self.owners[row.pop("filename")], row) for row in rows]

    def rows_of(self, query: str, version: TableVersion, **parameters: object) -> list[Row]:
        """Rows of a query over the files of one version."""
        result = self._execute(sql(query), {"files": _paths([version]), **parameters})
        columns = [column[0] for column in result.description or ()]
        return [dict(zip(columns, values, strict=True)) for values in result.fetchall()]

    def candidate_ids(self, beginning: str) -> list[str]:
        """Ids of candidates of any run that begin with ``beginning``, sorted."""
        by_file = (index.ids(self.con, beginning) for index in self._indices)
        return sorted({name for names in by_file for name in names})

    def candidate_ids_of_clip(self, beginning: str) -> list[str]:
        """Ids of candidates of any run whose clip's SHA-256 begins with ``beginning``, sorted."""
        by_file = (index.ids_of_clips(self.con, beginning) for index in self._indices)
        return sorted({name for names in by_file for name in names})

    def holding(self, candidate: str) -> list[TableVersion]:
        """The versions of table ``candidates`` that hold this id."""
        return [
            version
            for version in self.versions("candidates")
            if any(index_of(version.root, file).ids(self.con, candidate) for file in version.files)
        ]

    @property
    def _indices(self) -> list[Any]:
        return [index_of(version.root, file) for version in self.versions("candidates") for file in version.files]

    def _execute(self, query: str, parameters: Mapping[str, object]) -> duckdb.DuckDBPyConnection:
        try:
            return self.con.execute(query, dict(parameters))
        except duckdb.IOException as error:
            raise TableError(
                str(error).splitlines()[0], "the files that the manifests list", "avpref runs resume RUN"
            ) from error


def open_catalog(runs: Path) -> RunCatalog:
    """Open the runs in ``runs``: of every table the current version and the versions that records name.

    Raises InputError or TableError for a broken record, manifest or chain of moves, SchemaVersionError for one of another schema.
    """
    runs = Path(runs).resolve()
    all_records = adapter_records.adapter_records(runs)
    records, names = _merged(all_records), {record.path.stem: record for record in all_records}
    sealed, missing = [], []
    for root in adapter_records.run_roots(runs):
        for table in TABLES:
            named = {
                record.tables[table] for record in records if record.run_id == root.name and table in record.tables
            }
            versions, gone = _versions(root, table, named)
            sealed += versions
            missing += gone
    con = duckdb.connect(config={"python_enable_replacements": "false"})
    return RunCatalog(runs, con, tuple(sealed), tuple(missing), tuple(records), names, tuple(aliases.all_moves(runs)))


def _versions(root: Path, table: str, named: set[str]) -> tuple[list[TableVersion], list[str]]:
    """The current and the recorded versions of a run's table; and labels of the recorded ones that are gone."""
    store = TableStore(LocalFiles(root / "tables"))
    current = store.current(table)
    now = {current.version} if current is not None else set()
    old = {version for version in named - now if (root / "tables" / table / f"{version}.json").exists()}
    manifests = [*([current] if current is not None else []), *(store.version(table, name) for name in sorted(old))]
    gone = [f"{root.name}: {table} {version}" for version in sorted(named - now - old)]
    return [TableVersion(root, manifest, manifest.version in now) for manifest in manifests], gone


def _merged(records: Sequence[AdapterRecord]) -> list[AdapterRecord]:
    """One record per adapter, run and table versions: a promoted one where there is one, then the one with most entries."""
    merged: dict[tuple[str, ...], AdapterRecord] = {}
    for record in sorted(records, key=lambda record: (record.is_promoted, len(record.tables), len(record.document))):
        origin = [record.tables.get(name, "") for name in ("candidates", "scores", "pairs")]
        merged[record.policy_hash, record.run_id, *origin] = record
    return sorted(merged.values(), key=lambda record: (record.run_id, record.policy_hash, str(record.path)))


def _paths(versions: Iterable[TableVersion]) -> list[str]:
    return [str(file) for version in versions for file in version.files]
