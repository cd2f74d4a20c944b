"""The report of a finished run: ``report.html``, which needs nothing from outside, and pictures under ``plots/``."""

from __future__ import annotations

from avpref.flows.stages.collect_report import collect
from avpref.reports.figures import figures
from avpref.reports.plots import png
from avpref.reports.report_page import render
from avpref.storage.local_files import replace
from avpref.storage.run_folder import RunFolder

REPORT_FILE = "report.html"
PLOTS = "plots"


def write_report(folder: RunFolder) -> int:
    """Write ``report.html`` and ``plots/*.png`` over what was there; returns the number of sections and pictures.

    Equal runs give equal files, but for the times of the stages. Raises InputError where a stage of the run is missing.
    """
    data = collect(folder)
    drawn = figures(data)
    for name, (panels, columns) in drawn.items():
        replace(folder.root / PLOTS / f"{name}.png", png(panels, columns))
    page, num_sections = render(data, {name: panels for name, (panels, _) in drawn.items()}, folder.media)
    replace(folder.root / REPORT_FILE, page.encode())
    return num_sections + len(drawn)
