"""Checks of what a scorer of somebody else's returns, so that a wrong answer is a named failure of one clip and never a number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from avpref.domain import Metric, Score, ScoreStatus


class BadScores(Exception):
    """Raised for an answer that breaks the contract of :class:`avpref.rewards.protocol.Scorer`; the message says how."""


def checked_rows(rows: object, num_clips: int) -> list[object]:
    """The rows, if there is one per clip. Raises BadScores."""
    if not isinstance(rows, list | tuple):
        raise BadScores(f"returned {type(rows).__name__}, not a list with a list of scores per clip")
    if len(rows) != num_clips:
        raise BadScores(f"returned {len(rows)} lists of scores for {num_clips} clip{'s' if num_clips != 1 else ''}")
    return list(rows)


def checked_scores(row: object, metrics: Sequence[Metric], candidate_id: str) -> list[Score]:
    """The scores of one clip, with values as floats, if they are one per metric, in order, finite or with a reason.

    Raises BadScores.
    """
    if not isinstance(row, list | tuple) or not all(isinstance(score, Score) for score in row):
        kinds = (
            sorted({type(score).__name__ for score in row}) if isinstance(row, list | tuple) else [type(row).__name__]
        )
        raise BadScores(f"returned {', '.join(kinds)}, not avpref.domain.Score")
    names, expected = [score.metric for score in row], [metric.name for metric in metrics]
    if names != expected:
        raise BadScores(
            f"returned {len(names)} scores ({_listed(names)}), expected {len(expected)} ({_listed(expected)})"
        )
    return [_checked(score, candidate_id) for score in row]


def _checked(score: Score, candidate_id: str) -> Score:
    if score.candidate_id != candidate_id:
        raise BadScores(f"{score.metric}: the score is of clip {score.candidate_id}, not {candidate_id}")
    if score.status == ScoreStatus.QUARANTINED:
        raise BadScores(f"{score.metric}: {score.reason or 'failed without a reason'}")
    if score.status == ScoreStatus.SKIPPED:
        if score.value is not None or not score.reason:
            raise BadScores(
                f"{score.metric}: skipped with value {score.value!r} and reason {score.reason!r}, expected a reason alone"
            )
        return score
    if not isinstance(score.value, Real) or isinstance(score.value, bool):
        raise BadScores(f"{score.metric} = {score.value!r}, expected a number")
    value = float(score.value)
    if not math.isfinite(value):
        raise BadScores(f"{score.metric} = {value}, expected a finite number")
    return Score(candidate_id, score.metric, value, ScoreStatus.OK, score.reason)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(str, names)) or "none"
