"""The work of ``avpref weights fetch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avpref.cli.views.weight_rows import models_named
from avpref.rewards.weights.weight_fetch import Plan, fetch, plan


def fetch_models(names: Sequence[str], dry_run: bool) -> dict[str, Any]:
    """Fetch the missing files of the named models, unless ``dry_run``; returns a row per file, present ones first."""
    plans = [plan(model) for model in models_named(names)]
    rows = [row for planned in plans for row in _rows(planned)]
    if not dry_run:
        fetched = [file for planned in plans for file in fetch(planned).values()]
        hashes = {file.source: file.sha256 for file in fetched}
        rows = [{**row, "sha256": hashes.get(row["source"])} for row in rows]
    needed = sum(planned.num_bytes for planned in plans)
    return {"is_dry_run": dry_run, "num_bytes": needed, "free_bytes": plans[0].free_bytes, "files": rows}


def _rows(planned: Plan) -> list[dict[str, Any]]:
    present = [(file, path, True) for file, path in planned.present]
    missing = [(file, planned.target / file.place, False) for file in planned.missing]
    return [
        {
            "model": planned.model.name,
            "file": file.name,
            "source": str(file.source),
            "num_bytes": file.num_bytes,
            "is_there": is_there,
            "path": str(path),
        }
        for file, path, is_there in present + missing
    ]
