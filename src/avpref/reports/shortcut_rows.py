"""The report's table of shortcuts: how well single facts tell chosen from rejected."""

from __future__ import annotations

from collections.abc import Sequence

from avpref.datasets.evidence.shortcuts import AuditRow
from avpref.reports.formatting import Content, Html, element, table

KIND = {
    "pairs": "",
    "prompts": " (prompts with a pair against those without)",
    "margin": " (correlation with the margin)",
}


def audit_table(rows: Sequence[AuditRow]) -> Html:
    """One line per fact, flagged ones marked; a sentence where nothing was measured."""
    if not rows:
        return element("p", "Shortcuts: not audited (audit.action is off).")
    flagged = sum(row.is_flagged for row in rows)
    bounds = {row.bound for row in rows if row.bound is not None}
    caption = (
        f"Shortcuts: the share of pairs in which the chosen clip has the larger value; {flagged} of {len(rows)} facts"
        f" tell more than {', '.join(f'{bound:g}' for bound in sorted(bounds))} allows"
    )
    return table(caption, ("Fact", "Share", "Interval", "Pairs"), map(_line, rows), kind="numbers")


def _line(row: AuditRow) -> tuple[Content, ...]:
    name = f"{row.fact.replace('_', ' ')}{KIND[row.kind]}"
    marked: Content = element("span", f"✕ {name}", class_="bad") if row.is_flagged else name
    if row.value is None or row.ci_low is None or row.ci_high is None:
        return marked, row.detail, "", str(row.num)
    return marked, f"{row.value:.3f}", f"{row.ci_low:.3f} to {row.ci_high:.3f}", str(row.num)
