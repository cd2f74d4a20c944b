"""The page ``report.html``: decision, change on held-out prompts, clips, distributions, training, origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from avpref import __version__
from avpref.reports.figures import dimension_name
from avpref.reports.plots import Plot
from avpref.reports.report_clips import MediaBudget, before_and_after, pair_examples, preview_cards
from avpref.reports.report_data import ReportData
from avpref.reports.templates import STYLE_SHEET, content_policy, environment
from avpref.reports.vote_plot import vote_panels

SECTIONS = {
    "change": "Change on held-out prompts",
    "clips": "Before and after",
    "pairs": "Chosen and rejected",
    "rewards": "Rewards",
    "left-out": "Left out",
    "training": "Training",
    "stages": "Stages",
    "origin": "Origin",
    "next": "Next steps",
}
"""Titles of the sections that every page has by their anchors, in order."""
VOTES_SECTION = ("votes", "Votes of people")
"""Anchor and title of the section that pages of runs with votes have, after the section ``clips``."""
MAX_ROWS = 20
"""Rows of a table of single candidates; the page gives the number of the others."""


@dataclass(frozen=True)
class LossGroup:
    """Prompts or candidates that were left out for one reason; ``example`` is the detail of one of them."""

    keys: Sequence[str]
    count: int
    example: str


def sections_of(data: ReportData) -> dict[str, str]:
    """Titles of the page's sections by their anchors, in order."""
    if not data.studies:
        return SECTIONS
    listed = list(SECTIONS.items())
    after = list(SECTIONS).index("clips") + 1
    return dict([*listed[:after], VOTES_SECTION, *listed[after:]])


def render(data: ReportData, plots: Mapping[str, Plot]) -> bytes:
    """The page in UTF-8. Equal data gives equal bytes; clips are read from ``data.media``."""
    budget = MediaBudget(data.media)
    style = STYLE_SHEET.read_text(encoding="utf-8")
    page = (
        environment()
        .get_template("report.html.j2")
        .render(
            data=data,
            settings=data.settings,
            sections=sections_of(data),
            vote_panels=[vote_panels(study) for study in data.studies],
            plots=plots,
            dimensions=data.dimensions,
            name_of={dimension: dimension_name(dimension) for dimension in data.dimensions},
            changes=before_and_after(data, budget),
            pairs=pair_examples(data, budget),
            previews=preview_cards(data, budget),
            skipped=_groups(data.skipped, ["reason"]),
            excluded=_groups(data.excluded, ["metric", "reason"]),
            quarantine=_quarantine(data.quarantine),
            style=style,
            policy=content_policy(style),
            version=__version__,
        )
    )
    return page.encode()


def _groups(rows: pd.DataFrame, keys: list[str]) -> list[LossGroup]:
    """Counts by ``keys``, sorted; the example is the first row's detail."""
    groups = rows.groupby(keys, sort=True).detail
    return [LossGroup([str(key) for key in names], len(details), str(details.iloc[0])) for names, details in groups]


def _quarantine(rows: pd.DataFrame) -> list[dict[str, object]]:
    """The first rows of the quarantine table."""
    return rows.sort_values(["stage", "candidate_id"]).head(MAX_ROWS).to_dict("records")
