"""The work of ``avpref retrain --dry-run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from avpref.cli.output import print_json, print_table
from avpref.config.schema import Settings
from avpref.console import say
from avpref.flows.dry_run import estimate

PLACEMENT_COLUMNS = ["stage", "device", "processes", "dtype"]


PARTS = ["weights", "trained", "gradients", "optimiser", "average", "activations", "block"]
SMALLER_COLUMNS = ["bucket", "memory", "card", "PFLOP_per_pair", "overrides"]
TRAINING_COLUMNS = ["stage", "bucket", "device", "tokens", "samples_per_pass", "steps", "memory", "card", "GPU_hours"]
ROUND_COLUMNS = [
    *("round", "candidates", "held_out", "pairs", "earlier_pairs", "steps", "rank"),
    *("sampling_GPU_hours", "training_GPU_hours", "bytes"),
]


def print_estimate(settings: Settings, as_json: bool, tflops: float) -> int:
    """Print items and bytes of each stage, where each runs, and the plan of each training; returns exit code 0."""
    document = estimate(settings, tflops).document()
    if as_json:
        print_json(document)
    else:
        print_table(document["stages"], ["name", "items", "unit", "bytes"])
        print_table(document["placements"], PLACEMENT_COLUMNS)
        print_table([_training_row(plan) for plan in document["trainings"]], TRAINING_COLUMNS)
        print_table([_training_row(plan) for plan in document["trainings"]], ["stage", "bucket", *PARTS])
        print_table([_training_row(row) for row in document["smaller"]], SMALLER_COLUMNS)
        for row in document["cards"]:
            say(f"with {row['card_gb']} GB, {row['bucket']}, fewest operations: {row['overrides']}")
        speed = f"GPU-hours: at {tflops:g} TFLOP/s sustained, steps alone"
        say(f"memory: of one device, without workspaces and context; {speed}")
        _print_rounds(document["rounds"])
    say(f"at most {document['total_bytes'] / 2**20:,.0f} MiB, score and pair tables not counted")
    return 0


def _print_rounds(rounds: Sequence[Mapping[str, Any]]) -> None:
    """A row per round, and the sums of all; nothing for one round."""
    if not rounds:
        return
    rows = [
        {
            **row,
            "sampling_GPU_hours": f"{row['sampling_hours']:.1f}",
            "training_GPU_hours": f"{row['training_hours']:.1f}",
            "bytes": row["num_bytes"],
        }
        for row in rounds
    ]
    print_table(rows, ROUND_COLUMNS)
    sums = {name: sum(row[name] for row in rounds) for name in ("candidates", "pairs", "steps")}
    hours = sum(row["sampling_hours"] + row["training_hours"] for row in rounds)
    say(
        f"the tables above are of round 1; all {len(rounds)} rounds: {sums['candidates']} candidates, at most {sums['pairs']} new pairs, "
        f"{sums['steps']} steps of AV-DPO, {hours:.1f} GPU-hours of sampling and AV-DPO"
    )


def _training_row(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan for people: memory in GB, the smallest card that holds it, hours with one decimal."""
    card = f"{plan['smallest_card_gb']} GB" if plan["smallest_card_gb"] else "none"
    row = {**plan, "memory": gigabytes(plan["memory_total"]), "card": card}
    row |= {name: gigabytes(value) for name, value in plan["memory"].items()}
    row |= {"PFLOP_per_pair": f"{plan['pflop_per_pair']:.2f}"} if "pflop_per_pair" in plan else {}
    return row | ({"GPU_hours": f"{plan['gpu_hours']:.1f}"} if "gpu_hours" in plan else {})


def gigabytes(count: int) -> str:
    """Bytes as 10^9 bytes."""
    return f"{count / 1e9:.2f} GB"
