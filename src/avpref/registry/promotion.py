"""Promotion: an alias moves to an adapter that the gate allowed; and rollback, approval and rejection.

Before a move everything is verified: the adapter's files exist with the recorded hashes, the gate's verdict is ``promote``, and
the same decision results when it is taken again from the stored scores. Neither torch nor Prefect is imported here.
"""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from avpref.datasets.evidence.gate import PROMOTE
from avpref.domain import SCHEMA_VERSION
from avpref.errors import ConfigError, GateRefused, InputError, TableError
from avpref.registry import aliases, decisions
from avpref.registry.aliases import SERVING, Action, AliasMove
from avpref.registry.decision_record import ADAPTER, CHECKPOINT, DecisionRecord
from avpref.storage.run_folder import RunFolder, open_run


class State(StrEnum):
    """The state of a run's adapter under an alias."""

    UNDECIDED = "not evaluated"
    REFUSED = "refused"
    AWAITING = "awaiting approval"
    REJECTED = "rejected"
    ALLOWED = "allowed"
    SERVES = "serving"
    SERVED = "served before"


@dataclass(frozen=True)
class Approval:
    """A human's approval (``is_granted``) or rejection of a decision: who, why and when. The first decision is final."""

    decision: str
    is_granted: bool
    by: str
    reason: str
    at: str


@dataclass(frozen=True)
class Serving:
    """The adapter that serves: absolute paths of its folder and of the base checkpoint, the SHA-256 of every file, and its last move."""

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
    """Let the adapter of ``run`` (without it, of the newest run) serve under ``alias``; writes nothing where it already does.

    An empty ``alias`` is the one that the run's configuration names. ``override`` promotes against the gate's verdict or without
    a required approval; it needs a ``reason``, and both are recorded. Raises ConfigError for an override without one, GateRefused
    where the gate refused or an approval is missing, InputError and TableError where something is missing or was changed,
    AliasConflict where another command moved the alias in the meantime.
    """
    if override and not reason.strip():
        raise ConfigError("--override without a reason", "why the gate is overridden", "--override --reason TEXT")
    folder = open_run(runs, run)
    alias = alias or folder.settings.promotion.alias
    before = aliases.current(runs, alias)
    record = decisions.read_decision(folder)
    if not override:
        _refuse(folder, record, alias)
    return _move_alias(folder, record, before, _Move(alias, Action.PROMOTE, by or whoami(), reason, override))


def approve(runs: Path, run: str, by: str, reason: str = "", alias: str = SERVING) -> AliasMove:
    """Record a human's approval of an adapter that the gate allowed, then move the alias.

    After a crash between the two the same call makes the move. Raises as :func:`promote`, and GateRefused where the decision was
    rejected before.
    """
    folder = open_run(runs, run)
    alias = alias or folder.settings.promotion.alias
    before = aliases.current(runs, alias)
    record = decisions.read_decision(folder)
    _refuse_verdict(folder, record)
    _verify(folder, record)
    own = Approval(record.decision_id, True, _named(by), reason, aliases.now())
    final = _record_approval(folder, alias, own)
    if not final.is_granted:
        raise _rejected(final)
    return _move_alias(folder, record, before, _Move(alias, Action.APPROVE, by, reason or final.reason, False))


def reject(runs: Path, run: str, by: str, reason: str, alias: str = SERVING) -> Approval:
    """Record a human's rejection. Raises InputError where the decision was approved before."""
    folder = open_run(runs, run)
    alias, record = alias or folder.settings.promotion.alias, decisions.read_decision(folder)
    final = _record_approval(folder, alias, Approval(record.decision_id, False, _named(by), reason, aliases.now()))
    if final.is_granted:
        found = f"{final.by} approved decision {final.decision} at {final.at}"
        raise InputError(found, "a decision that nobody approved", f"avpref gate rollback --alias {alias}")
    return final


