"""``avpref rewards``: do the reward models measure what they claim?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter, validators

from avpref.cli.options import AsJson
from avpref.cli.output import print_json, print_line, print_table
from avpref.domain import SCHEMA_VERSION
from avpref.errors import PartialResult
from avpref.observability.progress import Progress, say

if TYPE_CHECKING:
    from avpref.rewards.protocol import Scorer
    from avpref.validation.validate import MetricValidation, Scored
    from avpref.validation.windows import GoodClips

app = App(name="rewards", help="Validate reward models.")

Clips = Annotated[Path, Parameter(help="folder of good recordings, or a CSV with columns file and text")]
Scorers = Annotated[str, Parameter(name="--scorers", help="scorers, separated by commas")]
Out = Annotated[Path, Parameter(name="--out", help="folder for validation.json, .csv, .parquet and .png")]
WindowS = Annotated[
    float, Parameter(name="--window-s", help="seconds of each clip", validator=validators.Number(gt=0, lte=60))
]
ValidationSeed = Annotated[int, Parameter(name="--seed", help="seed of the negatives and the intervals")]
NumNegatives = Annotated[
    int,
    Parameter(name="--negatives", help="negatives of each kind per clip", validator=validators.Number(gte=1)),
]
DEFAULT_OUT = Path("validation")
NAME = "validation"


@app.command
def validate(
    clips: Clips,
    *,
    scorers: Scorers = "signal",
    out: Out = DEFAULT_OUT,
    window_s: WindowS = 4.0,
    negatives: NumNegatives = 1,
    seed: ValidationSeed = 0,
    json: AsJson = False,
) -> int:
    """Score good clips, negatives made from them and delays of their sound; print how well each metric tells them apart.

    Negatives: mask or foreign object in the picture, picture shifted or stalled, foreign, deleted or swelling sound, sound shifted,
    interrupted, repeated or stretched, and the sound of another recording. Exit code 5: some recordings could not be used.
    """
    from avpref.validation.validate import ValidationSettings, judge, score_windows
    from avpref.validation.validation_report import document
    from avpref.validation.windows import good_clips

    opened = _opened(scorers)
    settings = ValidationSettings(window_s, seed, negatives)
    found = good_clips(clips, window_s)
    if found.unread_list is not None:
        say(f"texts are not read from a folder; to use them: avpref rewards validate {found.unread_list}")
    with Progress("validate", len(found.windows), unit="windows") as progress:
        scored = score_windows(found.windows, opened, settings, progress.advance)
    judged = judge(scored, opened, settings)
    written = document(found, opened, scored, judged, settings)
    _write(out, written, scored, judged)
    print_json({**written, "out": str(out)}) if json else _print(found, scored, judged)
    return PartialResult.exit_code if written["unusable"] else 0


def _opened(names: str) -> Sequence[Scorer]:
    """The scorers that ``names`` lists. Raises ConfigError for an unknown name."""
    from avpref.flows.workers.scorers import open_named

    return open_named([name.strip() for name in names.split(",") if name.strip()])


def _write(out: Path, written: dict[str, Any], scored: Scored, judged: Sequence[MetricValidation]) -> None:
    """The four files, each whole or not at all."""
    import json

    from avpref.datasets.table_files import write_table
    from avpref.reports.plots import png
    from avpref.storage.local_files import replace
    from avpref.validation.validation_report import panels, rows_table

    table = rows_table(scored)
    for suffix in (".csv", ".parquet"):
        write_table(out / f"{NAME}{suffix}", table, replace)
    replace(out / f"{NAME}.png", png(panels(judged), 2))
    replace(
        out / f"{NAME}.json",
        json.dumps({"schema_version": SCHEMA_VERSION, **written}, indent=1, allow_nan=False).encode(),
    )
    say(f"{out}: {table.num_rows} scores in {NAME}.csv and .parquet, results in {NAME}.json and .png")


def _print(clips: GoodClips, scored: Scored, judged: Sequence[MetricValidation]) -> None:
    from avpref.rewards.negatives.corruptions import SEED_KINDS
    from avpref.validation.validation_report import BY_KIND, COLUMNS, kind_rows, overall_rows, remarks

    print_table(overall_rows(judged), COLUMNS)
    print_line()
    print_line(BY_KIND)
    print_table(kind_rows(judged), ["metric", *SEED_KINDS])
    print_line()
    for line in remarks(clips, scored, judged):
        print_line(line)
