"""``avpref scorers``: list and check scorers, built-in ones and those of other packages."""

from __future__ import annotations

from cyclopts import App

from avpref.cli.options import AsJson
from avpref.cli.output import print_json, print_table

app = App(name="scorers")


@app.command(name="list")
def list_(*, json: AsJson = False) -> int:
    """List built-in scorers and those that installed packages offer: metrics, dimensions, inputs, terms, and what is missing."""
    from avpref.cli.views import scorer_rows

    rows = scorer_rows.listing()
    if json:
        print_json({"scorers": rows})
    else:
        print_table(
            scorer_rows.for_people(rows), ["scorer", "origin", "metric", "dimension", "inputs", "terms", "available"]
        )
    return 0
