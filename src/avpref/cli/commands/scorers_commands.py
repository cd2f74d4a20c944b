"""``avpref scorers``: list and check scorers, built-in ones and those of other packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from avpref.cli.options import AsJson
from avpref.cli.output import print_json, print_table

app = App(name="scorers")

Entry = Annotated[
    str, Parameter(name="scorer", help="a name, package.module:Class, or a mapping: '{use: …, settings: {…}}'")
]
Clips = Annotated[
    Path | None,
    Parameter(name="--clips", help="folder of clips; their file names are the texts [default: generated clips]"),
]
Changes = Annotated[
    list[str] | None,
    Parameter(
        name="--change",
        help="key=value: a setting that must change the scores; may be repeated",
        negative="",
        consume_multiple=False,
    ),
]


@app.command(name="list")
def list_(*, json: AsJson = False) -> int:
    """List built-in scorers and those that installed packages offer: metrics, dimensions, inputs, terms, and what is missing."""
    from avpref.cli.views import scorer_rows

    rows = scorer_rows.listing()
    if json:
        print_json({"scorers": rows})
    else:
        columns = ["scorer", "origin", "metric", "dimension", "inputs", "terms", "available"]
        print_table(scorer_rows.for_people(rows), columns)
    return 0


@app.command
def check(scorer: Entry, /, *, clips: Clips = None, change: Changes = None, json: AsJson = False) -> int:
    """Check the contract of a scorer on clips: valid and reproducible scores, independent of batch, order and random state.

    Exit code 1: a check failed.
    """
    from avpref.cli.actions import check_scorer

    return check_scorer.check(scorer, clips, change or [], json)
