"""The work of ``avpref bench compare``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avpref.bench.measures.intervals import BootstrapPlan
from avpref.bench.results.comparison import compare_results
from avpref.bench.results.comparison_plot import comparison_panels
from avpref.bench.results.loaded_results import LoadedResult, load_result
from avpref.cli.output import print_json, print_line, print_table
from avpref.reports.plots import png
from avpref.storage.local_files import replace


def compare(folders: Sequence[Path], plot: Path | None, seed: int, as_json: bool) -> int:
    """Print the comparison and write the plot. Raises ConfigError for fewer than two folders, InputError for one without a result."""
    document = compare_results(_loaded(folders), BootstrapPlan(seed=seed))
    if plot is not None:
        replace(plot, png(comparison_panels(document), 2))
    if as_json:
        print_json({**document, "plot": str(plot) if plot else None})
    else:
        _print(document)
    return 0


def _loaded(folders: Sequence[Path]) -> list[LoadedResult]:
    """The results, under names that differ."""
    results = [load_result(folder) for folder in folders]
    counts = Counter(result.name for result in results)
    return [
        load_result(result.folder, f"{result.name} ({result.folder.name})") if counts[result.name] > 1 else result
        for result in results
    ]


def _print(document: Mapping[str, Any]) -> None:
    names = [model["name"] for model in document["models"]]
    rows = [
        {"column": row["column"], **{name: row["models"][name]["value"] for name in names}}
        for row in document["columns"]
    ]
    print_table(rows, ["column", *names])
    print_line()
    print_table(
        document["differences"],
        ["column", "model", "value", "low", "high", "num_pairs", "win_rate", "verdict", "reason"],
    )
    for warning in document["warnings"]:
        print_line(f"warning: {warning}")
