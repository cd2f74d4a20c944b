"""Which fingerprints a stage works under now, beside its units: ``units/<stage>/plan-<name>.json``.

Nothing is skipped or repeated because of these files; garbage collection reads them to know which units no plan names
any more. A stage that is worked on in several passes has a file for each.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from avpref.errors import InputError
from avpref.storage.files import Files

PREFIX = "plan-"


def record_plan(units: Files, stage: str, name: str, fingerprints: Iterable[str]) -> None:
    """Say that pass ``name`` of ``stage`` works under ``fingerprints``; ``units`` is the place of all stages' units."""
    file = f"{stage}/{PREFIX}{name}.json"
    data = json.dumps({"fingerprints": sorted(set(fingerprints))}).encode()
    try:
        is_known = units.read(file) == data
    except FileNotFoundError:
        is_known = False
    if not is_known:
        units.replace(file, data)


def planned(stage: Path) -> frozenset[str] | None:
    """The fingerprints that the stage in ``stage`` works under; None where nobody said so.

    Raises InputError for a file that cannot be read.
    """
    files = sorted(stage.glob(f"{PREFIX}*.json"))
    found: set[str] = set()
    for path in files:
        try:
            found |= set(json.loads(path.read_text())["fingerprints"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            fix = f"delete {path} and run: avpref runs resume RUN"
            raise InputError(f"{path}: {error}", "a plan written by this product", fix) from error
    return frozenset(found) if files else None
