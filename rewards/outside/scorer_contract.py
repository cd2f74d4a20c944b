"""The contract of a scorer as a list of checks on clips; authors run it with ``avpref scorers check``."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from avpref.domain import Metric, Score, ScoreStatus
from avpref.rewards.outside.declaration import score_clips
from avpref.rewards.outside.result_checks import BadScores, checked_rows, checked_scores
from avpref.rewards.protocol import ScorableClip, Scorer

TOLERANCE = 1e-5
"""Largest accepted difference of one clip's number between calls, relative to the number where it exceeds 1: rounding."""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: whether it passed, and the observation in a few words."""

    check: str
    is_passed: bool
    observation: str


class Contract:
    """Checks of one scorer. ``broken`` are clips that scorers of their kind must skip or score, without an error."""

    def __init__(self, scorer: Scorer, clips: Sequence[ScorableClip], broken: Sequence[ScorableClip] = ()) -> None:
        self._scorer, self._clips, self._broken = scorer, list(clips), list(broken)
        self._metrics: Sequence[Metric] = scorer.metrics
        self._alone: list[list[Score]] = []

    def findings(self) -> Iterator[Finding]:
        """The checks in order; ends after the first if the scorer gives no valid scores at all."""
        first = self._run("valid scores", self._check_valid)
        yield first
        if not first.is_passed:
            return
        yield self._run("equal clips, equal scores", self._check_equal_clips)
        yield self._run("independent of the batch", self._check_batch)
        yield self._run("independent of the order", self._check_order)
        yield self._run("clips left unchanged", self._check_unchanged)
        yield self._run("global random state left alone", self._check_random_state)
        yield self._run("no use of the global random state", self._check_random_numbers)
        if self._broken:
            yield self._run("broken clips", self._check_broken)

    def values(self) -> list[list[float | None]]:
        """The numbers of each clip, None where it was skipped; call it after :meth:`findings`."""
        return [[score.value for score in row] for row in self._alone]

    def _run(self, check: str, work: Callable[[], str]) -> Finding:
        try:
            return Finding(check, True, work())
        except BadScores as error:
            return Finding(check, False, str(error))
        except Exception as error:
            return Finding(check, False, f"{type(error).__name__}: {error}")

    def _scores(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        rows = checked_rows(score_clips(self._scorer, clips), len(clips))
        return [checked_scores(row, self._metrics, clip.candidate_id) for row, clip in zip(rows, clips, strict=True)]

    def _check_valid(self) -> str:
        self._alone = [self._scores([_fresh(clip)])[0] for clip in self._clips]
        scores = [score for row in self._alone for score in row]
        num_ok = sum(score.status == ScoreStatus.OK for score in scores)
        if not num_ok:
            reasons = ", ".join(dict.fromkeys(score.reason for score in scores))
            raise BadScores(f"no clip has a number: {reasons}; name clips of the right kind with --clips")
        if self._scorer.metrics != self._metrics:
            raise BadScores("the metrics change between calls")
        return f"{num_ok} numbers, {len(scores) - num_ok} skipped with a reason, of {len(self._clips)} clips"

    def _check_equal_clips(self) -> str:
        again = [
            self._scores([replace(_fresh(clip), candidate_id=f"{clip.candidate_id} again")])[0] for clip in self._clips
        ]
        return self._compare(again, self._alone)

    def _check_batch(self) -> str:
        return self._compare(self._scores([_fresh(clip) for clip in self._clips]), self._alone)

    def _check_order(self) -> str:
        backwards = self._scores([_fresh(clip) for clip in reversed(self._clips)])
        return self._compare(list(reversed(backwards)), self._alone)

    def _check_unchanged(self) -> str:
        for clip in self._clips:
            before = [array.copy() for array in _arrays(clip)]
            self._scores([_fresh(clip)])
            if not all(np.array_equal(old, new) for old, new in zip(before, _arrays(clip), strict=True)):
                raise BadScores(f"frames or sound of {clip.candidate_id} were changed")
        return "frames and sound as before"

    def _check_random_state(self) -> str:
        with _other_random_states():  # a scorer that sets a seed of its own leaves another state than this one
            before = _random_states()
            self._scores([_fresh(clip) for clip in self._clips])
            changed = [name for name, state in _random_states().items() if before.get(name, state) != state]
        if changed:
            raise BadScores(f"the global random state of {', '.join(changed)} was changed")
        return f"{', '.join(before)} as before"

    def _check_random_numbers(self) -> str:
        with _other_random_states():
            return self._compare(self._scores([_fresh(clip) for clip in self._clips]), self._alone)

    def _check_broken(self) -> str:
        reasons = []
        for clip in self._broken:
            row = self._scores([_fresh(clip)])[0]
            skipped = [score.reason for score in row if score.status == ScoreStatus.SKIPPED]
            reasons.append(f"{clip.candidate_id}: {', '.join(dict.fromkeys(skipped)) or 'scored'}")
        return "; ".join(reasons)

    def _compare(self, rows: Sequence[Sequence[Score]], expected: Sequence[Sequence[Score]]) -> str:
        largest = 0.0
        for row, old_row in zip(rows, expected, strict=True):
            for score, old in zip(row, old_row, strict=True):
                if (score.value is None) != (old.value is None):
                    raise BadScores(f"{score.metric} of {old.candidate_id}: {score.value} instead of {old.value}")
                if score.value is None or old.value is None:
                    continue
                difference = abs(score.value - old.value) / max(1.0, abs(old.value))
                largest = max(largest, difference)
                if difference > TOLERANCE:
                    raise BadScores(
                        f"{score.metric} of {old.candidate_id}: {score.value:.8g} instead of {old.value:.8g}"
                    )
        return "equal" if largest == 0 else f"equal to {largest:.1e}"


def _fresh(clip: ScorableClip) -> ScorableClip:
    """The clip without cached measurements."""
    return replace(clip, measurements={})


def _arrays(clip: ScorableClip) -> list[np.ndarray[Any, Any]]:
    return [array for array in (clip.clip.frames, clip.clip.audio, clip.clip.channels) if array is not None]


def _random_states() -> dict[str, object]:
    """Comparable copies of the global random states of random, numpy and, where it is imported, torch."""
    kind, keys, position, *rest = np.random.get_state(legacy=True)
    states: dict[str, object] = {
        "random": random.getstate(),
        "numpy": (kind, np.asarray(keys).tobytes(), position, *rest),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        states["torch"] = bytes(torch.get_rng_state().numpy())
    return states


class _other_random_states:
    """Seeds random, numpy and torch differently for the duration of the block."""

    def __enter__(self) -> None:
        self._python, self._numpy, self._torch = random.getstate(), np.random.get_state(), sys.modules.get("torch")
        self._torch_state = self._torch.get_rng_state() if self._torch is not None else None
        random.seed(20_231)
        np.random.seed(20_231)
        if self._torch is not None:
            self._torch.manual_seed(20_231)

    def __exit__(self, *_: object) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        if self._torch is not None:
            self._torch.set_rng_state(self._torch_state)
