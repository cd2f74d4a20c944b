"""Stage ``report``: ``report.html``, which needs nothing from outside, and PNG plots under ``plots/``."""

from __future__ import annotations

from pathlib import Path

from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.stages.collect_report import collect
from avpref.reports.figures import figures
from avpref.reports.plots import png
from avpref.reports.report_page import SECTIONS, render
from avpref.storage.local_files import replace
from avpref.storage.run_folder import open_root

REPORT_FILE = "report.html"
PLOTS = "plots"


@reporting.stage("report")
def report(run_dir: str) -> int:
    """Write ``report.html`` and ``plots/*.png`` of the run in ``run_dir``; returns the number of sections and plots.

    Existing files are replaced. Equal runs give equal files, except for the times of the stages. Raises InputError where a
    stage of the run is missing.
    """
    folder = open_root(Path(run_dir))
    data = collect(folder)
    plots = figures(data)
    for name, plot in plots.items():
        replace(folder.root / PLOTS / f"{name}.png", png(plot.panels, plot.columns))
    replace(folder.root / REPORT_FILE, render(data, plots))
    return len(SECTIONS) + len(plots)
