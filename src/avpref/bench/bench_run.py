"""Runs a benchmark: lists both sets, computes the features that the store lacks, reduces them to columns, and writes the result."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from avpref import __version__
from avpref.bench.bench_features import FeatureCounts, FeatureRun, Wanted
from avpref.bench.bench_job import BenchJob, JobParts, job_parts
from avpref.bench.bench_sets import BenchSets, all_lost, read_sets
from avpref.bench.features.exported_features import ExportedFeatures
from avpref.bench.features.set_results import PartRecord, SampleClip, SetResults, record_of
from avpref.bench.measures.category_means import CategoryResult, category_results
from avpref.bench.measures.column_values import ColumnRows, ColumnValue, column_value, sample_values
from avpref.bench.measures.feature_rows import FeatureRows
from avpref.bench.preset_files import Column
from avpref.bench.results.bench_folder import (
    INPUTS_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    BenchFolder,
    feature_files,
)
from avpref.domain import SCHEMA_VERSION
from avpref.identity import digest
from avpref.observability.run_status import publishing, publishing_stage
from avpref.storage.local_files import storage_errors

STAGE = "bench"
PACKAGES = ("torch", "transformers", "numpy", "scipy", "av", "opencv-python-headless")


@dataclass(frozen=True, eq=False)
class BenchOutcome:
    """A finished benchmark: its folder, the document of its result, and how much of the work the store had."""

    folder: Path
    document: dict[str, Any]
    counts: FeatureCounts

    @property
    def num_lost(self) -> int:
        """Clips and prompts that took no part."""
        return sum(len(rows) for rows in self.document["lost"].values())


@dataclass(frozen=True, eq=False)
class _Computed:
    """Everything that the result is made from."""

    sets: BenchSets
    parts: JobParts
    records: Mapping[str, PartRecord]
    generated: SetResults
    reference: SetResults
    rows: Sequence[tuple[Column, ColumnRows]]
    values: Mapping[str, ColumnValue]


def run_benchmark(job: BenchJob, root: Path, sets: BenchSets | None = None) -> BenchOutcome:
    """Run ``job``; its folder is made under ``root``, beside the store of features that all benchmarks there share.

    ``sets`` are those of the job, read from its paths where they are not known.

    Raises InputError for sets that cannot be used, absent weights, and reference features of another network or setting, ConfigError
    for unknown columns and scorers.
    """
    sets = sets or read_sets(job.clips, job.reference, job.prompts, job.rules)
    parts = job_parts(job, sets.has_sound_text)
    records = {part.name: record_of(part) for part in parts.all}
    _check_reference(job, sets, records)
    name = f"{job.chosen.preset.name}-{_identity(job, sets, records)}"
    folder = BenchFolder(root.resolve() / name, job.placement.executor, job.placement.observe)
    with storage_errors(folder.root):
        folder.root.mkdir(parents=True, exist_ok=True)
    with folder.locked(), publishing(folder), publishing_stage(folder, STAGE):
        files = feature_files(root, {name: record.fingerprint for name, record in records.items()})
        run = FeatureRun(folder, files, records, job.placement, job.rules)
        wanted = [
            Wanted(sets.generated.samples, parts.all),
            Wanted(sets.reference_clips.samples, _reference_parts(job, parts)),
        ]
        (generated, reference), counts = run.run(wanted)
        rows = [
            (column, _rows_of(job, column, parts, generated, _Reference(sets, reference, records)))
            for column in job.asked_columns
        ]
        values = {column.name: column_value(column, of_column, job.plan) for column, of_column in rows}
        computed = _Computed(sets, parts, records, generated, reference, rows, values)
        document = _document(job, computed)
        _write(folder, job, computed, document)
    return BenchOutcome(folder.root, document, counts)


def _reference_parts(job: BenchJob, parts: JobParts) -> tuple[Any, ...]:
    """The networks whose features of the reference a column needs."""
    needed = {column.network for column in job.asked_columns if column.is_distance}
    return tuple(part for part in parts.networks if part.name in needed)


def _identity(job: BenchJob, sets: BenchSets, records: Mapping[str, PartRecord]) -> str:
    """Hash of everything that the result depends on."""
    generated = [[sample.key, asdict(sample.identity)] for sample in sets.generated.samples]
    reference = [[sample.key, sample.identity.content] for sample in sets.reference_clips.samples]
    exported = sets.reference.path.stat().st_mtime_ns if isinstance(sets.reference, ExportedFeatures) else 0
    columns = [column.model_dump() for column in job.asked_columns]
    fingerprints = {name: record.fingerprint for name, record in records.items()}
    lost = all_lost(sets)
    return digest(
        "bench", __version__, generated, reference, exported, columns, fingerprints, lost, asdict(job.plan), size=8
    )


@dataclass(frozen=True, eq=False)
class _Reference:
    """The reference: clips with results, a file of features, or neither."""

    sets: BenchSets
    results: SetResults
    records: Mapping[str, PartRecord]

    def rows(self, column: Column) -> FeatureRows | None:
        """The rows that a distance compares with; None without a reference."""
        match self.sets.reference:
            case None:
                return None
            case ExportedFeatures() as exported:
                return exported.of(self.records[column.network], column.array)
            case _:
                return self.results.rows(column.network, column.array)


def _check_reference(job: BenchJob, sets: BenchSets, records: Mapping[str, PartRecord]) -> None:
    """Raises InputError for reference features of another network or setting, before any clip is worked on."""
    if isinstance(sets.reference, ExportedFeatures):
        for column in job.asked_columns:
            if column.is_distance:
                sets.reference.of(records[column.network], column.array)


def _rows_of(
    job: BenchJob, column: Column, parts: JobParts, generated: SetResults, reference: _Reference
) -> ColumnRows:
    takes_smaller = job.chosen.values.get("set_sizes", "all") == "smaller"
    if column.scorer:
        return ColumnRows(generated.rows(parts.part_of[column.scorer], column.metric))
    own = generated.rows(column.network, column.array)
    return ColumnRows(own, reference.rows(column) if column.is_distance else None, takes_smaller)


def _document(job: BenchJob, computed: _Computed) -> dict[str, Any]:
    preset, sets = job.chosen.preset, computed.sets
    categories = _categories(job, computed)
    prompts = sets.prompts
    warnings = [*sets.generated.warnings, *sets.reference_clips.warnings, *_list_warnings(job, sets)]
    return {
        "schema_version": SCHEMA_VERSION,
        "product_version": __version__,
        "preset": preset.name,
        "source": preset.source,
        "is_meaningful": all(record.is_meaningful for record in computed.records.values()),
        "clips": str(job.clips),
        "reference": _reference_name(job, sets),
        "prompts": str(job.prompts) if job.prompts else None,
        "num_prompts": len(prompts.rows) if prompts else None,
        "num_clips": len(sets.generated.samples),
        "num_reference": len(sets.reference_clips.samples),
        "settings": job.chosen.documented(),
        "columns": {
            column.name: {**computed.values[column.name].document(), **_about(column, computed.parts)}
            for column in job.asked_columns
        },
        "categories": [category.document() for category in categories],
        "lost": _lost(computed),
        "warnings": warnings,
        "intervals": asdict(job.plan),
        "environment": {name: _version(name) for name in PACKAGES},
        "parts": [record.document() for record in computed.records.values()],
    }


def _lost(computed: _Computed) -> dict[str, list[dict[str, str]]]:
    """The lost clips of both sets, with those whose headers could be read and the rest could not."""
    lost = all_lost(computed.sets)
    for name, results in (("generated", computed.generated), ("reference", computed.reference)):
        lost[name] += [{"key": key, "reason": reason} for key, reason in results.lost.items()]
    return lost


def _about(column: Column, parts: JobParts) -> dict[str, Any]:
    """Kind and direction of a column, and where it comes from."""
    metric = parts.metric(column)
    higher = metric.higher_is_better if metric else column.kind == "inception_mean"
    source = f"{column.scorer}: {column.metric}" if column.scorer else f"{column.network}: {column.array}"
    return {"kind": column.kind, "higher_is_better": higher, "from": source, "unit": metric.unit if metric else ""}


def _categories(job: BenchJob, computed: _Computed) -> list[CategoryResult]:
    prompts = computed.sets.prompts
    if prompts is None or not prompts.aspects:
        return []
    labels = {sample.key: sample.labels for sample in computed.sets.generated.samples}
    return category_results(prompts.aspects, labels, computed.rows, job.plan)


def _list_warnings(job: BenchJob, sets: BenchSets) -> list[str]:
    expected, prompts = job.chosen.preset.expected_rows, sets.prompts
    warnings = []
    if expected and prompts is not None and len(prompts.rows) != expected:
        warnings.append(
            f"{len(prompts.rows)} prompts where the published list has {expected}: not comparable with published tables"
        )
    if expected and prompts is None:
        warnings.append("no list of prompts: scores of texts, and results per category, need --prompts")
    num_lost = len(sets.generated.lost)
    if num_lost:
        warnings.append(f"{num_lost} prompts or clips take no part; see lost")
    return warnings


def _reference_name(job: BenchJob, sets: BenchSets) -> str | None:
    if sets.reference is None:
        return None
    if job.reference:
        return str(job.reference)
    return f"ground truth of {job.prompts}" if job.prompts else "ground truth"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _write(folder: BenchFolder, job: BenchJob, computed: _Computed, document: Mapping[str, Any]) -> None:
    sets = computed.sets
    exported = str(job.reference) if isinstance(sets.reference, ExportedFeatures) else None
    inputs = {
        "generated": [sample.document() for sample in sets.generated.samples],
        "reference": [sample.document() for sample in sets.reference_clips.samples],
        "reference_features": exported,
        "parts": [record.document() for record in computed.records.values()],
        "part_of": dict(computed.parts.part_of),
        "columns": [column.model_dump() for column in job.asked_columns],
        "takes_smaller": job.chosen.values.get("set_sizes", "all") == "smaller",
    }
    folder.files.replace(INPUTS_FILE, json.dumps(inputs).encode())
    folder.files.replace(SAMPLES_FILE, _samples_csv(computed).encode())
    folder.files.replace(RESULT_FILE, json.dumps(document, indent=1, allow_nan=False).encode())


def _samples_csv(computed: _Computed) -> str:
    """A row per sample, its values and the reasons of those that are missing; then the lost ones."""
    columns = [column.name for column, _ in computed.rows if column.kind in ("mean", "divergence")]
    values = {column.name: sample_values(column, rows) for column, rows in computed.rows if column.name in columns}
    reasons = {column.name: dict(rows.generated.lost) for column, rows in computed.rows}
    flags = {column.name: dict(rows.generated.remarks) for column, rows in computed.rows}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["key", "clip", "text", "fps_hz", "sample_rate_hz", "duration_s", *columns, "reason"])
    for sample in computed.sets.generated.samples:
        missing = _grouped(
            {name: own[sample.key] for name, own in (*reasons.items(), *flags.items()) if sample.key in own}
        )
        missing = "; ".join(text for text in (sample.facts["remark"], missing) if text)
        facts = [sample.facts[name] for name in ("fps_hz", "sample_rate_hz", "duration_s")]
        numbers = [values[name].get(sample.key, "") for name in columns]
        writer.writerow([sample.key, _file(sample), sample.identity.text, *facts, *numbers, missing])
    for lost in computed.sets.generated.lost:
        writer.writerow([lost.key, "", "", "", "", "", *[""] * len(columns), lost.reason])
    return stream.getvalue()


def _file(sample: SampleClip) -> str:
    return sample.video or sample.sound


def _grouped(reasons: Mapping[str, str]) -> str:
    """Columns and their reason, columns of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for column, reason in reasons.items():
        by_reason.setdefault(reason, []).append(column)
    return "; ".join(f"{', '.join(columns)}: {reason}" for reason, columns in by_reason.items())
