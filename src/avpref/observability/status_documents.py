"""The status documents of a run, ``progress/*.json``, as dataclasses: written by :mod:`run_status`, read by views and costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from avpref.domain import SCHEMA_VERSION
from avpref.errors import InputError
from avpref.observability.meters import StageMeasure
from avpref.storage.local_files import replace

FOLDER = "progress"
STAGE_SUFFIX, PASS_SUFFIX = ".stage.json", ".units.json"
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
"""States of a stage; a pass over units is never ``interrupted``."""

Status = TypeVar("Status")


@dataclass(frozen=True)
class Spent:
    """The cost of a pass over units in all executions: seconds, seconds of work of its workers, GPU-seconds, items made."""

    seconds: float = 0.0
    busy_s: float = 0.0
    gpu_s: float = 0.0
    made: int = 0

    def plus(self, measure: StageMeasure) -> Spent:
        """The sum with one more execution. An execution that had nothing to do adds nothing."""
        if not measure.busy_s and not measure.made:
            return self
        return Spent(
            round(self.seconds + measure.elapsed_s, 3),
            round(self.busy_s + measure.busy_s, 3),
            round(self.gpu_s + measure.gpu_s, 3),
            self.made + measure.made,
        )


@dataclass(frozen=True)
class StageError:
    """The error that ended a stage: its class and text; ``found`` and ``fix`` are None unless it is one of the product's."""

    error: str
    message: str
    is_circuit_open: bool
    found: str | None = None
    fix: str | None = None


@dataclass(frozen=True)
class StageStatus:
    """``progress/<stage>.stage.json``. ``since_s`` and ``updated_s`` are Unix times, ``by`` names process and machine."""

    stage: str
    state: str
    since_s: float
    updated_s: float
    by: str
    error: StageError | None = None

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> StageStatus:
        """Raises KeyError or TypeError for a wrong or missing key."""
        error = StageError(**document["error"]) if "error" in document else None
        return StageStatus(**{**_own(document), "error": error})

    def write(self, path: Path) -> None:
        """Replace the document at ``path``. Raises StorageError."""
        document = asdict(self)
        error = document.pop("error")
        if error is not None:
            document["error"] = {name: value for name, value in error.items() if value is not None}
        _write(path, document)


@dataclass(frozen=True)
class PassStatus:
    """``progress/<name>.units.json``: the last measure of a pass over units (or of a training), and its cost in all executions.

    ``stage`` is the stage of the loop that the pass belongs to; times and ``by`` as in :class:`StageStatus`.
    """

    name: str
    stage: str
    state: str
    since_s: float
    by: str
    updated_s: float
    measure: StageMeasure
    spent: Spent

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> PassStatus:
        """Raises KeyError or TypeError for a wrong or missing key."""
        typed = {"measure": StageMeasure.from_document(document["measure"]), "spent": Spent(**document["spent"])}
        return PassStatus(**{**_own(document), **typed})

    def write(self, path: Path) -> None:
        """Replace the document at ``path``. Raises StorageError."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        _write(path, {**plain, "measure": self.measure.document(), "spent": asdict(self.spent)})


def stage_file(root: Path, name: str) -> Path:
    """The document of the stage ``name`` of the run at ``root``."""
    return root / FOLDER / f"{name}{STAGE_SUFFIX}"


def pass_file(root: Path, name: str) -> Path:
    """The document of the pass ``name`` of the run at ``root``."""
    return root / FOLDER / f"{name}{PASS_SUFFIX}"


def read_stage(root: Path, name: str) -> StageStatus | None:
    """The status of the stage ``name``; None where there is none, or where it has another schema version.

    Raises InputError naming the file for a wrong or missing key.
    """
    return _read(stage_file(root, name), StageStatus.from_document)


def read_passes(root: Path) -> list[PassStatus]:
    """The status of every pass of a run, in the order in which they began. Raises as :func:`read_stage`."""
    read = [_read(path, PassStatus.from_document) for path in sorted((root / FOLDER).glob(f"*{PASS_SUFFIX}"))]
    return sorted((status for status in read if status), key=lambda status: status.since_s)


def spent_in(path: Path) -> Spent:
    """The cost that earlier executions recorded in the document at ``path``; nothing where it cannot be read.

    A broken document never stops a run: only the sum starts again.
    """
    try:
        status = _read(path, PassStatus.from_document)
    except InputError:
        return Spent()
    return status.spent if status else Spent()


def _read(path: Path, parse: Callable[[Mapping[str, Any]], Status]) -> Status | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        return None
    try:
        return parse(document)
    except (KeyError, TypeError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: {reason}", "a status that this product wrote", f"rm {path}") from error


def _own(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "schema_version"}


def _write(path: Path, document: Mapping[str, Any]) -> None:
    whole = {"schema_version": SCHEMA_VERSION, **document}
    replace(path, json.dumps(whole, indent=1, ensure_ascii=False).encode())
