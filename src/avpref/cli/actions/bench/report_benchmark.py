"""The work of ``avpref bench report``."""

from __future__ import annotations

from pathlib import Path

from avpref.bench.results.bench_page import render_page
from avpref.bench.results.loaded_results import load_result
from avpref.bench.results.page_clips import page_name
from avpref.cli.output import print_json, print_line
from avpref.storage.local_files import replace


def report(folder: Path, out: Path | None, as_json: bool) -> int:
    """Write the page. Raises InputError where the folder holds no finished benchmark."""
    result = load_result(folder)
    path = out or page_name(folder)
    page = render_page(result)
    replace(path, page)
    print_json({"report": str(path), "num_bytes": len(page)}) if as_json else print_line(str(path))
    return 0
