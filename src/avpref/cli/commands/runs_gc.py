"""``avpref runs gc``: remove files that nothing refers to any more."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter, validators

from avpref.cli.options import DEFAULT_RUNS, AsJson, Runs
from avpref.cli.output import print_facts, print_json, print_line, print_table

SHOWN = 20
AT_LEAST_0 = validators.Number(gte=0)

Days = Annotated[
    float | None,
    Parameter(
        name="--keep-days", help="minimum age of the superseded units and whole runs to remove", validator=AT_LEAST_0
    ),
]
Newest = Annotated[
    int | None,
    Parameter(name="--keep-runs", help="number of newest runs that are never removed whole", validator=AT_LEAST_0),
]
Grace = Annotated[
    float | None, Parameter(name="--grace-hours", help="minimum age of any file to remove", validator=AT_LEAST_0)
]
WholeRuns = Annotated[
    bool, Parameter(name="--whole-runs", help="also remove old runs whose adapter was never promoted", negative="")
]
LeaveBusy = Annotated[
    bool, Parameter(name="--leave-busy", help="skip runs that are in use, instead of failing", negative="")
]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="list the files, and remove nothing", negative="")]
All = Annotated[bool, Parameter(name="--all", help="list every file", negative="")]


def gc(
    *,
    runs: Runs = DEFAULT_RUNS,
    keep_days: Days = None,
    keep_runs: Newest = None,
    grace_hours: Grace = None,
    whole_runs: WholeRuns = False,
    leave_busy: LeaveBusy = False,
    dry_run: DryRun = False,
    all_: All = False,
    json: AsJson = False,
) -> int:
    """Remove table versions, clips, units, checkpoints and leftovers that nothing refers to.

    Files named by a current table, an adapter's record, a decision or an alias are kept. The list of files to remove is written to
    gc/TIME.json first. Refuses while a run is in use. Exit code 5: a run was skipped, because its live files cannot be determined.
    """
    from avpref.cli.actions import collect_garbage

    options = collect_garbage.Options(keep_days, keep_runs, grace_hours, whole_runs, leave_busy, dry_run)
    document, exit_code = collect_garbage.collect_runs(runs, options, None if all_ else SHOWN)
    print_json(document) if json else _print(document)
    return exit_code


def _print(document: dict[str, Any]) -> None:
    print_table(document["sorts"], ["sort", "entries", "num_bytes"])
    print_line()
    print_table(document["entries"], ["path", "sort", "num_bytes", "reason"])
    for run, reason in document["passed_by"].items():
        print_line(f"skipped {run}: {reason}")
    print_line()
    verb = "would be removed" if document["dry_run"] else "removed"
    print_facts({verb: f"{document['num_bytes']} bytes", "list": document["list"]})
