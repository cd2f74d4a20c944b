"""Shortcut audit: do facts that do not measure quality separate chosen from rejected clips? numpy and pandas only.

The value of a fact is the probability that the chosen clip of a pair has the larger number, ties counted half: the AUROC
within pairs. 0.5 is chance; 1 and 0 separate every pair. ``combined`` uses all facts: a linear discriminant of the
differences chosen − rejected, without intercept, fitted on the other folds of prompts and evaluated on unseen prompts.

Intervals are Wilson's with the number of *prompts* as sample size: pairs of one prompt are dependent and ties vary less
than coin flips, so the intervals are conservative. A fact is flagged where its value exceeds the bound in either
direction and the interval excludes chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avpref.domain import Origin
from avpref.identity import digest

Floats = NDArray[np.float64]

FACTS = {
    "loudness_db": "dBFS",
    "peak_db": "dBFS",
    "silence_share": "share",
    "motion": "share of white",
    "still_share": "share",
    "brightness": "share of white",
    "duration_s": "s",
    "bit_rate_bps": "bit/s",
    "ground_truth": "0 or 1",
}
"""Audited facts with their units; all but the last are columns of table ``clip_facts``."""
COMBINED = "combined"
PROMPT_LENGTH = "prompt_length"
NUM_FOLDS = 5
MIN_PROMPTS_COMBINED = 10
"""With fewer prompts no combination is fitted."""
MIN_PROMPTS_CORRELATION = 4
RIDGE = 1e-3
CHANCE = 0.5
EQUAL = 1e-9
"""Differences up to this share of the larger magnitude are ties."""


@dataclass(frozen=True)
class AuditRow:
    """One fact against one selection of pairs: a row of table ``audits``.

    ``kind``: ``pairs`` (chosen against rejected), ``prompts`` (prompts with a pair against those without) or ``margin``
    (rank correlation of a prompt's length with its margin, which has no bound). ``value`` is None where nothing can be
    compared; ``num`` counts pairs, or prompts.
    """

    strategy: str
    norm_id: str
    kind: str
    fact: str
    unit: str
    value: float | None
    ci_low: float | None
    ci_high: float | None
    num: int
    bound: float | None
    is_flagged: bool
    detail: str


@dataclass(frozen=True)
class Bounds:
    """Largest allowed AUROC in either direction, and the confidence of intervals."""

    max_auroc: float
    confidence: float


@dataclass(frozen=True, eq=False)
class Selected:
    """Input of an audit: frames of tables pairs, skipped, prompts and candidates of one selection, and of clip_facts."""

    pairs: pd.DataFrame
    skipped: pd.DataFrame
    prompts: pd.DataFrame
    candidates: pd.DataFrame
    facts: pd.DataFrame


def audit(selected: Selected, bounds: Bounds, strategy: str, norm_id: str) -> list[AuditRow]:
    """Audit rows of every fact, of all facts combined, and of the prompts' lengths."""
    pairs = selected.pairs
    prompts = pairs["prompt_id"].to_numpy()
    sides = _sides(selected)
    comparisons = [(fact, unit, *_compare(*sides[fact])) for fact, unit in FACTS.items()]
    comparisons.append((COMBINED, "", combined(sides, prompts), np.ones(len(pairs), dtype=bool)))
    rows = []
    for fact, unit, wins, has_both in comparisons:
        if fact == COMBINED and len(set(prompts)) < MIN_PROMPTS_COMBINED:
            has_both = np.zeros(len(pairs), dtype=bool)
        rows.append(_row(strategy, norm_id, fact, unit, wins[has_both], prompts[has_both], bounds))
    return [*rows, *_lengths(selected, bounds, strategy, norm_id)]


def flagged(rows: Sequence[AuditRow]) -> list[AuditRow]:
    """The rows whose fact exceeds the bound."""
    return [row for row in rows if row.is_flagged]


def _sides(selected: Selected) -> dict[str, tuple[Floats, Floats]]:
    """(chosen, rejected) values [pairs] of every fact; NaN where a clip has none."""
    facts = selected.facts.drop_duplicates("candidate_id").set_index("candidate_id")
    origin = selected.candidates.set_index("candidate_id")["origin"] == str(Origin.GROUND_TRUTH)
    table = facts.reindex(origin.index).assign(ground_truth=origin.astype(float))
    chosen, rejected = (table.reindex(selected.pairs[side]) for side in ("chosen", "rejected"))
    return {fact: (_column(chosen, fact), _column(rejected, fact)) for fact in FACTS}


def _column(table: pd.DataFrame, name: str) -> Floats:
    return table[name].to_numpy(dtype=np.float64, na_value=np.nan)


def _compare(chosen: Floats, rejected: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """1, ½ or 0 for each pair [pairs], and whether both sides have a number."""
    scale = np.fmax(np.abs(chosen), np.abs(rejected))
    difference = chosen - rejected
    is_tie = np.abs(difference) <= EQUAL * scale
    return np.where(is_tie, CHANCE, difference > 0), ~np.isnan(difference)


def combined(sides: dict[str, tuple[Floats, Floats]], prompts: NDArray[np.object_]) -> Floats:
    """1, ½ or 0 for each pair: whether the discriminant of the other folds puts chosen first. Folds are hashes of prompts.

    A fact that one side lacks counts as no difference.
    """
    differences = np.nan_to_num(np.stack([chosen - rejected for chosen, rejected in sides.values()], axis=1))
    fold = np.array([int(digest("fold", prompt), 16) % NUM_FOLDS for prompt in prompts])
    wins = np.full(len(prompts), CHANCE)
    for held_out in range(NUM_FOLDS):
        seen, unseen = differences[fold != held_out], differences[fold == held_out]
        if len(seen) and len(unseen):
            wins[fold == held_out] = (1 + np.sign(unseen @ _discriminant(seen))) / 2
    return wins


def _discriminant(differences: Floats) -> Floats:
    """Weights [facts] that put chosen before rejected on ``differences`` [pairs, facts]: (Σ d dᵀ + ridge)⁻¹ Σ d, scaled."""
    scale = np.sqrt(np.mean(differences**2, axis=0))
    scale[scale == 0] = 1.0
    scaled = differences / scale
    moments = scaled.T @ scaled / len(scaled) + RIDGE * np.eye(scaled.shape[1])
    return np.asarray(np.linalg.solve(moments, scaled.mean(axis=0)) / scale, dtype=np.float64)


def _row(
    strategy: str, norm_id: str, fact: str, unit: str, wins: Floats, prompts: NDArray[np.object_], bounds: Bounds
) -> AuditRow:
    if not len(wins):
        why = "too few prompts" if fact == COMBINED else "no pair has it on both sides"
        return AuditRow(strategy, norm_id, "pairs", fact, unit, None, None, None, 0, bounds.max_auroc, False, why)
    value = float(wins.mean())
    low, high = wilson(value, len(set(prompts)), bounds.confidence)
    upward = max(value, CHANCE) if fact == COMBINED else value  # below chance the fit is noise
    is_flagged = _exceeds(upward, low, high, bounds)
    detail = _detail(fact, value, int(np.sum(wins == CHANCE)), len(wins))
    return AuditRow(
        strategy, norm_id, "pairs", fact, unit, value, low, high, len(wins), bounds.max_auroc, is_flagged, detail
    )


def _detail(fact: str, value: float, num_ties: int, num_pairs: int) -> str:
    if fact == COMBINED:
        return f"all facts together put chosen first in {100 * value:.0f} % of {num_pairs} unseen pairs"
    ties = f", {num_ties} of {num_pairs} pairs are equal" if num_ties else ""
    return f"chosen has the larger value in {100 * value:.0f} % of {num_pairs} pairs{ties}"


def wilson(share: float, num: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a share observed in ``num`` > 0 independent trials."""
    z = NormalDist().inv_cdf(CHANCE + confidence / 2)
    shrunk = 1 + z**2 / num
    middle = (share + z**2 / (2 * num)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _lengths(selected: Selected, bounds: Bounds, strategy: str, norm_id: str) -> list[AuditRow]:
    """Audit rows of text length: against having a pair, and against the margin."""
    length = selected.prompts.set_index("prompt_id")["text"].str.len()
    kept, skipped = (
        length.reindex(frame["prompt_id"].drop_duplicates()).dropna().to_numpy(dtype=np.float64)
        for frame in (selected.pairs, selected.skipped)
    )
    base = AuditRow(
        strategy, norm_id, "prompts", PROMPT_LENGTH, "characters", None, None, None, 0, bounds.max_auroc, False, ""
    )
    return [
        _kept_against_skipped(base, kept, skipped, bounds),
        _length_and_margin(base, selected.pairs, length, bounds),
    ]


def _kept_against_skipped(base: AuditRow, kept: Floats, skipped: Floats, bounds: Bounds) -> AuditRow:
    """The AUROC of two groups; its variance is at most that of a share of the smaller group's size (Birnbaum, Klose 1957)."""
    base = replace(base, num=len(kept) + len(skipped), detail="every prompt is on one side")
    if not len(kept) or not len(skipped):
        return base
    ordered = np.sort(skipped)
    below, through = (np.searchsorted(ordered, kept, side) for side in ("left", "right"))
    value = float((below + through).mean() / (2 * len(skipped)))
    low, high = wilson(value, min(len(kept), len(skipped)), bounds.confidence)
    detail = f"{len(kept)} prompts with a pair against {len(skipped)} without"
    is_flagged = _exceeds(value, low, high, bounds)
    return replace(base, value=value, ci_low=low, ci_high=high, is_flagged=is_flagged, detail=detail)


def _exceeds(value: float, low: float, high: float, bounds: Bounds) -> bool:
    """True beyond the bound in either direction, if the interval excludes chance."""
    return max(value, 1 - value) > bounds.max_auroc and not low <= CHANCE <= high


def _length_and_margin(base: AuditRow, pairs: pd.DataFrame, length: pd.Series, bounds: Bounds) -> AuditRow:
    """Spearman's correlation with Fisher's interval."""
    best = pairs.groupby("prompt_id")["margin_total"].max()
    known, num = length.reindex(best.index), len(best)
    base = replace(
        base, kind="margin", unit="rank correlation", bound=None, num=num, detail="too few different prompts"
    )
    if num < MIN_PROMPTS_CORRELATION or known.nunique() < 2 or best.nunique() < 2:
        return base
    value = float(np.corrcoef(known.rank(), best.rank())[0, 1])
    half = NormalDist().inv_cdf(CHANCE + bounds.confidence / 2) / math.sqrt(num - 3)
    middle = math.atanh(min(max(value, -1 + EQUAL), 1 - EQUAL))
    low, high = math.tanh(middle - half), math.tanh(middle + half)
    return replace(base, value=value, ci_low=low, ci_high=high, detail="length of the text and largest margin")
