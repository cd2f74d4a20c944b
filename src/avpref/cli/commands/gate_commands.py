"""``avpref gate``: decide whether an adapter may be promoted, and move the alias that serves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter

from avpref.cli.opening import open_run
from avpref.cli.options import DEFAULT_RUNS, RUN_HELP, AsJson, Overrides, Run, Runs
from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.console import say
from avpref.errors import GateRefused, InputError

app = App(name="gate")

Alias = Annotated[str, Parameter(name="--alias", help="alias of the serving adapter")]
OwnAlias = Annotated[str, Parameter(name="--alias", help="alias to move", show_default="promotion.alias of the run")]
By = Annotated[str, Parameter(name="--by", help="who decides", show_default="user and machine")]
Name = Annotated[str, Parameter(name="--by", help="who decides")]
Reason = Annotated[str, Parameter(name="--reason", help="reason; recorded with the move")]
OneRun = Annotated[str, Parameter(help=RUN_HELP)]
Replay = Annotated[bool, Parameter(name="--replay", negative="", help="repeat a stored decision with its own bounds")]
Stored = Annotated[str, Parameter(help="with --replay: id of the decision", show_default="the run's last one")]
Override = Annotated[
    bool,
    Parameter(
        name="--override", negative="", help="promote although the gate refused or nobody approved; needs --reason"
    ),
]
DEFAULT_ALIAS = "serving"


@app.command
def check(
    decision: Stored = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    set_: Overrides = None,
    replay: Replay = False,
    json: AsJson = False,
) -> int:
    """Compute the gate's decision again from the stored evaluation; nothing is recorded. Exit code 3: refused.

    ``--set evaluation.gate.KEY=VALUE`` tries other bounds. ``--replay`` repeats a stored decision with its own bounds and
    reports every difference; exit code 4: the numbers differ.
    """
    from avpref.cli.views import gate_recheck

    folder = open_run(runs, run)
    document = gate_recheck.replayed(folder, decision) if replay else gate_recheck.decide(folder, list(set_ or []))
    print_json(document) if json else _print(document)
    for warning in document["warnings"]:
        say(f"warning: {warning}")
    if not document.get("agrees", True):
        return InputError.exit_code
    return 0 if document["verdict"] == "promote" else GateRefused.exit_code


@app.command
def decide(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Take a run's decision again with people's votes and record it, for rules of kind `votes`. Exit code 3: refused."""
    from avpref.cli.views import gate_recheck

    document = gate_recheck.with_votes(open_run(runs, run))
    print_json(document) if json else _print(document)
    return 0 if document["verdict"] == "promote" else GateRefused.exit_code


@app.command
def promote(
    *,
    runs: Runs = DEFAULT_RUNS,
    run: Run = "",
    alias: OwnAlias = "",
    by: By = "",
    reason: Reason = "",
    override: Override = False,
    json: AsJson = False,
) -> int:
    """Move an alias to a run's adapter, after verifying its files and its decision. Exit code 3: refused."""
    from avpref.registry import promotion

    return _moved(promotion.promote(runs, run, alias, by, reason, override), json)


@app.command
def approve(
    run: OneRun,
    *,
    by: Name,
    runs: Runs = DEFAULT_RUNS,
    alias: OwnAlias = "",
    reason: Reason = "",
    json: AsJson = False,
) -> int:
    """Approve an adapter that the gate allowed, and move the alias to it."""
    from avpref.registry import promotion

    return _moved(promotion.approve(runs, run, by, reason, alias), json)


@app.command
def reject(
    run: OneRun,
    *,
    by: Name,
    reason: Reason,
    runs: Runs = DEFAULT_RUNS,
    alias: OwnAlias = "",
    json: AsJson = False,
) -> int:
    """Reject an adapter that the gate allowed; the alias does not move."""
    from avpref.registry import promotion

    document = asdict(promotion.reject(runs, run, by, reason, alias))
    print_json({"approval": document}) if json else print_facts(document)
    return 0


@app.command
def rollback(
    *,
    runs: Runs = DEFAULT_RUNS,
    alias: Alias = DEFAULT_ALIAS,
    to: Annotated[str, Parameter(name="--to", help="an adapter that has served", show_default="the previous one")] = "",
    by: By = "",
    reason: Reason = "",
    json: AsJson = False,
) -> int:
    """Move an alias back to an adapter that served before. Its files are verified; the gate is not applied again."""
    from avpref.registry import promotion

    return _moved(promotion.rollback(runs, alias, to, by, reason), json)


@app.command
def serving(*, runs: Runs = DEFAULT_RUNS, alias: Alias = DEFAULT_ALIAS, json: AsJson = False) -> int:
    """Print the adapter that an alias serves: paths of adapter and base checkpoint, hashes. The files are verified."""
    from avpref.registry import promotion

    document = asdict(promotion.serving(runs, alias))
    if json:
        print_json(document)
        return 0
    names = ("alias", "adapter", "run_id", "adapter_path", "checkpoint_path", "policy_hash")
    print_facts({name: document[name] for name in names} | {name: document["move"][name] for name in ("by", "at")})
    return 0


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, json: AsJson = False) -> int:
    """List the adapter of every alias, since when it serves, and runs that wait for approval."""
    from avpref.cli.views import gate_rows

    document = {"serving": gate_rows.serving_rows(runs), "awaiting_approval": gate_rows.waiting_rows(runs)}
    if json:
        print_json(document)
        return 0
    print_table(document["serving"], ["alias", "adapter", "run_id", "action", "by", "since"])
    for row in document["awaiting_approval"]:
        print_line(f"awaiting approval: run {row['run_id']} for {row['alias']}")
    if not document["serving"]:
        say(f"no adapter serves in {runs}; promote one: avpref gate promote --runs {runs}")
    return 0


@app.command
def history(*, runs: Runs = DEFAULT_RUNS, alias: Alias = DEFAULT_ALIAS, json: AsJson = False) -> int:
    """Print every move of an alias, oldest first."""
    from avpref.registry import aliases

    moves = [asdict(move) for move in aliases.history(runs, alias)]
    columns = ["number", "at", "action", "adapter", "run_id", "by", "is_override", "reason"]
    print_json({"alias": alias, "moves": moves}) if json else print_table(moves, columns)
    return 0


def _moved(move: Any, as_json: bool) -> int:
    document = asdict(move)
    if as_json:
        print_json({"move": document})
    else:
        print_line(
            f"{move.alias} is adapter {move.adapter} of run {move.run_id} ({move.action} by {move.by}, {move.at})"
        )
    return 0


def _print(document: dict[str, Any]) -> None:
    print_table(document["rules"], ["rule", "dimension", "value", "bound", "passed"])
    print_line()
    print_line(f"gate: {document['verdict']}")
    for reason in document["reasons"]:
        print_line(f"  {reason}")
    if "agrees" in document:
        print_line(f"replay of {document['decision_id']}: {'the same' if document['agrees'] else 'NOT the same'}")
    for change in document.get("differences", []):
        print_line(f"  {change['what']}: was {change['then']}, is {change['now']}")
    for change in document.get("changed_inputs", []):
        print_line(f"  changed since: {change['what']}: was {change['then']}, is {change['now']}")
