"""The work of ``avpref runs gc``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.config.loading import load_section
from avpref.config.storage_settings import RetentionSettings
from avpref.errors import PartialResult
from avpref.registry.garbage_collection import Collection, Request, collect


@dataclass(frozen=True)
class Options:
    """The options of the command; None leaves a bound to the section ``retention`` of the configuration."""

    keep_days: float | None
    keep_runs: int | None
    grace_hours: float | None
    whole_runs: bool
    leave_busy: bool
    dry_run: bool

    def bounds(self) -> RetentionSettings:
        """The bounds of the configuration, with those of the command line in their place."""
        bounds = {"keep_days": self.keep_days, "keep_runs": self.keep_runs, "grace_hours": self.grace_hours}
        return load_section(RetentionSettings, "retention").model_copy(
            update={name: value for name, value in bounds.items() if value is not None}
        )


def collect_runs(runs: Path, options: Options, limit: int | None) -> tuple[dict[str, Any], int]:
    """Collect the garbage of a folder of runs; returns a document with at most ``limit`` files, and the exit code."""
    bounds = options.bounds()
    collection = collect(runs, Request(bounds, options.whole_runs, options.leave_busy, options.dry_run))
    about = {"runs": str(runs), "dry_run": options.dry_run, "retention": bounds.model_dump()}
    exit_code = PartialResult.exit_code if collection.unclear else 0
    return {**about, **_document(runs.resolve(), collection, limit)}, exit_code


def _document(runs: Path, collection: Collection, limit: int | None) -> dict[str, Any]:
    files, num_bytes = Counter[str](), Counter[str]()
    for entry in collection.entries:
        files[entry.kind] += 1
        num_bytes[entry.kind] += entry.num_bytes
    entries = [
        {
            "path": entry.path.relative_to(runs).as_posix(),
            "sort": str(entry.kind),
            "reason": entry.reason,
            "num_bytes": entry.num_bytes,
        }
        for entry in collection.entries[:limit]
    ]
    return {
        "num_bytes": collection.num_bytes,
        "sorts": [{"sort": str(sort), "entries": files[sort], "num_bytes": num_bytes[sort]} for sort in files],
        "entries": entries,
        "passed_by": dict(collection.passed_by),
        "list": str(collection.tombstone.relative_to(runs)) if collection.tombstone else None,
    }
