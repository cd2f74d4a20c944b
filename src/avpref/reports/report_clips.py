"""The clips that a report plays: which ones, within how many bytes, and what stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from avpref.datasets.rows import EvaluationSide
from avpref.domain import Candidate, Dimension, Metric
from avpref.flows.stages.report_data import ReportData
from avpref.reports.figures import NAME
from avpref.reports.html import Content, Html, data_url, element, join, signed, table
from avpref.storage.files import Files

EACH = 2
"""So many of the best, of the middle and of the worst."""
MAX_MEDIA_BYTES = 4_000_000
"""Files embedded in one report; base64 makes a third more of them."""


@dataclass
class Shelf:
    """Clips of a run, embedded until ``left_bytes`` are used up."""

    media: Files
    left_bytes: int = MAX_MEDIA_BYTES

    def player(self, clip: Candidate, label: str) -> Html:
        """A player of the clip, or what to open instead where it is too large for the page or gone from the folder."""
        size = self.media.num_bytes(clip.path) if self.media.exists(clip.path) else 0
        if not size or size > self.left_bytes:
            why = f"not embedded, {size / 1000:.0f} kB" if size else "the file is missing"
            return element("p", f"{label}: {why}: ", element("code", clip.path), class_="absent")
        self.left_bytes -= size
        size_px = {"width": str(clip.width_px), "height": str(clip.height_px)}
        source = data_url(self.media.read(clip.path), "video/mp4")
        switches = {"controls": "", "loop": "", "playsinline": ""}
        return element("video", preload="metadata", **switches, **size_px, aria_label=label, src=source)


def spread(count: int, each: int = EACH) -> list[tuple[int, str]]:
    """Positions in a ranking of ``count``, best first: the first, the middle and the last ``each``, without repeats."""
    middle = max((count - each) // 2, 0)
    wanted = {"best": range(each), "middle": range(middle, middle + each), "worst": range(count - each, count)}
    found: dict[int, str] = {}
    for name in ("best", "worst", "middle"):
        for position in wanted[name]:
            if 0 <= position < count:
                found.setdefault(position, name)
    return sorted(found.items())


def before_and_after(data: ReportData, shelf: Shelf) -> Html:
    """Reference and policy on held-out prompts with the best, middle and worst change."""
    gain = data.held_out.gain
    cards = []
    for position, name in spread(len(gain)):
        prompt = str(gain.index[position])
        title = f"{name.capitalize()} change {signed(gain.iloc[position])}, rank {position + 1} of {len(gain)}"
        cards.append(_match(data, shelf, prompt, title))
    return element("div", *cards, class_="cards")


def _match(data: ReportData, shelf: Shelf, prompt: str, title: str) -> Html:
    found = data.held_out
    clips = [
        data.candidates[found.clips.at[prompt, side]] for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)
    ]
    rewards = [
        [found.rewards.at[prompt, (side, each)] for each in Dimension]
        for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)
    ]
    scores = [
        [found.scores.at[prompt, (side, metric.name)] for metric in data.metrics]
        for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)
    ]
    players = _sides(shelf, clips, ("reference", "policy"), data.texts[prompt])
    numbers = _rewards(rewards, ("reference", "policy", "change"), sign=1.0)
    return _card(title, data.texts[prompt], players, numbers, _scores(data.metrics, scores, ("reference", "policy")))


def pair_examples(data: ReportData, shelf: Shelf) -> Html:
    """Chosen and rejected of the pairs with the largest, middle and smallest total margin."""
    ranked = data.pairs.sort_values(["margin_total", "pair_id"], ascending=[False, True])
    names = {"best": "Largest", "middle": "Middle", "worst": "Smallest"}
    cards = []
    for position, name in spread(len(ranked)):
        row = ranked.iloc[position]
        title = f"{names[name]} margin {signed(row.margin_total)}, rank {position + 1} of {len(ranked)}"
        cards.append(_pair(data, shelf, row, title))
    return element("div", *cards, class_="cards")


def _pair(data: ReportData, shelf: Shelf, row: pd.Series, title: str) -> Html:
    clips = [data.candidates[row.chosen], data.candidates[row.rejected]]
    labels = [
        f"{side} ({clip.origin.replace('_', ' ')})" for side, clip in zip(("chosen", "rejected"), clips, strict=True)
    ]
    rewards = data.rewards.set_index("candidate_id")
    values = [[rewards.at[clip.candidate_id, each] for each in Dimension] for clip in clips]
    scores = [[row[f"{side}_{metric.name}"] for metric in data.metrics] for side in ("chosen", "rejected")]
    players = _sides(shelf, clips, labels, data.texts[row.prompt_id])
    numbers = _rewards(values, ("chosen", "rejected", "margin"), sign=-1.0)
    return _card(
        title, data.texts[row.prompt_id], players, numbers, _scores(data.metrics, scores, ("chosen", "rejected"))
    )


def _card(title: str, prompt: str, *content: Content) -> Html:
    return element("article", element("h3", title), element("p", prompt, class_="prompt"), *content)


def _sides(shelf: Shelf, clips: Sequence[Candidate], labels: Sequence[str], prompt: str) -> Html:
    return element(
        "div",
        *(
            element(
                "figure", shelf.player(clip, f"{label} clip of “{prompt}”"), element("figcaption", label.capitalize())
            )
            for clip, label in zip(clips, labels, strict=True)
        ),
        class_="sides",
    )


def _rewards(values: Sequence[Sequence[float]], names: Sequence[str], sign: float) -> Html:
    """Rewards of two sides and ``sign`` · (second − first), per dimension."""
    first, second = values
    rows = [
        (NAME[each], signed(one), signed(other), signed(sign * (other - one)))
        for each, one, other in zip(Dimension, first, second, strict=True)
    ]
    return table("Rewards", ("", *names), rows, kind="numbers")


def _scores(metrics: Sequence[Metric], values: Sequence[Sequence[float]], names: Sequence[str]) -> Html:
    """The raw scores of two sides, folded away."""
    rows = [
        (f"{metric.name.replace('_', ' ')} {'↑' if metric.higher_is_better else '↓'}", *(_plain(each) for each in pair))
        for metric, pair in zip(metrics, zip(*values, strict=True), strict=True)
    ]
    caption = "Raw scores; ↑ higher is better, ↓ lower is better"
    inner = table(caption, ("", *names), rows, kind="numbers")
    return element("details", element("summary", f"the {len(metrics)} scores"), join([inner]))


def _plain(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3g}".replace("-", "−")
