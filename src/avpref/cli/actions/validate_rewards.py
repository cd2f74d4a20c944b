"""The work of ``avpref rewards validate``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.cli.output import print_json, print_line, print_table
from avpref.console import say
from avpref.datasets.table_files import write_table
from avpref.domain import SCHEMA_VERSION
from avpref.errors import PartialResult
from avpref.flows.workers.scorers import open_named
from avpref.media.reading_rules import ReadingRules
from avpref.observability.progress import Progress
from avpref.reports.plots import png
from avpref.rewards.negatives.corruptions import SEED_KINDS
from avpref.storage.local_files import replace
from avpref.validation.validate import (
    MetricValidation,
    ScoredWindows,
    ValidationSettings,
    score_windows,
    validate_metrics,
)
from avpref.validation.validation_report import (
    BY_KIND,
    COLUMNS,
    document,
    kind_rows,
    overall_rows,
    panels,
    remarks,
    rows_table,
)
from avpref.validation.windows import ValidationWindows, find_windows

NAME = "validation"


@dataclass(frozen=True)
class Request:
    """The good clips, the scorers (separated by commas), the folder of the results, and the settings of the validation.

    ``audio_track`` chooses the sound of the clips.
    """

    clips: Path
    scorers: str
    out: Path
    window_s: float
    num_negatives: int
    seed: int
    audio_track: str = ""


def validate_scorers(request: Request, as_json: bool) -> int:
    """Score good clips and their negatives, write the results and print them.

    Exit code 5 where recordings are unusable. Raises ConfigError for an unknown scorer.
    """
    scorers = open_named([name.strip() for name in request.scorers.split(",") if name.strip()])
    settings = ValidationSettings(request.window_s, request.seed, request.num_negatives)
    clips = find_windows(request.clips, request.window_s, ReadingRules(audio_track=request.audio_track))
    if clips.unread_list is not None:
        say(f"texts are not read from a folder; to use them: avpref rewards validate {clips.unread_list}")
    with Progress("validate", len(clips.windows), unit="windows") as progress:
        scored = score_windows(clips.windows, scorers, settings, progress.advance)
    validations = validate_metrics(scored, scorers, settings)
    results = document(clips, scorers, scored, validations, settings)
    _write(request.out, results, scored, validations)
    print_json({**results, "out": str(request.out)}) if as_json else _print(clips, scored, validations)
    return PartialResult.exit_code if results["unusable"] else 0


def _write(out: Path, results: dict[str, Any], scored: ScoredWindows, validations: Sequence[MetricValidation]) -> None:
    """Write the four files, each atomically."""
    table = rows_table(scored)
    for suffix in (".csv", ".parquet"):
        write_table(out / f"{NAME}{suffix}", table, replace)
    replace(out / f"{NAME}.png", png(panels(validations), 2))
    replace(
        out / f"{NAME}.json",
        json.dumps({"schema_version": SCHEMA_VERSION, **results}, indent=1, allow_nan=False).encode(),
    )
    say(f"{out}: {table.num_rows} scores in {NAME}.csv and .parquet, results in {NAME}.json and .png")


def _print(clips: ValidationWindows, scored: ScoredWindows, validations: Sequence[MetricValidation]) -> None:
    print_table(overall_rows(validations), COLUMNS)
    print_line()
    print_line(BY_KIND)
    print_table(kind_rows(validations), ["metric", *SEED_KINDS])
    print_line()
    for line in remarks(clips, scored, validations):
        print_line(line)
