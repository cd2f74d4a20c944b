"""``avpref runs gc``: remove what nothing refers to any more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, validators

from avpref.cli.options import DEFAULT_RUNS, AsJson, Runs
from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.errors import PartialResult

if TYPE_CHECKING:
    from avpref.registry.garbage_collection import Collection

SHOWN = 20
AT_LEAST_0 = validators.Number(gte=0)

Days = Annotated[
    float | None,
    Parameter(name="--keep-days", help="age of superseded units and of whole runs that go", validator=AT_LEAST_0),
]
Newest = Annotated[
    int | None, Parameter(name="--keep-runs", help="newest runs that never go whole", validator=AT_LEAST_0)
]
Grace = Annotated[
    float | None, Parameter(name="--grace-hours", help="younger files are not touched", validator=AT_LEAST_0)
]
WholeRuns = Annotated[
    bool, Parameter(name="--whole-runs", help="old runs go too, where nobody promoted them", negative="")
]
LeaveBusy = Annotated[bool, Parameter(name="--leave-busy", help="pass by runs that are in use", negative="")]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="say what would go, and remove nothing", negative="")]
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

    Whatever a current table, an adapter's record, a decision or an alias names stays. The list of what goes is written to
    gc/TIME.json first. Refuses while a run is in use. Exit code 5: a run was passed by, because it cannot be told what of it is live.
    """
    from avpref.config.loading import load_section
    from avpref.config.retention_settings import RetentionSettings
    from avpref.registry.garbage_collection import Request, collect

    given = {"keep_days": keep_days, "keep_runs": keep_runs, "grace_hours": grace_hours}
    bounds = load_section(RetentionSettings, "retention").model_copy(
        update={name: value for name, value in given.items() if value is not None}
    )
    collection = collect(runs, Request(bounds, whole_runs, leave_busy, dry_run))
    shown = _document(runs.resolve(), collection, None if all_ else SHOWN)
    document = {"runs": str(runs), "dry_run": dry_run, "retention": bounds.model_dump(), **shown}
    print_json(document) if json else _print(document)
    return PartialResult.exit_code if collection.unclear else 0


def _document(runs: Path, collection: Collection, limit: int | None) -> dict[str, Any]:
    files, num_bytes = Counter[str](), Counter[str]()
    for each in collection.entries:
        files[each.kind] += 1
        num_bytes[each.kind] += each.num_bytes
    entries = [
        {
            "path": each.path.relative_to(runs).as_posix(),
            "sort": str(each.kind),
            "reason": each.reason,
            "num_bytes": each.num_bytes,
        }
        for each in collection.entries[:limit]
    ]
    return {
        "num_bytes": collection.num_bytes,
        "sorts": [{"sort": str(sort), "entries": files[sort], "num_bytes": num_bytes[sort]} for sort in files],
        "entries": entries,
        "passed_by": dict(collection.passed_by),
        "list": str(collection.tombstone.relative_to(runs)) if collection.tombstone else None,
    }


def _print(document: dict[str, Any]) -> None:
    print_table(document["sorts"], ["sort", "entries", "num_bytes"])
    print_line()
    print_table(document["entries"], ["path", "sort", "num_bytes", "reason"])
    for run, reason in document["passed_by"].items():
        print_line(f"passed by {run}: {reason}")
    print_line()
    verb = "would be removed" if document["dry_run"] else "removed"
    print_facts({verb: f"{document['num_bytes']} bytes", "list": document["list"]})
