"""``avpref bench``: the numbers of published benchmarks for any folder of clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from avpref.cli.options import AsJson, Overrides

app = App(name="bench")

Clips = Annotated[
    Path, Parameter(name="--clips", help="folder of generated clips; sound in the files or in .wav beside them")
]
Reference = Annotated[
    Path | None,
    Parameter(name="--reference", help="folder of reference clips, or a file of avpref bench features"),
]
Prompts = Annotated[
    Path | None,
    Parameter(name="--prompts", help="CSV with a column text, or JavisBench's list in its published columns"),
]
Preset = Annotated[str, Parameter(name="--preset", help="javisbench, javisbench-mini, av-benchmark, t2av or signals")]
With = Annotated[
    list[str] | None,
    Parameter(
        name="--with",
        help="SETTING=VALUE of the preset, or corrected for all corrected values; may be repeated",
        negative="",
        consume_multiple=False,
    ),
]
Columns = Annotated[
    str, Parameter(name="--columns", help="columns of the preset, separated by commas", show_default="all")
]
Scorers = Annotated[str, Parameter(name="--scorers", help="further scorers, separated by commas")]
Tiny = Annotated[
    bool,
    Parameter(
        name="--tiny", help="small networks with random weights, for dry runs: no number has a meaning", negative=""
    ),
]
Root = Annotated[Path, Parameter(name="--bench", help="folder of benchmarks and of the features that they share")]
Results = Annotated[list[Path], Parameter(help="folders of finished benchmarks, the baseline first", negative="")]
Result = Annotated[Path, Parameter(help="folder of a finished benchmark")]
Plot = Annotated[Path | None, Parameter(name="--plot", help="PNG file to write", show_default="none")]
IntervalSeed = Annotated[int, Parameter(name="--seed", help="seed of the intervals")]
Page = Annotated[
    Path | None, Parameter(name="--out", help="HTML file to write", show_default="report.html in the folder")
]
FeatureFile = Annotated[Path, Parameter(name="--out", help="file of features to write (.safetensors)")]
MaybeClips = Annotated[Path | None, Parameter(name="--clips", help="folder of clips")]
Cache = Annotated[
    Path | None,
    Parameter(name="--published-cache", help="JavisBench's cache of reference features (.pt), instead of --clips"),
]
DEFAULT_ROOT = Path("bench")


@app.command
def run(
    *,
    clips: Clips,
    preset: Preset = "javisbench",
    reference: Reference = None,
    prompts: Prompts = None,
    with_: With = None,
    columns: Columns = "",
    scorers: Scorers = "",
    tiny: Tiny = False,
    bench: Root = DEFAULT_ROOT,
    set_: Overrides = None,
    json: AsJson = False,
) -> int:
    """Compute the columns of a preset, with intervals; features are kept and reused.

    A clip that is missing or cannot be read is a row with its reason and lowers the count. Exit code 5: there are such clips.
    """
    from avpref.cli.actions.bench import run_benchmark

    request = run_benchmark.Request(
        clips, preset, reference, prompts, tuple(with_ or ()), columns, scorers, tiny, bench
    )
    return run_benchmark.run(request, set_ or [], json)


@app.command
def compare(results: Results, /, *, plot: Plot = None, seed: IntervalSeed = 0, json: AsJson = False) -> int:
    """Show benchmarks side by side, and the paired differences of each to the first with intervals."""
    from avpref.cli.actions.bench import compare_benchmarks

    return compare_benchmarks.compare(results, plot, seed, json)


@app.command
def report(result: Result, /, *, out: Page = None, json: AsJson = False) -> int:
    """Write one HTML file with the table, the settings, the categories, and the worst and best clips, which play."""
    from avpref.cli.actions.bench import report_benchmark

    return report_benchmark.report(result, out, json)


@app.command
def features(
    *,
    out: FeatureFile,
    clips: MaybeClips = None,
    published_cache: Cache = None,
    preset: Preset = "javisbench",
    prompts: Prompts = None,
    with_: With = None,
    columns: Columns = "",
    tiny: Tiny = False,
    bench: Root = DEFAULT_ROOT,
    set_: Overrides = None,
    json: AsJson = False,
) -> int:
    """Write the features of a reference set to a file that run --reference reads in place of the clips.

    With --published-cache, convert JavisBench's own cache; --with then states the settings that it was made with. Exit code 5: some
    clips have no features.
    """
    from avpref.cli.actions.bench import export_features

    request = export_features.Request(
        out, clips, published_cache, preset, prompts, tuple(with_ or ()), columns, tiny, bench
    )
    return export_features.export(request, set_ or [], json)
