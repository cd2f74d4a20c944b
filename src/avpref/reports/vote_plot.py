"""The result of a study as a picture: shares of wins, ties and losses per aspect, and how often rewards agree with people."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from avpref.datasets.votes.vote_results import REWARD, StudyResult
from avpref.errors import ConfigError
from avpref.reports.plots import BASELINE, COLOUR, INK, Panel, png, svg
from avpref.storage.local_files import replace

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES = (".svg", ".png")


def vote_panels(result: StudyResult) -> list[Panel]:
    """Panels of the overall shares and of the agreement of rewards; none before there are votes."""
    first, second = result.names
    shares = ", ".join(
        f"{rated.aspect} {rated.wins.value:.0%} wins, {rated.ties.value:.0%} ties, {rated.losses.value:.0%} losses"
        for rated in result.aspects
    )
    agreements = [reward for reward in result.rewards if reward.agreement is not None and not reward.category]
    agreed = ", ".join(
        f"{reward.name} ({reward.aspect}) {reward.agreement.value:.0%}" for reward in agreements if reward.agreement
    )
    panels = []
    if result.aspects:
        panels.append(Panel("Votes", f"{second} with {first}: {shares}", partial(_draw_shares, result)))
    if agreements:
        panels.append(Panel("Rewards and people", f"Share of agreement: {agreed}", partial(_draw_agreement, result)))
    return panels


def draw_votes(result: StudyResult, path: Path) -> None:
    """Draw the result into ``path``, .svg (the votes alone) or .png (all panels). Raises ConfigError for another ending, or votes
    that are none; StorageError."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"--plot {path}", f"a file that ends with {' or '.join(SUFFIXES)}", "--plot votes.png")
    panels = vote_panels(result)
    if not panels:
        raise ConfigError(f"study {result.study_id} has no votes to draw", "one vote or more", "avpref votes open")
    replace(path, svg(panels[0]).light if path.suffix == ".svg" else png(panels, len(panels)))


def _draw_shares(result: StudyResult, axes: Axes) -> None:
    names = [rated.aspect for rated in reversed(result.aspects)]
    start = [0.0] * len(names)
    first, second = result.names
    parts = (
        ("wins", f"{second} better", COLOUR["av"]),
        ("ties", "equal", BASELINE),
        ("losses", f"{first} better", COLOUR["audio"]),
    )
    for part, label, colour in parts:
        widths = [getattr(rated, part).value for rated in reversed(result.aspects)]
        axes.barh(names, widths, left=start, color=colour, label=label)
        start = [before + width for before, width in zip(start, widths, strict=True)]
    for place, rated in enumerate(reversed(result.aspects)):
        axes.plot([rated.win_rate.low, rated.win_rate.high], [place, place], color=INK)
        axes.plot([rated.win_rate.value], [place], "o", color=INK, markersize=4)
    axes.axvline(0.5, color=INK, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of votes; dot and line: win rate with 95 % interval")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=3, borderpad=0)


def _draw_agreement(result: StudyResult, axes: Axes) -> None:
    rows = [reward for reward in reversed(result.rewards) if reward.agreement is not None and not reward.category]
    labels = [f"{reward.name.removeprefix(REWARD)} / {reward.aspect}" for reward in rows]
    for place, reward in enumerate(rows):
        assert reward.agreement is not None
        axes.plot([reward.agreement.low, reward.agreement.high], [place, place], color=COLOUR["video"])
        axes.plot([reward.agreement.value], [place], "o", color=COLOUR["video"], markersize=4)
    axes.set_yticks(range(len(rows)), labels, fontsize=7)
    axes.axvline(0.5, color=INK, linewidth=0.8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of decided items, 95 % interval")
