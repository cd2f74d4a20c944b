"""The document of ``avpref runs show``, and the same for people."""

from __future__ import annotations

from typing import Any

from avpref.cli.output import print_facts, print_line, print_table, print_verdict
from avpref.cli.views import run_progress, run_state
from avpref.cli.views.run_progress import pass_rows
from avpref.observability.cost import spending
from avpref.storage.run_folder import RESULT_FILE, RunFolder


def document_of(folder: RunFolder) -> dict[str, Any]:
    """State, progress, cost, tables, quarantined candidates, result and lineage of a run, read from its files."""
    in_use = run_state.is_in_use(folder.root)
    rows = run_state.rows_per_table(folder)
    return {
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        "state": run_state.state(folder),
        "owner": run_progress.owner(folder.root) if in_use else None,
        "stages": [vars(stage) for stage in run_state.stages(folder)],
        "passes": run_progress.passes(folder, in_use),
        "spent": spending(folder.root, rows.get("pairs", 0), folder.observe).document(),
        "tables": rows,
        "quarantine": [vars(row) for row in run_state.quarantine(folder)],
        "result": folder.documents.read(RESULT_FILE),
        "lineage": run_state.lineage(folder),
    }


def print_run(document: dict[str, Any]) -> None:
    """Print the document of a run for people."""
    facts = {name: document[name] for name in ("run_id", "run_dir", "state", "owner") if document[name]}
    lineage = document["lineage"]
    of_a_round = ("round", "previous_run") if lineage["previous_run"] else ()
    print_facts(facts | {name: lineage[name] for name in ("seed", "settings_hash", *of_a_round)})
    print_line()
    print_table(document["stages"], ["name", "state", "rows", "since", "why"])
    print_line()
    if document["passes"]:
        columns = ["pass", "state", "items", "units", "shards", "rate", "left", "busy", "quarantined", "as of"]
        print_table(pass_rows(document["passes"]), columns)
        print_line()
        _print_spent(document["spent"])
        print_line()
    rows = [
        {"table": name, "rows": rows, "version": lineage["tables"][name]} for name, rows in document["tables"].items()
    ]
    print_table(rows, ["table", "rows", "version"])
    if document["quarantine"]:
        print_line()
        print_table(document["quarantine"], ["candidate_id", "stage", "error", "message"])
    if document["result"]:
        print_line()
        print_verdict(document["result"])
    print_line()
    print_facts({f"model {stage}": " ".join(paths) or None for stage, paths in lineage["models"].items()})


def _print_spent(spent: dict[str, Any]) -> None:
    """Print what the run has cost: seconds of all passes, and those of the stages that pairs are made of, per pair."""
    before = " and ".join(spent["stages_before_pairs"]) or "generate and score"
    pairs = f"per kept pair ({spent['kept_pairs']} pairs)"
    facts = {
        "busy worker seconds, all stages": spent["busy_actor_s"],
        f"  of them {before}": spent["busy_actor_s_before_pairs"],
        f"  of these {pairs}": spent["busy_actor_s_per_kept_pair"],
    }
    if spent["gpu_s"]:
        facts |= {
            "GPU seconds, all stages": spent["gpu_s"],
            f"  of them in {before}": spent["gpu_s_before_pairs"],
            f"  of these, GPU, {pairs}": spent["gpu_s_per_kept_pair"],
        }
    if spent["price_per_gpu_hour"]:
        facts |= {
            f"cost of all GPU seconds, {spent['currency']}": spent["cost"],
            f"  of {before} {pairs}": spent["cost_per_kept_pair"],
        }
    print_facts(facts)
