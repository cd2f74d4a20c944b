"""Links from a Prefect server to a run: its flow run has the run's id as its name, and an artifact leads to report and explorer."""

from __future__ import annotations

import shlex
from pathlib import Path

from avpref.flows.prefect import run_reporting as reporting
from avpref.storage.documents import REPORT_FILE
from avpref.storage.run_folder import RunFolder

LINKS = "links"


def name_flow_run(run: RunFolder) -> None:
    """Name the current flow run after the run."""
    reporting.rename(run.run_id)


def show_links(run: RunFolder, verdict: str) -> None:
    """Report an artifact with the verdict, the report's address, and the commands that open report, pairs and the adapter's export."""
    reporting.markdown(LINKS, links_text(run, verdict), f"where to look at {run.run_id}")


def links_text(run: RunFolder, verdict: str) -> str:
    """The artifact's Markdown. The report is a file on the machine that ran the stages; the commands work wherever its folder is."""
    run_id, runs = run.run_id, shlex.quote(str(run.runs))
    report = Path(run.root / REPORT_FILE)
    link = f"[{REPORT_FILE}]({report.as_uri()})" if report.exists() else "not written yet"
    commands = [
        ("report", f"avpref runs open {run_id} --runs {runs}"),
        ("pairs", f"avpref pairs open --run {run_id} --runs {runs}"),
        ("adapter", f"avpref adapters export {run_id} --runs {runs} --out adapter"),
    ]
    lines = [f"| {target} | `{command}` |" for target, command in commands]
    return "\n".join([f"# {run_id}", f"Gate: **{verdict}**. Report: {link}", "| open | command |", "|---|---|", *lines])
