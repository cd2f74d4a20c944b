"""``avpref adapters``: list adapters, export one for another program, print its card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter, validators

from avpref.cli.options import DEFAULT_RUNS, AsJson, Limit, Runs
from avpref.cli.output import first, print_facts, print_json, print_line, print_table

app = App(name="adapters")

Adapter = Annotated[
    str,
    Parameter(
        help="alias, or id of an adapter or run, or the beginning of such an id", show_default="the adapter that serves"
    ),
]
Out = Annotated[Path, Parameter(name="--out", help="new or empty folder")]
Layout = Annotated[
    str,
    Parameter(
        name="--layout",
        help="peft: a folder for PEFT and avpref; diffusers: for diffusers' network; comfyui: one file; or another of the base model",
    ),
]
AnyLayout = Annotated[
    str,
    Parameter(
        name="--layout",
        help="of an adapter: peft, comfyui, diffusers; of a network (--merged): original, diffusers; or another of the base model",
        show_default="peft; with --merged the first of the base model",
    ),
]
Merged = Annotated[
    bool,
    Parameter(
        name="--merged", help="the whole network with the adapter folded in, instead of the adapter", negative=""
    ),
]
Part = Annotated[
    Literal["all", "video"],
    Parameter(name="--part", help="video: leave the audio branch out, for programs without one"),
]
Base = Annotated[
    str, Parameter(name="--base-model", help="repository of the base model, for the card", show_default="not stated")
]
Revision = Annotated[
    str, Parameter(name="--revision", help="revision of the base model, for the card", show_default="not stated")
]
Clips = Annotated[
    int,
    Parameter(
        name="--clips",
        help="held-out prompts whose clips before and after are enclosed",
        validator=validators.Number(gte=0),
    ),
]
Refused = Annotated[
    bool, Parameter(name="--refused", help="also an adapter that the gate refused and nobody promoted", negative="")
]
Push = Annotated[
    str, Parameter(name="--push", help="upload the folder to this repository of the hub, OWNER/NAME", show_default="no")
]
Public = Annotated[
    bool, Parameter(name="--public", help="with --push: a new repository is public instead of private", negative="")
]


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, limit: Limit = None, json: AsJson = False) -> int:
    """List the adapters that a gate has decided on, the promoted ones first."""
    from avpref.cli.actions.exchange import export_adapters

    rows = first(export_adapters.rows(runs), limit)
    columns = ["adapter", "run_id", "verdict", "serves_as", "rank", "alpha", "pairs_hash"]
    print_json({"adapters": rows}) if json else print_table(rows, columns)
    return 0


@app.command
def export(
    adapter: Adapter = "",
    *,
    out: Out,
    layout: AnyLayout = "",
    merged: Merged = False,
    part: Part = "all",
    runs: Runs = DEFAULT_RUNS,
    base_model: Base = "",
    revision: Revision = "",
    clips: Clips = 3,
    refused: Refused = False,
    push: Push = "",
    public: Public = False,
    json: AsJson = False,
) -> int:
    """Export a promoted adapter with a model card and clips before and after training. Nothing is uploaded without --push.

    The files of an adapter are read back and compared with the trained one. Exit code 3: the gate refused it; see --refused.
    """
    from avpref.cli.actions.exchange import export_adapters

    request = export_adapters.AdapterExport(out, layout, part, base_model, revision, clips, merged)
    document = export_adapters.export_one(runs, adapter, request, refused, push, public)
    print_json(document) if json else print_facts({**document, "files": ", ".join(document["files"])})
    return 0


@app.command
def card(
    adapter: Adapter = "",
    *,
    layout: Layout = "peft",
    runs: Runs = DEFAULT_RUNS,
    base_model: Base = "",
    revision: Revision = "",
    refused: Refused = False,
    json: AsJson = False,
) -> int:
    """Print the model card of an adapter, as ``adapters export`` writes it, without clips."""
    from avpref.cli.actions.exchange import export_adapters

    text = export_adapters.card_of(runs, adapter, layout, base_model, revision, refused)
    print_json({"card": text}) if json else print_line(text.rstrip("\n"))
    return 0
