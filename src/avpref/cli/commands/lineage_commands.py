"""``avpref lineage``: from an adapter down to its clips, and from a clip up to the adapters that used it."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter, validators

from avpref.cli.options import DEFAULT_RUNS, AsJson, Runs
from avpref.cli.output import print_json, print_line
from avpref.console import say

app = App(name="lineage")

Id = Annotated[
    str,
    Parameter(
        help="an adapter (policy hash, run, record or alias), candidate, clip's SHA-256, pair, prompt, checkpoint, norm"
        " or decision; an unambiguous prefix is enough"
    ),
]
Rows = Annotated[
    int, Parameter(name="--pairs", help="maximum number of rows of each list", validator=validators.Number(gte=0))
]
All = Annotated[bool, Parameter(name="--all", help="every row of every list", negative="")]


@app.command
def show(id_: Id, *, runs: Runs = DEFAULT_RUNS, pairs: Rows = 3, all_: All = False, json: AsJson = False) -> int:
    """Show the lineage of an id over all runs of the folder.

    Of an adapter: its pairs with both clips and their scores, norm, seeds, checkpoint, prompts, code version, configuration,
    table versions and hashes. Of anything else: what it is, and which adapters, decisions and aliases use it.
    """
    from avpref.cli.views import lineage_tree

    document = lineage_tree.document_of(runs, id_, None if all_ else pairs)
    if json:
        print_json(document)
        return 0
    for line in lineage_tree.lines(document):
        print_line(line)
    if document["missing"]:
        say(f"tables that are gone: {', '.join(document['missing'])}")
    return 0
