"""The clips that a report plays: which prompts and pairs, how many bytes, and the numbers of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from avpref.datasets.rows import EvaluationSide
from avpref.domain import Candidate
from avpref.reports.formatting import data_url
from avpref.reports.report_data import PreviewPair, ReportData
from avpref.storage.files import Files

EXAMPLES = 2
"""Number of examples from the top, the middle and the bottom of a ranking."""
MAX_MEDIA_BYTES = 4_000_000
"""Size of all files that one report embeds; base64 adds a third."""


@dataclass(frozen=True)
class Player:
    """A clip on the page. ``source`` is a data URL; where it is empty, ``absence`` says why the clip is not embedded."""

    clip: Candidate
    name: str
    label: str
    source: str = ""
    absence: str = ""


@dataclass(frozen=True)
class Example:
    """One clip of a card. ``rewards`` in the order of the report's dimensions, ``scores`` in the order of the report's metrics."""

    player: Player
    rewards: Sequence[float]
    scores: Sequence[float | None]


@dataclass(frozen=True)
class Card:
    """Two clips of one prompt. ``value`` is what the ranking is by, ``rank`` counts from 1."""

    position: str
    rank: int
    num_ranked: int
    value: float
    prompt: str
    first: Example
    second: Example


@dataclass
class MediaBudget:
    """Embeds clips of ``media`` in a page until ``remaining_bytes`` are used up."""

    media: Files
    remaining_bytes: int = MAX_MEDIA_BYTES

    def player(self, clip: Candidate, name: str, prompt: str) -> Player:
        """The clip with its bytes, or with the reason why they are not embedded: too large, or the file is missing."""
        label = f"{name} clip of “{prompt}”"
        size = self.media.num_bytes(clip.path) if self.media.exists(clip.path) else 0
        if not size or size > self.remaining_bytes:
            absence = f"not embedded, {size / 1000:.0f} kB" if size else "the file is missing"
            return Player(clip, name, label, absence=absence)
        self.remaining_bytes -= size
        return Player(clip, name, label, source=data_url(self.media.read(clip.path), "video/mp4"))


@dataclass(frozen=True)
class PreviewCard:
    """Two previews of one prompt as data URLs, with the names of their steps."""

    prompt: str
    names: tuple[str, str]
    sources: tuple[str, str]


def preview_cards(data: ReportData, budget: MediaBudget) -> list[PreviewCard]:
    """The previews that the budget has room for, in order."""
    cards = []
    for pair in data.previews:
        size = len(pair.first) + len(pair.last)
        if size > budget.remaining_bytes:
            break
        budget.remaining_bytes -= size
        cards.append(_preview_card(pair, data.texts[pair.prompt_id]))
    return cards


def _preview_card(pair: PreviewPair, text: str) -> PreviewCard:
    names = tuple(
        "before the first step" if step == 0 else f"after step {step}" for step in (pair.first_step, pair.last_step)
    )
    first, last = (data_url(clip, "video/mp4") for clip in (pair.first, pair.last))
    return PreviewCard(text, (names[0], names[1]), (first, last))


def spread(count: int, examples: int = EXAMPLES) -> list[tuple[int, str]]:
    """Positions in a ranking of ``count``, best first: ``examples`` each of the top, middle and bottom, without repeats."""
    middle = max((count - examples) // 2, 0)
    positions = {
        "best": range(examples),
        "worst": range(count - examples, count),
        "middle": range(middle, middle + examples),
    }
    names: dict[int, str] = {}
    for name in positions:
        for position in positions[name]:
            if 0 <= position < count:
                names.setdefault(position, name)
    return sorted(names.items())


def before_and_after(data: ReportData, budget: MediaBudget) -> list[Card]:
    """Reference and policy on the held-out prompts with the best, middle and worst change."""
    gain = data.held_out.gain
    cards = []
    for index, position in spread(len(gain)):
        prompt = str(gain.index[index])
        first, second = (
            _held_out(data, budget, prompt, side) for side in (EvaluationSide.REFERENCE, EvaluationSide.POLICY)
        )
        cards.append(Card(position, index + 1, len(gain), gain.iloc[index], data.texts[prompt], first, second))
    return cards


def pair_examples(data: ReportData, budget: MediaBudget) -> list[Card]:
    """Chosen and rejected of the pairs with the largest, middle and smallest total margin."""
    ranked = data.pairs.sort_values(["margin_total", "pair_id"], ascending=[False, True])
    rewards = data.rewards.set_index("candidate_id")
    cards = []
    for index, position in spread(len(ranked)):
        pair = ranked.iloc[index]
        first, second = (_of_pair(data, budget, pair, side, rewards) for side in ("chosen", "rejected"))
        text = data.texts[pair.prompt_id]
        cards.append(Card(position, index + 1, len(ranked), pair.margin_total, text, first, second))
    return cards


def _held_out(data: ReportData, budget: MediaBudget, prompt: str, side: EvaluationSide) -> Example:
    held_out = data.held_out
    clip = data.candidates[held_out.clips.at[prompt, side]]
    rewards = [held_out.rewards.at[prompt, (side, dimension)] for dimension in data.dimensions]
    scores = [held_out.scores.at[prompt, (side, metric.name)] for metric in data.metrics]
    return Example(budget.player(clip, str(side), data.texts[prompt]), rewards, scores)


def _of_pair(data: ReportData, budget: MediaBudget, pair: pd.Series, side: str, rewards: pd.DataFrame) -> Example:
    clip = data.candidates[pair[side]]
    player = budget.player(clip, f"{side} ({clip.origin.replace('_', ' ')})", data.texts[pair.prompt_id])
    scores = [pair[f"{side}_{metric.name}"] for metric in data.metrics]
    return Example(player, [rewards.at[clip.candidate_id, dimension] for dimension in data.dimensions], scores)
