"""Scoring of a unit by a scorer class: every answer is checked, and a clip that fails is lost for this scorer alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from avpref.datasets.rows import QuarantineRow
from avpref.domain import Score
from avpref.errors import MediaError
from avpref.execution.contract import FATAL_ERRORS
from avpref.flows.workers.scorer_source import ScorerSource
from avpref.flows.workers.unit_scoring import TimedScores
from avpref.observability.meters import MS_PER_S
from avpref.rewards.outside.declaration import is_two_phase
from avpref.rewards.outside.result_checks import BadScores, checked_rows, checked_scores
from avpref.rewards.protocol import ScorableClip


@dataclass
class _Clip:
    """A clip of the unit: what the scorer prepared for it, or its scores, and milliseconds so far."""

    candidate_id: str
    prepared: Any = None
    scores: list[Score] | None = None
    elapsed_ms: float = 0.0
    network_s: float = 0.0


class ClassScoring:
    """A scorer class scores each clip when it is added; one with ``prepare`` and ``score_prepared`` scores all of them at the end.

    See :class:`avpref.flows.workers.unit_scoring.UnitScoring`. A clip whose preparation or scores raise an error, or whose scores
    break the contract, becomes a quarantine row. Errors that a retry cannot fix (a full disk, a wrong configuration) pass.
    """

    def __init__(self, source: ScorerSource, scorer: Any, stage: str) -> None:
        self.source, self._scorer, self._stage = source, scorer, stage
        self._clips: list[_Clip] = []
        self._failed: list[QuarantineRow] = []

    def add(self, clip: ScorableClip) -> None:
        """Prepare or score the clip."""
        entry = _Clip(clip.candidate_id)
        if is_two_phase(self._scorer):
            is_added = self._attempt(entry, partial(self._prepare, entry, clip))
        else:
            is_added = self._attempt(entry, partial(self._score, entry, clip))
        if is_added:
            self._clips.append(entry)

    def results(self) -> list[TimedScores]:
        """See :class:`avpref.flows.workers.unit_scoring.UnitScoring`. A unit that fails as a whole is scored clip by clip."""
        waiting = [clip for clip in self._clips if clip.scores is None]
        if waiting and not self._score_together(waiting):
            for clip in waiting:
                self._attempt(clip, partial(self._score_prepared, clip))
        done = [clip for clip in self._clips if clip.scores is not None]
        return [TimedScores(clip.scores or [], clip.elapsed_ms, clip.network_s) for clip in done]

    def failed(self) -> Sequence[QuarantineRow]:
        """See :class:`avpref.flows.workers.unit_scoring.UnitScoring`."""
        return self._failed

    def embeddings(self) -> dict[str, Any]:
        """See :class:`avpref.flows.workers.unit_scoring.UnitScoring`; there are none."""
        return {}

    def _score_together(self, clips: Sequence[_Clip]) -> bool:
        """Score all prepared clips in one call; returns whether that gave a list per clip."""
        started = time.perf_counter()
        try:
            rows = checked_rows(self._scorer.score_prepared([clip.prepared for clip in clips]), len(clips))
        except Exception as error:
            self._pass_on(error)
            return False
        per_clip_s = (time.perf_counter() - started) / len(clips)
        for clip, row in zip(clips, rows, strict=True):
            clip.elapsed_ms += MS_PER_S * per_clip_s
            clip.network_s = per_clip_s
            self._attempt(clip, partial(self._take, clip, [row]))
        return True

    def _prepare(self, entry: _Clip, clip: ScorableClip) -> None:
        entry.prepared = self._scorer.prepare(clip)

    def _score(self, entry: _Clip, clip: ScorableClip) -> None:
        self._take(entry, self._scorer.score([clip]))

    def _score_prepared(self, entry: _Clip) -> None:
        self._take(entry, self._scorer.score_prepared([entry.prepared]))

    def _take(self, entry: _Clip, rows: object) -> None:
        """Keep the scores of the only clip of ``rows``. Raises BadScores."""
        (row,) = checked_rows(rows, 1)
        entry.scores = checked_scores(row, self.source.metrics, entry.candidate_id)

    def _attempt(self, clip: _Clip, work: Callable[[], None]) -> bool:
        """Do ``work`` on a clip; returns whether it succeeded. A failure becomes a quarantine row that names scorer and place."""
        started = time.perf_counter()
        try:
            work()
        except Exception as error:
            self._pass_on(error)
            message = f"{self.source.slug}: {_described(error)}"
            self._failed.append(QuarantineRow(clip.candidate_id, self._stage, type(error).__name__, message, 1))
            return False
        clip.elapsed_ms += MS_PER_S * (time.perf_counter() - started)
        return True

    def _pass_on(self, error: Exception) -> None:
        """Raise errors that are not about one clip."""
        torch = sys.modules.get("torch")
        is_memory = isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError))
        if is_memory or (isinstance(error, FATAL_ERRORS) and not isinstance(error, MediaError)):
            raise error


def _described(error: Exception) -> str:
    """The error's text; for an error that is no statement about the answer, the line of code that raised it as well."""
    if isinstance(error, BadScores):
        return str(error)
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    place = f" ({last.tb_frame.f_code.co_filename}, line {last.tb_lineno})" if last is not None else ""
    return f"{type(error).__name__}: {error}{place}"
