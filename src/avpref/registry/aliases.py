"""Aliases: which adapter serves under a name. A chain of files, each written once, in ``registry/`` beside the runs.

    registry/adapters/<id>.json                 an adapter: its run and decision, and where its files are
    registry/aliases/<alias>/000001.json …      moves of the alias; the adapter of the highest number serves

A move creates the next number, which only one writer can do, so of two concurrent moves one fails. A reader sees the state
before or after a move, and no file is rewritten. Every move carries the hash of the move before it, so an edited chain is detected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from avpref.domain import SCHEMA_VERSION
from avpref.errors import AliasConflict, ConfigError, InputError, TableError
from avpref.identity import bytes_sha256
from avpref.registry.adapter_records import ALIASES, REGISTRY, TRAINED
from avpref.registry.decision_record import DecisionRecord
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles

SERVING = "serving"
"""The default alias."""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
MOVE = re.compile(r"\d{6}\.json")
RESTORE = "restore the registry from a copy"


class Action(StrEnum):
    """Why an alias moved."""

    PROMOTE = "promote"
    APPROVE = "approve"
    ROLLBACK = "rollback"


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias: from ``at`` until the next move, ``adapter`` serves under ``alias``.

    ``number`` counts from 1; ``at`` is an ISO 8601 time. ``previous`` is the adapter that served before, empty at the first
    move, and ``previous_sha256`` the hash of the file of the move before. ``is_override``: the gate had refused, and ``by``
    moved the alias nevertheless, for ``reason``.
    """

    alias: str
    number: int
    action: Action
    adapter: str
    run_id: str
    decision: str
    by: str
    reason: str
    at: str
    previous: str = ""
    previous_sha256: str = ""
    is_override: bool = False


def registry(runs: Path) -> Files:
    """The files of aliases, approvals and adapters that belong to ``runs``."""
    return LocalFiles(Path(runs) / REGISTRY)


def now() -> str:
    """The current time (UTC, ISO 8601, seconds) for records. Moves are ordered by their number, not by time."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def checked_name(alias: str) -> str:
    """``alias``, unless it is no valid name. Raises ConfigError."""
    if not NAME.fullmatch(alias):
        raise ConfigError(f"alias {alias!r}", "lower-case letters, digits, - and _", f"--alias {SERVING}")
    return alias


def names(runs: Path) -> list[str]:
    """Aliases that have at least one move."""
    return sorted({name.split("/")[1] for name in registry(runs).names(ALIASES) if MOVE.fullmatch(Path(name).name)})


def history(runs: Path, alias: str = SERVING) -> list[AliasMove]:
    """Every move of ``alias``, oldest first. Raises TableError where a file of the chain is torn, missing or was changed."""
    files, folder = registry(runs), f"{ALIASES}/{checked_name(alias)}"
    moves: list[AliasMove] = []
    sha256 = ""
    move_files = [name for name in files.children(folder) if MOVE.fullmatch(Path(name).name)]
    for number, name in enumerate(move_files, start=1):
        if name != _move_file(alias, number):
            lacks = f"{files.uri(folder)} lacks {Path(_move_file(alias, number)).name}"
            raise TableError(lacks, "every move in a row", RESTORE)
        data = files.read(name)
        move = _read(files.uri(name), data)
        if move.previous_sha256 != sha256 or move.number != number or move.alias != alias:
            earlier = _move_file(alias, number - 1 if number > 1 else number)
            raise TableError(f"{files.uri(name)}: it does not follow the move before", f"{earlier} unchanged", RESTORE)
        moves.append(move)
        sha256 = bytes_sha256(data)
    return moves


def all_moves(runs: Path) -> list[AliasMove]:
    """Every move of every alias: the aliases by name, the moves of each oldest first. Raises as :func:`history`."""
    return [move for alias in names(runs) for move in history(runs, alias)]


def newest(moves: Iterable[AliasMove]) -> dict[str, AliasMove]:
    """The last move of each alias, which says what serves now."""
    return {move.alias: move for move in sorted(moves, key=lambda move: move.number)}


def current(runs: Path, alias: str = SERVING) -> AliasMove | None:
    """The last move of ``alias``, None where there is none. Raises as :func:`history`."""
    moves = history(runs, alias)
    return moves[-1] if moves else None


def stack(moves: Sequence[AliasMove]) -> list[str]:
    """Adapters that have served, oldest first; the last one serves now. A rollback removes the adapters that it goes back over."""
    served: list[str] = []
    for move in moves:
        if move.action is Action.ROLLBACK and move.adapter in served:
            del served[served.index(move.adapter) + 1 :]
        else:
            served = [adapter for adapter in served if adapter != move.adapter] + [move.adapter]
    return served


def append(runs: Path, before: AliasMove | None, move: AliasMove) -> AliasMove:
    """Write ``move`` after ``before``, the last move that the caller has seen; returns it with its number and links filled in.

    Raises AliasConflict naming who moved the alias in the meantime, StorageError where the folder cannot be written.
    """
    files, number = registry(runs), before.number + 1 if before else 1
    name = _move_file(checked_name(move.alias), number)
    linked = asdict(move) | {
        "number": number,
        "previous": before.adapter if before else "",
        "previous_sha256": bytes_sha256(files.read(_move_file(move.alias, before.number))) if before else "",
    }
    if not files.commit_once(name, json.dumps({"schema_version": SCHEMA_VERSION, **linked}, indent=1).encode()):
        won = _read(files.uri(name), files.read(name))
        found = (
            f"{won.by} moved {won.alias} to {won.adapter} (run {won.run_id}, {won.action} at {won.at}) at the same time"
        )
        raise AliasConflict(found, "one move at a time", "check the new move (avpref gate history), then decide again")
    return AliasMove(**linked)


def register_adapter(runs: Path, record: DecisionRecord) -> str:
    """Store the decision on an adapter in the registry, named by its content; returns the adapter's id (``a`` and 16 digits)."""
    data = json.dumps(record.document(), indent=1, sort_keys=True).encode()
    adapter = "a" + bytes_sha256(data)[:16]
    registry(runs).commit_once(_adapter_file(adapter), data)
    return adapter


def registered_adapter(runs: Path, adapter: str) -> DecisionRecord:
    """The decision on a registered adapter. Raises InputError where there is none, TableError where its file was changed."""
    files, name = registry(runs), _adapter_file(adapter)
    if not files.exists(name):
        raise InputError(f"no adapter {adapter} at {files.uri(name)}", "a recorded adapter", "avpref gate history")
    data = files.read(name)
    if "a" + bytes_sha256(data)[:16] != adapter:
        raise TableError(f"{files.uri(name)} was changed", f"content with the hash {adapter[1:]}…", RESTORE)
    return DecisionRecord.from_document(json.loads(data), files.uri(name))


def _adapter_file(adapter: str) -> str:
    return f"{TRAINED}/{adapter}.json"


def _move_file(alias: str, number: int) -> str:
    return f"{ALIASES}/{alias}/{number:06d}.json"


def _read(uri: str, data: bytes) -> AliasMove:
    try:
        document = json.loads(data)
        document.pop("schema_version")
        return AliasMove(**document | {"action": Action(document["action"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{uri}: {error}", "a move that this product wrote", RESTORE) from error
