"""The runs of a folder as one catalog to look things up in: sealed versions, adapter records, aliases, and SQL over them.

Only DuckDB and the standard library are imported, so that a question costs its query and little else.
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
"""The tables that lineage goes through."""


@dataclass(frozen=True)
class TableVersion:
    """One sealed version of a table of the run at ``root``."""

    root: Path
    manifest: Manifest
    is_current: bool

    @property
    def run_id(self) -> str:
        """The run that it belongs to."""
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
    """Every run of a folder. Build with :func:`open_catalog`.

    ``records`` has each adapter once for the tables that it came from, ``names`` every record by the name of its file.
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
        """TableVersion versions of ``table``, of one run where ``run`` is given."""
        return [each for each in self.sealed if each.table == table and run in ("", each.run_id)]

    def version(self, record: AdapterRecord, table: str) -> TableVersion | None:
        """The version that an adapter's record names; None where it names none, or it is gone."""
        wanted = record.tables.get(table)
        return next((each for each in self.versions(table, record.run_id) if each.version == wanted), None)

    def current(self, table: str, run: str) -> TableVersion | None:
        """The version of ``table`` that the run stands on now."""
        return next((each for each in self.versions(table, run) if each.is_current), None)

    @cached_property
    def owners(self) -> dict[str, TableVersion]:
        """Which version a file belongs to, by its path."""
        return {str(file): each for each in self.sealed for file in each.files}

    def rows(
        self, versions: Iterable[TableVersion], column: str, values: Sequence[str], columns: Sequence[str] = ("*",)
    ) -> list[tuple[TableVersion, Row]]:
        """Rows of ``versions`` (of one table) whose ``column`` is one of ``values``, each with where it stands.

        Of ``columns`` alone, where they are given. An answer is remembered, because a question asks for some rows twice.
        """
        versions = list(versions)
        key = tuple(id(each) for each in versions), column, tuple(values), tuple(columns)
        if key not in self.answers:
            named = columns if columns == ("*",) else [f'"{name}"' for name in columns]
            asked = {"column": column, "columns": ", ".join(named)}
            found = self.select("rows_by_value", versions, asked, values=list(values)) if values else []
            self.answers[key] = found
        return self.answers[key]

    def with_value(self, versions: Iterable[TableVersion], column: str, values: Sequence[str]) -> list[TableVersion]:
        """Those of ``versions`` (of one table) that have one of ``values`` in ``column``; reads that column alone."""
        found = self.select("files_by_value", versions, {"column": column}, values=list(values)) if values else []
        return [version for version, _ in found]

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
        """A query with a column ``filename`` over the files of ``versions``: rows, each with where it stands.

        ``names`` are filled into the text: columns of ours, never what a user gave.
        """
        files = _paths(versions)
        if not files:
            return []
        found = self._execute(sql(query).format(**(names or {})), {"files": files, **parameters})
        columns = [each[0] for each in found.description or ()]
        rows = [dict(zip(columns, values, strict=True)) for values in found.fetchall()]
        return [(self.owners[row.pop("filename")], row) for row in rows]

    def rows_of(self, query: str, version: TableVersion, **parameters: object) -> list[Row]:
        """A query over the files of one version."""
        found = self._execute(sql(query), {"files": _paths([version]), **parameters})
        names = [each[0] for each in found.description or ()]
        return [dict(zip(names, values, strict=True)) for values in found.fetchall()]

    def candidate_ids(self, beginning: str) -> list[str]:
        """Ids of candidates of any run that begin like this."""
        found = (index.ids(self.con, beginning) for index in self._indices)
        return sorted({name for names in found for name in names})

    def candidate_ids_of_clip(self, beginning: str) -> list[str]:
        """Ids of candidates of any run whose clip's SHA-256 begins like this."""
        found = (index.ids_of_clips(self.con, beginning) for index in self._indices)
        return sorted({name for names in found for name in names})

    def holding(self, candidate: str) -> list[TableVersion]:
        """The versions of table ``candidates`` that hold this id."""
        return [
            each
            for each in self.versions("candidates")
            if any(index_of(each.root, file).ids(self.con, candidate) for file in each.files)
        ]

    @property
    def _indices(self) -> list[Any]:
        return [index_of(each.root, file) for each in self.versions("candidates") for file in each.files]

    def _execute(self, query: str, parameters: Mapping[str, object]) -> duckdb.DuckDBPyConnection:
        try:
            return self.con.execute(query, dict(parameters))
        except duckdb.IOException as error:
            raise TableError(
                str(error).splitlines()[0], "the files that the manifests list", "avpref runs resume RUN"
            ) from error


def open_catalog(runs: Path) -> RunCatalog:
    """Open the runs in ``runs``: of every table the current version and those that records name.

    Raises InputError or TableError for a record or a manifest that is broken, SchemaVersionError.
    """
    runs = Path(runs).resolve()
    found_records = adapter_records.adapter_records(runs)
    records, names = _merged(found_records), {record.path.stem: record for record in found_records}
    sealed, missing = [], []
    for root in adapter_records.run_roots(runs):
        for table in TABLES:
            named = {
                record.tables[table] for record in records if record.run_id == root.name and table in record.tables
            }
            found, gone = _sealed(root, table, named)
            sealed += found
            missing += gone
    con = duckdb.connect(config={"python_enable_replacements": "false"})
    return RunCatalog(runs, con, tuple(sealed), tuple(missing), tuple(records), names, tuple(aliases.all_moves(runs)))


def _sealed(root: Path, table: str, named: set[str]) -> tuple[list[TableVersion], list[str]]:
    """The current version of a run's table and those that records name; and the named ones that are gone."""
    store = TableStore(LocalFiles(root / "tables"))
    current = store.current(table)
    now = {current.version} if current is not None else set()
    there = {version for version in named - now if (root / "tables" / table / f"{version}.json").exists()}
    manifests = [*([current] if current is not None else []), *(store.version(table, each) for each in sorted(there))]
    gone = [f"{root.name}: {table} {version}" for version in sorted(named - now - there)]
    return [TableVersion(root, manifest, manifest.version in now) for manifest in manifests], gone


def _merged(records: Sequence[AdapterRecord]) -> list[AdapterRecord]:
    """One record for each adapter, run and table versions: a promoted one where there is one, then the fullest."""
    found: dict[tuple[str, ...], AdapterRecord] = {}
    for record in sorted(records, key=lambda record: (record.is_promoted, len(record.tables), len(record.document))):
        made_of = [record.tables.get(name, "") for name in ("candidates", "scores", "pairs")]
        found[record.policy_hash, record.run_id, *made_of] = record
    return sorted(found.values(), key=lambda record: (record.run_id, record.policy_hash, str(record.path)))


def _paths(versions: Iterable[TableVersion]) -> list[str]:
    return [str(file) for each in versions for file in each.files]
