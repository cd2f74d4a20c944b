"""Stage ``report``: the self-contained page ``report.html``, and PNG plots under ``plots/``."""

from __future__ import annotations

from avpref.execution.item_counts import StageCounts
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.stages.collect_report import collect
from avpref.reports.figures import figures
from avpref.reports.plots import png
from avpref.reports.report_page import render, sections_of
from avpref.storage.documents import REPORT_FILE
from avpref.storage.local_files import replace

PLOTS = "plots"


@reporting.stage("report")
def report(run: Run) -> StageCounts:
    """Write ``report.html`` and ``plots/*.png`` of the run; the rows are sections and plots.

    Existing files are replaced. Equal runs give equal files, except for the times of the stages. Raises InputError where a
    stage of the run is missing.
    """
    data = collect(run)
    plots = figures(data)
    for name, plot in plots.items():
        replace(run.root / PLOTS / f"{name}.png", png(plot.panels, plot.columns))
    replace(run.root / REPORT_FILE, render(data, plots))
    return StageCounts(len(sections_of(data)) + len(plots))
