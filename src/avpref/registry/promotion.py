"""Promotion: what the gate allowed comes to serve, by moving an alias; and back again.

Before a move everything is verified: the adapter's files are there and hash as recorded, the gate said yes, and taking its
decision again from what is stored gives the same. Nothing here imports torch or Prefect.
"""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from avpref.datasets.evidence.gate import PROMOTE
from avpref.domain import SCHEMA_VERSION
from avpref.errors import ConfigError, GateRefused, InputError, TableError
from avpref.registry import aliases, decisions
from avpref.registry.aliases import SERVING, Action, AliasMove
from avpref.storage.run_folder import RunFolder, open_run


class State(StrEnum):
    """How far a run's adapter has got under an alias."""

    UNDECIDED = "not evaluated"
    REFUSED = "refused"
    AWAITING = "awaiting approval"
    REJECTED = "rejected"
    ALLOWED = "allowed"
    SERVES = "serving"
    SERVED = "served before"


@dataclass(frozen=True)
class Approval:
    """What a human said of a decision: ``is_granted`` or not, who, why and when. The first word stands."""

    decision: str
    is_granted: bool
    by: str
    reason: str
    at: str


@dataclass(frozen=True)
class Serving:
    """What serves: absolute paths of adapter folder and base checkpoint, hash of every file, and how it came to serve."""

    alias: str
    adapter: str
    run_id: str
    adapter_path: str
    checkpoint_path: str
    policy_hash: str
    sha256: Mapping[str, str]
    move: AliasMove


def promote(
    runs: Path, run: str = "", alias: str = SERVING, by: str = "", reason: str = "", override: bool = False
) -> AliasMove:
    """Let the adapter of ``run`` (the newest one without) serve under ``alias``; nothing is written where it does.

    An empty ``alias`` is the one that the run's configuration names.

    ``override`` passes over the gate's no and over a missing approval; it needs a ``reason``, and both are recorded.
    Raises GateRefused where the gate or a missing approval says no, InputError and TableError where something is missing or
    was changed, AliasConflict where another command moved the alias meanwhile.
    """
    if override and not reason.strip():
        raise ConfigError("--override without a reason", "why the gate is passed over", "--override --reason TEXT")
    folder = open_run(runs, run)
    alias = alias or folder.settings.promotion.alias
    before = aliases.current(runs, alias)
    document = decisions.read_decision(folder)
    if not override:
        _refuse(folder, document, alias)
    return _move(folder, document, before, _Word(alias, Action.PROMOTE, by or whoami(), reason, override))


def approve(runs: Path, run: str, by: str, reason: str = "", alias: str = SERVING) -> AliasMove:
    """A human's yes to what the gate allowed, and the move that it allows. Raises as :func:`promote`, and GateRefused where
    somebody has rejected it. After a crash between the two the same call makes the move.
    """
    folder = open_run(runs, run)
    alias = alias or folder.settings.promotion.alias
    before = aliases.current(runs, alias)
    document = decisions.read_decision(folder)
    _refuse_verdict(folder, document)
    _verify(folder, document)
    word = _say(folder, document, alias, Approval(document["decision_id"], True, _named(by), reason, aliases.now()))
    if not word.is_granted:
        raise _rejected(word)
    return _move(folder, document, before, _Word(alias, Action.APPROVE, by, reason or word.reason, False))


def reject(runs: Path, run: str, by: str, reason: str, alias: str = SERVING) -> Approval:
    """A human's no. Raises InputError where it has been approved already."""
    folder = open_run(runs, run)
    alias, document = alias or folder.settings.promotion.alias, decisions.read_decision(folder)
    word = _say(folder, document, alias, Approval(document["decision_id"], False, _named(by), reason, aliases.now()))
    if word.is_granted:
        found = f"{word.by} approved decision {word.decision} at {word.at}"
        raise InputError(found, "a decision that nobody approved", f"avpref gate rollback --alias {alias}")
    return word


