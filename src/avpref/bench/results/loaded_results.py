"""A finished benchmark read back: its document, and the rows behind its columns, from the store of features beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from avpref.bench.features.exported_features import ExportedFeatures, read_features
from avpref.bench.features.set_results import PartRecord, SampleClip, SetResults, load_results, sample_of
from avpref.bench.measures.column_values import ColumnRows
from avpref.bench.measures.feature_rows import FeatureRows
from avpref.bench.preset_files import Column
from avpref.bench.results.bench_folder import feature_files, read_inputs, read_result


@dataclass(frozen=True, eq=False)
class LoadedResult:
    """The benchmark in ``folder``; ``name`` names it in tables."""

    name: str
    folder: Path
    document: Mapping[str, Any]
    inputs: Mapping[str, Any]

    @cached_property
    def columns(self) -> dict[str, Column]:
        """The columns by name."""
        return {entry["name"]: Column.model_validate(entry) for entry in self.inputs["columns"]}

    @cached_property
    def records(self) -> dict[str, PartRecord]:
        """The parts by name."""
        return {entry["name"]: PartRecord(**entry) for entry in self.inputs["parts"]}

    @cached_property
    def samples(self) -> tuple[SampleClip, ...]:
        """The generated samples."""
        return tuple(sample_of(entry) for entry in self.inputs["generated"])

    @cached_property
    def reference_identity(self) -> list[tuple[str, str]]:
        """Names and bytes of the reference clips; the file of features where that is the reference."""
        if self.inputs["reference_features"]:
            return [("file", str(self.inputs["reference_features"]))]
        return [(entry["key"], entry["identity"]["content"]) for entry in self.inputs["reference"]]

    @cached_property
    def _generated(self) -> SetResults:
        return self._results(self.samples)

    @cached_property
    def _reference(self) -> SetResults:
        return self._results(tuple(sample_of(entry) for entry in self.inputs["reference"]))

    @cached_property
    def _exported(self) -> ExportedFeatures | None:
        path = self.inputs["reference_features"]
        return read_features(Path(path)) if path else None

    def rows(self, column: Column) -> ColumnRows:
        """The rows behind a column. Raises InputError and TableError for features that are no longer there or broken."""
        if column.scorer:
            return ColumnRows(self._generated.rows(self.inputs["part_of"][column.scorer], column.metric))
        own = self._generated.rows(column.network, column.array)
        return ColumnRows(own, self._reference_rows(column), bool(self.inputs["takes_smaller"]))

    def part_of(self, column: Column) -> PartRecord:
        """The record of the part behind a column."""
        return self.records[self.inputs["part_of"][column.scorer] if column.scorer else column.network]

    def _reference_rows(self, column: Column) -> FeatureRows | None:
        if not column.is_distance:
            return None
        if self._exported is not None:
            return self._exported.of(self.records[column.network], column.array)
        return self._reference.rows(column.network, column.array) if self.inputs["reference"] else None

    def _results(self, samples: tuple[SampleClip, ...]) -> SetResults:
        files = feature_files(self.folder.parent, {name: record.fingerprint for name, record in self.records.items()})
        return load_results(files, samples, self.records, {})


def load_result(folder: Path, name: str = "") -> LoadedResult:
    """The benchmark in ``folder``. Raises InputError where there is none."""
    folder = folder.resolve()
    document = read_result(folder)
    return LoadedResult(name or Path(str(document["clips"])).name or folder.name, folder, document, read_inputs(folder))