def rollback(runs: Path, alias: str = SERVING, to: str = "", by: str = "", reason: str = "") -> AliasMove:
    """Let the previous adapter serve again, or ``to``: an adapter that has served under ``alias`` (its id or the beginning of it).

    Two rollbacks go back twice. The files are verified; the gate's decision is not taken again. Raises InputError where no adapter
    served before, TableError where files are gone or changed, AliasConflict where another command moved the alias.
    """
    moves = aliases.history(runs, alias)
    target = _target(moves, alias, to)
    record = aliases.registered_adapter(runs, target)
    _verify_files(Path(runs), record)
    before, origin = moves[-1], next(move for move in reversed(moves) if move.adapter == target)
    if before.adapter == target:
        return before
    move = AliasMove(
        alias, 0, Action.ROLLBACK, target, origin.run_id, origin.decision, by or whoami(), reason, aliases.now()
    )
    return aliases.append(runs, before, move)


def serving(runs: Path, alias: str = SERVING) -> Serving:
    """The adapter that serves under ``alias``. Raises InputError where none does, TableError where a file is gone or was changed."""
    move = aliases.current(runs, alias)
    if move is None:
        known = ", ".join(aliases.names(runs)) or "(none yet)"
        fix = f"avpref gate promote --alias {alias} --runs {runs}"
        raise InputError(f"nothing serves as {alias} in {runs}", f"one of: {known}", fix)
    record = aliases.registered_adapter(runs, move.adapter)
    _verify_files(Path(runs), record)
    root = Path(runs).resolve()
    return Serving(
        alias=alias,
        adapter=move.adapter,
        run_id=move.run_id,
        adapter_path=str((root / record.files_of(ADAPTER)[0].path).parent),
        checkpoint_path=str(root / record.files_of(CHECKPOINT)[0].path),
        policy_hash=record.policy_hash,
        sha256={file.path: file.sha256 for file in record.files},
        move=move,
    )


def state(folder: RunFolder, alias: str = "") -> State:
    """The state of the run's adapter under ``alias``, by default the one that its configuration names."""
    runs, settings = folder.runs, folder.settings.promotion
    if not decisions.decision_ids(folder):
        return State.UNDECIDED
    record, alias = decisions.read_decision(folder), alias or settings.alias
    moves = [move for move in aliases.history(runs, alias) if _names_same_policy(runs, move, record)]
    if moves:
        last = aliases.current(runs, alias)
        return State.SERVES if last and last.adapter in {move.adapter for move in moves} else State.SERVED
    known = approval(runs, alias, record.decision_id)
    if known is not None and not known.is_granted:
        return State.REJECTED
    if record.verdict != PROMOTE:
        return State.REFUSED
    return State.AWAITING if settings.approval == "required" and known is None else State.ALLOWED


def promote_automatically(folder: RunFolder) -> State:
    """Move the alias at the end of a run, if the configuration asks for it and the adapter may serve; returns the state after that.

    An adapter that served before is not promoted again, since somebody rolled it back. Raises as :func:`promote`.
    """
    settings = folder.settings.promotion
    before = state(folder)
    if settings.automatic and before is State.ALLOWED:
        promote(folder.runs, folder.root.name, settings.alias, reason="the gate promoted it")
        return state(folder)
    return before


def approval(runs: Path, alias: str, decision: str) -> Approval | None:
    """The approval or rejection of a decision, None where there is none. Raises TableError for a torn file."""
    files, name = aliases.registry(runs), _approval_file(alias, decision)
    if not files.exists(name):
        return None
    document = decisions.parse_document(files.uri(name), files.read(name))
    document.pop("schema_version")
    return Approval(**document)


