"""From probabilities over time to stretches of activity. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ActivityRules:
    """When probabilities, one every ``step_s`` seconds, are a stretch of activity.

    A stretch begins at ``threshold`` and ends below ``lower_threshold``. A gap shorter than ``min_gap_s`` is filled first; then
    a stretch shorter than ``min_length_s`` is dropped.
    """

    step_s: float
    threshold: float = 0.5
    lower_threshold: float = 0.5
    min_gap_s: float = 0.0
    min_length_s: float = 0.0


def active(probabilities: Sequence[float] | NDArray[np.floating], rules: ActivityRules) -> NDArray[np.bool_]:
    """Whether each of the ``probabilities`` [T] belongs to a stretch of activity: [T]."""
    steps = np.zeros(len(probabilities), bool)
    is_on = False
    for index, probability in enumerate(probabilities):
        is_on = probability >= (rules.lower_threshold if is_on else rules.threshold)
        steps[index] = is_on
    for start, end in runs(~steps):
        is_inside = start > 0 and end < len(steps)
        if is_inside and (end - start) * rules.step_s < rules.min_gap_s:
            steps[start:end] = True
    for start, end in runs(steps):
        if (end - start) * rules.step_s < rules.min_length_s:
            steps[start:end] = False
    return steps


def active_share(probabilities: Sequence[float] | NDArray[np.floating], rules: ActivityRules) -> float:
    """Share of the ``probabilities`` [T] that belong to a stretch of activity; 0 without any."""
    return float(active(probabilities, rules).mean()) if len(probabilities) else 0.0


def runs(steps: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and one past the last index of each run of true values of ``steps`` [T]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], steps, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]
