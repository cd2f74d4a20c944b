"""The work of ``avpref bench run``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.bench.bench_run import BenchOutcome
from avpref.bench.bench_run import run_benchmark as run_job
from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.config.loading import load_sections
from avpref.config.schema import BenchJobSettings
from avpref.console import say
from avpref.errors import PartialResult
from avpref.execution.ray_session import ray_session
from avpref.flows.bench.bench_job_sources import BenchChoice, bench_job
from avpref.flows.workers.prompt_sources import reading_rules

MEANINGLESS = "random weights: no number below says anything about quality"
SHOWN_LOST = 10


@dataclass(frozen=True)
class Request:
    """Options of the command; ``columns`` and ``scorers`` are separated by commas, ``root`` is the folder of benchmarks."""

    clips: Path
    preset: str
    reference: Path | None
    prompts: Path | None
    changes: tuple[str, ...]
    columns: str
    scorers: str
    is_tiny: bool
    root: Path


def split(names: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in names.split(",") if name.strip())


def run(request: Request, overrides: Sequence[str], as_json: bool) -> int:
    """Run the benchmark and print its table. Exit code 5 where clips or prompts were lost."""
    settings = load_sections(BenchJobSettings, overrides)
    choice = BenchChoice(
        request.preset,
        request.clips,
        request.reference,
        request.prompts,
        request.changes,
        split(request.columns),
        split(request.scorers),
        request.is_tiny,
        reading_rules(settings.clip),
    )
    with ray_session():
        outcome = run_job(bench_job(choice, settings), request.root)
    say(f"{outcome.counts.computed} results computed, {outcome.counts.reused} reused")
    if as_json:
        counts = {"computed": outcome.counts.computed, "reused": outcome.counts.reused}
        print_json({"bench_dir": str(outcome.folder), "results": counts, **outcome.document})
    else:
        _print(outcome)
    return PartialResult.exit_code if outcome.num_lost else 0


def _print(outcome: BenchOutcome) -> None:
    document = outcome.document
    changed = [f"{row['setting']} {row['value']}" for row in document["settings"] if not row["is_published"]]
    print_facts(
        {
            "bench": str(outcome.folder),
            "preset": document["preset"],
            "settings": f"published, but {', '.join(changed)}" if changed else "as published",
            "clips": document["num_clips"],
            "reference": f"{document['reference']}" if document["reference"] else None,
        }
    )
    if not document["is_meaningful"]:
        print_line(MEANINGLESS)
    print_line()
    print_table(
        [table_row(name, value) for name, value in document["columns"].items()],
        ["column", "better", "value", "low", "high", "clips", "reference", "lost", "reason"],
    )
    for warning in all_warnings(document):
        print_line(f"warning: {warning}")
    lost = [{"set": name, **row} for name, rows in document["lost"].items() for row in rows]
    if lost:
        print_line()
        print_table(lost[:SHOWN_LOST], ["set", "key", "reason"])
        if len(lost) > SHOWN_LOST:
            print_line(f"… and {len(lost) - SHOWN_LOST} more: {outcome.folder / 'result.json'}")


def table_row(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the table for people."""
    return {
        "column": name,
        "better": "higher" if value["higher_is_better"] else "lower",
        "value": value["value"],
        "low": value["low"],
        "high": value["high"],
        "clips": value["num_clips"],
        "reference": value["num_reference"] or None,
        "lost": value["num_lost"],
        "reason": value["reason"] or None,
    }


def all_warnings(document: Mapping[str, Any]) -> list[str]:
    """The warnings of the sets, then those of columns, equal ones once with the columns that have them."""
    columns: dict[str, list[str]] = {}
    for name, value in document["columns"].items():
        for warning in value["warnings"]:
            columns.setdefault(warning, []).append(name)
    return [*document["warnings"], *(f"{', '.join(names)}: {warning}" for warning, names in columns.items())]
