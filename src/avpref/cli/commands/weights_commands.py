"""``avpref weights``: the files of the published reward models: what there is, fetching them, and whether they are whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from avpref.cli.options import AsJson
from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.errors import ConfigError, InputError

if TYPE_CHECKING:
    from avpref.rewards.weights.catalogue import Model, WeightFile
    from avpref.rewards.weights.weight_fetch import Plan
    from avpref.rewards.weights.weight_verify import Finding

app = App(name="weights", help="List, fetch and verify the files of the published reward models.")

Names = Annotated[list[str], Parameter(help="names of reward models", negative="")]
MaybeNames = Annotated[list[str] | None, Parameter(help="names of reward models; all of them if left out", negative="")]
Folder = Annotated[
    Path | None, Parameter(name="--folder", help="the folder that the configuration names for this one model")
]
DryRun = Annotated[bool, Parameter(name="--dry-run", help="say what would be fetched, and fetch nothing", negative="")]


@app.command(name="list")
def list_(models: MaybeNames = None, /, *, folder: Folder = None, json: AsJson = False) -> int:
    """List every file of every reward model: size, licence, and where it lies on this machine."""
    from avpref.rewards.weights.catalogue import size_text, weights_home

    named = _models(models, folder)
    rows = [_row(model, file, folder) for model in named for file in model.files]
    if json:
        print_json({"home": str(weights_home()), "weights": rows})
        return 0
    for row in rows:
        row["size"] = ("" if row["is_size_exact"] else "~") + size_text(row["num_bytes"])
        row["commercial"] = "yes" if row["commercial_use"] else "no"
        row["where"] = row["path"] or "absent"
    print_table(rows, ["model", "file", "size", "commercial", "where"])
    print_line()
    print_facts({model.name: f"{model.note} [{model.terms.licence}]" for model in named})
    return 0


@app.command
def fetch(models: Names, /, *, dry_run: DryRun = False, json: AsJson = False) -> int:
    """Fetch what is missing of the named reward models; files that are there are not touched, unfinished ones go on.

    Files land in AVPREF_WEIGHTS/<model>/, by default ~/.cache/avpref/weights/<model>/. Mind the licences: see list.
    """
    from avpref.rewards.weights.weight_fetch import fetch, plan

    plans = [plan(model) for model in _models(models, None)]
    rows = [row for planned in plans for row in _planned(planned)]
    if not dry_run:
        came = [fetched for planned in plans for fetched in fetch(planned).values()]
        hashes = {fetched.source: fetched.sha256 for fetched in came}
        rows = [{**row, "sha256": hashes.get(row["source"])} for row in rows]
    if json:
        needed = sum(planned.num_bytes for planned in plans)
        print_json({"is_dry_run": dry_run, "num_bytes": needed, "free_bytes": plans[0].free_bytes, "files": rows})
    else:
        print_table(rows, ["model", "file", "num_bytes", "is_there", "path"])
    return 0


@app.command
def verify(models: MaybeNames = None, /, *, folder: Folder = None, json: AsJson = False) -> int:
    """Read every byte: sizes, hashes, and whether each file opens. Exit code 4: something is missing, cut short or altered.

    Without names, models of which no file is there are left out.
    """
    from avpref.rewards.weights.catalogue import find
    from avpref.rewards.weights.weight_verify import State, verify

    named = _models(models, folder)
    if not models:
        named = [model for model in named if any(find(model, file) for file in model.files)]
    if not named:
        raise InputError("no file of any reward model is there", "at least one model", "avpref weights list")
    findings = [finding for model in named for finding in verify(model, folder)]
    is_whole = all(finding.state is State.OK for finding in findings)
    if json:
        print_json({"is_whole": is_whole, "files": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            print_line(_line(finding))
    return 0 if is_whole else InputError.exit_code


def _models(names: Sequence[str] | None, folder: Path | None) -> list[Model]:
    from avpref.rewards.weights.catalogue import MODELS, model_named

    if folder is not None and len(names or ()) != 1:
        raise ConfigError("--folder without a model", "the one model whose files it holds", "avpref weights list MODEL")
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"no folder {folder}", "a folder with the files of the model", "avpref weights list")
    return [model_named(name) for name in dict.fromkeys(names)] if names else list(MODELS)


def _row(model: Model, file: WeightFile, folder: Path | None) -> dict[str, Any]:
    from avpref.rewards.weights.catalogue import find

    path = find(model, file, folder)
    return {
        "model": model.name,
        "file": file.name,
        "source": str(file.source),
        "num_bytes": file.num_bytes,
        "is_size_exact": file.is_size_exact,
        "sha256": file.sha256,
        "licence": model.terms.licence,
        "commercial_use": model.terms.commercial_use,
        "is_there": path is not None,
        "path": str(path or ""),
    }


def _planned(planned: Plan) -> list[dict[str, Any]]:
    """What each file comes to: the ones that are there first."""
    there = [(file, path, True) for file, path in planned.present]
    wanted = [(file, planned.target / file.place, False) for file in planned.missing]
    return [
        {
            "model": planned.model.name,
            "file": file.name,
            "source": str(file.source),
            "num_bytes": file.num_bytes,
            "is_there": is_there,
            "path": str(path),
        }
        for file, path, is_there in there + wanted
    ]


def _line(finding: Finding) -> str:
    """One line: what was found, what was expected, what helps."""
    start = f"{finding.state:<12}  {finding.model} {finding.file}: {finding.found}"
    if not finding.fix:
        return f"{start}, {finding.expected}"
    where = f" in {finding.path}" if finding.path else ""
    return f"{start}{where}; expected: {finding.expected}; fix: {finding.fix}"