def rollback(runs: Path, alias: str = SERVING, to: str = "", by: str = "", reason: str = "") -> AliasMove:
    """Let the adapter serve that served before, or ``to``: one that has served under ``alias`` (its id or the beginning).

    Twice goes back twice. The files are verified, the gate is not asked again.
    Raises InputError where there is nothing to go back to, TableError where files are gone or changed, AliasConflict.
    """
    moves = aliases.history(runs, alias)
    target = _target(moves, alias, to)
    record = aliases.adapter_record(runs, target)
    _verify_files(Path(runs), record)
    before, origin = moves[-1], next(move for move in reversed(moves) if move.adapter == target)
    if before.adapter == target:
        return before
    said = AliasMove(
        alias, 0, Action.ROLLBACK, target, origin.run_id, origin.decision, by or whoami(), reason, aliases.now()
    )
    return aliases.append(runs, before, said)


def serving(runs: Path, alias: str = SERVING) -> Serving:
    """What serves under ``alias``. Raises InputError where nothing does, TableError where a file is gone or was changed."""
    move = aliases.current(runs, alias)
    if move is None:
        known = ", ".join(aliases.names(runs)) or "(none yet)"
        fix = f"avpref gate promote --alias {alias} --runs {runs}"
        raise InputError(f"nothing serves as {alias} in {runs}", f"one of: {known}", fix)
    record = aliases.adapter_record(runs, move.adapter)
    _verify_files(Path(runs), record)
    root = Path(runs).resolve()
    paths = {role: [root / file["path"] for file in record["files"] if file["role"] == role] for role in _roles(record)}
    return Serving(
        alias=alias,
        adapter=move.adapter,
        run_id=move.run_id,
        adapter_path=str(paths[decisions.ADAPTER][0].parent),
        checkpoint_path=str(paths[decisions.CHECKPOINT][0]),
        policy_hash=record["inputs"]["policy_hash"],
        sha256={file["path"]: file["sha256"] for file in record["files"]},
        move=move,
    )


def state(folder: RunFolder, alias: str = "") -> State:
    """How far the run's adapter has got under ``alias`` (that of its configuration without one)."""
    runs, settings = folder.runs, folder.settings.promotion
    if not decisions.decision_ids(folder):
        return State.UNDECIDED
    document, alias = decisions.read_decision(folder), alias or settings.alias
    moves = [move for move in aliases.history(runs, alias) if _is_of(runs, move, document)]
    if moves:
        last = aliases.current(runs, alias)
        return State.SERVES if last and last.adapter in {move.adapter for move in moves} else State.SERVED
    word = approval(runs, alias, document["decision_id"])
    if word is not None and not word.is_granted:
        return State.REJECTED
    if document["verdict"] != PROMOTE:
        return State.REFUSED
    return State.AWAITING if settings.approval == "required" and word is None else State.ALLOWED


def promote_automatically(folder: RunFolder) -> State:
    """What the end of a run does: move the alias if the configuration asks for it and nothing speaks against it.

    An adapter that served before is left alone: whoever rolled it back meant it. Returns where the run stands then.
    """
    settings = folder.settings.promotion
    found = state(folder)
    if settings.automatic and found is State.ALLOWED:
        promote(folder.runs, folder.root.name, settings.alias, reason="the gate promoted it")
        return state(folder)
    return found


def approval(runs: Path, alias: str, decision: str) -> Approval | None:
    """What was said of a decision, None where nobody has. Raises TableError for a torn file."""
    files, name = aliases.registry(runs), _approval_file(alias, decision)
    if not files.exists(name):
        return None
    document = decisions.parsed(files.uri(name), files.read(name))
    document.pop("schema_version")
    return Approval(**document)