def whoami() -> str:
    """The default for ``by``: user and machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


@dataclass(frozen=True)
class _Move:
    alias: str
    action: Action
    by: str
    reason: str
    is_override: bool


def _move_alias(folder: RunFolder, record: DecisionRecord, before: AliasMove | None, move: _Move) -> AliasMove:
    runs = folder.runs
    _verify(folder, record)
    adapter = aliases.register_adapter(runs, record)
    if before is not None and before.adapter == adapter:
        return before
    alias_move = AliasMove(
        alias=move.alias,
        number=0,
        action=move.action,
        adapter=adapter,
        run_id=folder.run_id,
        decision=record.decision_id,
        by=move.by,
        reason=move.reason,
        at=aliases.now(),
        is_override=move.is_override and record.verdict != PROMOTE,
    )
    return aliases.append(runs, before, alias_move)


def _refuse(folder: RunFolder, record: DecisionRecord, alias: str) -> None:
    _refuse_verdict(folder, record)
    known = approval(folder.runs, alias, record.decision_id)
    if known is not None and not known.is_granted:
        raise _rejected(known)
    if known is None and folder.settings.promotion.approval == "required":
        fix = f"avpref gate approve {folder.run_id} --by NAME --alias {alias} --runs {folder.runs}"
        raise GateRefused(f"run {folder.run_id} is awaiting approval", "promotion.approval is required", fix)


def _refuse_verdict(folder: RunFolder, record: DecisionRecord) -> None:
    if record.verdict != PROMOTE:
        fix = "another run, or: avpref gate promote --override --reason TEXT"
        found = f"the gate refused run {folder.run_id}: {'; '.join(record.reasons)}"
        raise GateRefused(found, "verdict promote", fix)


def _rejected(rejection: Approval) -> GateRefused:
    why = f": {rejection.reason}" if rejection.reason else ""
    found = f"{rejection.by} rejected decision {rejection.decision} at {rejection.at}{why}"
    return GateRefused(found, "an approval", "avpref gate promote --override --reason TEXT")


def _verify(folder: RunFolder, record: DecisionRecord) -> None:
    """Raises TableError where the adapter's files have changed, or where the decision taken again differs."""
    _verify_files(folder.runs, record)
    replay = decisions.replay_decision(folder, record.decision_id)
    if not replay.agrees:
        first = replay.wrong[0]
        found = f"decision {record.decision_id} says {first.what} = {first.then}, and taken again {first.now}"
        fix = f"avpref eval run --run {folder.run_id} --runs {folder.runs}"
        raise TableError(found, "the same verdict and numbers", fix)


def _verify_files(runs: Path, record: DecisionRecord) -> None:
    changed = decisions.changed_files(runs, record)
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
        served = aliases.stack(moves)
        if len(served) < 2:
            found = f"nothing served as {alias} before {moves[-1].adapter}"
            raise InputError(found, "an earlier adapter", "avpref gate promote --run RUN")
        return served[-2]
    known = list(dict.fromkeys(move.adapter for move in moves))
    matching = [adapter for adapter in known if adapter.startswith(to)]
    if len(matching) != 1:
        raise InputError(
            f"{to!r} is {len(matching)} adapters of {alias}", f"one of: {', '.join(known)}", "--to ADAPTER"
        )
    return matching[0]


def _names_same_policy(runs: Path, move: AliasMove, record: DecisionRecord) -> bool:
    return aliases.registered_adapter(runs, move.adapter).policy_hash == record.policy_hash


def _record_approval(folder: RunFolder, alias: str, own: Approval) -> Approval:
    """Store ``own`` unless the decision was approved or rejected before; returns the approval that is final."""
    name = _approval_file(aliases.checked_name(alias), own.decision)
    data = json.dumps({"schema_version": SCHEMA_VERSION, **asdict(own)}, indent=1).encode()
    aliases.registry(folder.runs).commit_once(name, data)
    final = approval(folder.runs, alias, own.decision)
    assert final is not None
    return final


def _approval_file(alias: str, decision: str) -> str:
    return f"approvals/{alias}/{decision}.json"


def _named(by: str) -> str:
    if not by.strip():
        raise ConfigError("nobody is named", "who decides", "--by NAME")
    return by
