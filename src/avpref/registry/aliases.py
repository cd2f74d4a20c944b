"""Aliases: which adapter serves under a name. A chain of files, each written once, in ``registry/`` beside the runs.

    registry/adapters/<id>.json                 what an adapter is, from which run and decision, and where its files are
    registry/aliases/<alias>/000001.json …      moves of the alias; the highest number is what serves

A move creates the next number, which only one writer can: two at once cannot both win, a reader sees the old state or the new
one, and nothing is ever rewritten. Every move carries the hash of the one before, so a chain that was edited is found out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from avpref.domain import SCHEMA_VERSION
from avpref.errors import AliasConflict, ConfigError, InputError, TableError
from avpref.identity import bytes_sha256
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles

REGISTRY = "registry"
SERVING = "serving"
"""The alias that is meant where none is named."""
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
    """One move: from when on, and until the next one, ``adapter`` serves under ``alias``.

    ``previous`` is the adapter that served before, empty at the first move; ``previous_sha256`` the hash of that move's file.
    ``is_override``: the gate had refused, and ``by`` moved it all the same, for ``reason``.
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
    """Where aliases, approvals and adapter records of ``runs`` are."""
    return LocalFiles(Path(runs) / REGISTRY)


def now() -> str:
    """The time as it stands in records. It decides nothing: order is the number."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def checked_name(alias: str) -> str:
    """``alias`` if it can be one. Raises ConfigError."""
    if not NAME.fullmatch(alias):
        raise ConfigError(f"alias {alias!r}", "lower-case letters, digits, - and _", f"--alias {SERVING}")
    return alias


def names(runs: Path) -> list[str]:
    """Aliases that were ever moved."""
    return sorted({name.split("/")[1] for name in registry(runs).names("aliases") if MOVE.fullmatch(Path(name).name)})


def history(runs: Path, alias: str = SERVING) -> list[AliasMove]:
    """Every move, oldest first. Raises TableError where a file is torn, missing or was changed."""
    files, folder = registry(runs), f"aliases/{checked_name(alias)}"
    found: list[AliasMove] = []
    sha256 = ""
    for number, name in enumerate(
        (each for each in files.children(folder) if MOVE.fullmatch(Path(each).name)), start=1
    ):
        if name != _move_file(alias, number):
            lacks = f"{files.uri(folder)} lacks {Path(_move_file(alias, number)).name}"
            raise TableError(lacks, "every move in a row", RESTORE)
        data = files.read(name)
        move = _read(files.uri(name), data)
        if move.previous_sha256 != sha256 or move.number != number or move.alias != alias:
            earlier = _move_file(alias, number - 1 if number > 1 else number)
            raise TableError(f"{files.uri(name)}: it does not follow the move before", f"{earlier} unchanged", RESTORE)
        found, sha256 = [*found, move], bytes_sha256(data)
    return found


def current(runs: Path, alias: str = SERVING) -> AliasMove | None:
    """The last move, None where there is none. Raises as :func:`history`."""
    moves = history(runs, alias)
    return moves[-1] if moves else None


def stack(moves: Sequence[AliasMove]) -> list[str]:
    """Adapters that a rollback can go back to, the one that serves last: a rollback takes off what it leaves."""
    found: list[str] = []
    for move in moves:
        if move.action is Action.ROLLBACK and move.adapter in found:
            del found[found.index(move.adapter) + 1 :]
        else:
            found = [each for each in found if each != move.adapter] + [move.adapter]
    return found


def append(runs: Path, before: AliasMove | None, move: AliasMove) -> AliasMove:
    """Write ``move`` behind ``before``, what the caller saw last; returns it with its number and links filled in.

    Raises AliasConflict naming who moved the alias meanwhile, StorageError where the folder cannot be written.
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
        raise AliasConflict(found, "one move at a time", "look at it (avpref gate history), then decide again")
    return AliasMove(**linked)


def record_adapter(runs: Path, document: dict[str, Any]) -> str:
    """Keep the record of an adapter, named by its content; returns its id."""
    data = json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1, sort_keys=True).encode()
    adapter = "a" + bytes_sha256(data)[:16]
    registry(runs).commit_once(_adapter_file(adapter), data)
    return adapter


def adapter_record(runs: Path, adapter: str) -> dict[str, Any]:
    """The record of an adapter. Raises InputError where there is none, TableError where it was changed."""
    files, name = registry(runs), _adapter_file(adapter)
    if not files.exists(name):
        raise InputError(f"no adapter {adapter} at {files.uri(name)}", "a recorded adapter", "avpref gate history")
    data = files.read(name)
    if "a" + bytes_sha256(data)[:16] != adapter:
        raise TableError(f"{files.uri(name)} was changed", f"content with the hash {adapter[1:]}…", RESTORE)
    return dict(json.loads(data))


def _adapter_file(adapter: str) -> str:
    return f"adapters/{adapter}.json"


def _move_file(alias: str, number: int) -> str:
    return f"aliases/{alias}/{number:06d}.json"


def _read(place: str, data: bytes) -> AliasMove:
    try:
        document = json.loads(data)
        document.pop("schema_version")
        return AliasMove(**document | {"action": Action(document["action"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(f"{place}: {error}", "a move that this product wrote", RESTORE) from error