def whoami() -> str:
    """Who acts where nobody says so: user and machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@dataclass(frozen=True)
class _Word:
    alias: str
    action: Action
    by: str
    reason: str
    is_override: bool


def _move(folder: RunFolder, document: dict[str, Any], before: AliasMove | None, word: _Word) -> AliasMove:
    runs = folder.runs
    _verify(folder, document)
    adapter = aliases.record_adapter(runs, document)
    if before is not None and before.adapter == adapter:
        return before
    is_override = word.is_override and document["verdict"] != PROMOTE
    said = AliasMove(
        alias=word.alias,
        number=0,
        action=word.action,
        adapter=adapter,
        run_id=folder.run_id,
        decision=document["decision_id"],
        by=word.by,
        reason=word.reason,
        at=aliases.now(),
        is_override=is_override,
    )
    return aliases.append(runs, before, said)


def _refuse(folder: RunFolder, document: Mapping[str, Any], alias: str) -> None:
    _refuse_verdict(folder, document)
    word = approval(folder.runs, alias, document["decision_id"])
    if word is not None and not word.is_granted:
        raise _rejected(word)
    if word is None and folder.settings.promotion.approval == "required":
        fix = f"avpref gate approve {folder.run_id} --by NAME --alias {alias} --runs {folder.runs}"
        raise GateRefused(f"run {folder.run_id} is awaiting approval", "promotion.approval is required", fix)


def _refuse_verdict(folder: RunFolder, document: Mapping[str, Any]) -> None:
    if document["verdict"] != PROMOTE:
        reasons = "; ".join(document["reasons"])
        fix = "another run, or: avpref gate promote --override --reason TEXT"
        raise GateRefused(f"the gate refused run {folder.run_id}: {reasons}", "verdict promote", fix)


def _rejected(word: Approval) -> GateRefused:
    why = f": {word.reason}" if word.reason else ""
    found = f"{word.by} rejected decision {word.decision} at {word.at}{why}"
    return GateRefused(found, "an approval", "avpref gate promote --override --reason TEXT")


def _verify(folder: RunFolder, document: Mapping[str, Any]) -> None:
    """Raises TableError where the adapter's files or the decision are not what they were."""
    _verify_files(folder.runs, document)
    played = decisions.replay_decision(folder, document["decision_id"])
    if not played.agrees:
        first = played.wrong[0]
        found = f"decision {document['decision_id']} says {first.what} = {first.then}, and taken again {first.now}"
        fix = f"avpref eval run --run {folder.run_id} --runs {folder.runs}"
        raise TableError(found, "the same verdict and numbers", fix)


def _verify_files(runs: Path, document: Mapping[str, Any]) -> None:
    changed = decisions.changed_files(runs, document)
    if changed:
        first = changed[0]
        raise TableError(
            f"{Path(runs) / first.what}: {first.now}",
            f"sha-256 {first.then}",
            "restore the file from a copy, or retrain",
        )


def _target(moves: list[AliasMove], alias: str, to: str) -> str:
    if not moves:
        raise InputError(f"nothing serves as {alias}", "an alias that was moved", "avpref gate promote")
    if not to:
        back = aliases.stack(moves)
        if len(back) < 2:
            found = f"nothing served as {alias} before {moves[-1].adapter}"
            raise InputError(found, "an earlier adapter", "avpref gate promote --run RUN")
        return back[-2]
    known = list(dict.fromkeys(move.adapter for move in moves))
    matching = [adapter for adapter in known if adapter.startswith(to)]
    if len(matching) != 1:
        raise InputError(
            f"{to!r} is {len(matching)} adapters of {alias}", f"one of: {', '.join(known)}", "--to ADAPTER"
        )
    return matching[0]


def _is_of(runs: Path, move: AliasMove, document: Mapping[str, Any]) -> bool:
    record = aliases.adapter_record(runs, move.adapter)
    return bool(record["inputs"]["policy_hash"] == document["inputs"]["policy_hash"])


def _roles(record: Mapping[str, Any]) -> set[str]:
    return {file["role"] for file in record["files"]}


def _say(folder: RunFolder, document: Mapping[str, Any], alias: str, word: Approval) -> Approval:
    name = _approval_file(aliases.checked_name(alias), document["decision_id"])
    data = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(word)}, indent=1).encode()
    aliases.registry(folder.runs).commit_once(name, data)
    found = approval(folder.runs, alias, document["decision_id"])
    assert found is not None
    return found


def _approval_file(alias: str, decision: str) -> str:
    return f"approvals/{alias}/{decision}.json"


def _named(by: str) -> str:
    if not by.strip():
        raise ConfigError("nobody is named", "who decides", "--by NAME")
    return by
