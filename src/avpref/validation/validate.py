"""Validation of scorers: score good clips, their negatives and delayed copies, and measure how well each metric separates them."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64, Generator

from avpref.datasets.evidence.evaluation import BootstrapSettings
from avpref.domain import PICTURE, SOUND, Metric, MetricInput, Score, Terms
from avpref.errors import InputError, MediaError
from avpref.identity import derive_seed
from avpref.media.reading import DecodedClip
from avpref.rewards.negatives.corruptions import (
    DELAY_STEPS_S,
    SEED_KINDS,
    Absent,
    Negative,
    NegativeKind,
    delayed_negatives,
    negatives,
)
from avpref.rewards.negatives.cuts import Cut, Donor
from avpref.rewards.protocol import ScorableClip, Scorer
from avpref.validation.discrimination import (
    DelaySeries,
    Discrimination,
    DiscriminationData,
    Floats,
    Indices,
    Monotonicity,
    discriminate,
    monotonicity,
    tie_of,
)
from avpref.validation.windows import Unusable, ValidationWindow, read_cut, read_donor

POSITIVE = "positive"
"""The ``kind`` of rows of good clips."""
DIRECTIONS = ("late", "early")


@dataclass(frozen=True)
class ValidationSettings:
    """Window length, seed, number of negatives of each kind per window, delays, and resamples for the 95 % intervals."""

    window_s: float = 4.0
    seed: int = 0
    num_negatives: int = 1
    steps_s: tuple[float, ...] = DELAY_STEPS_S
    bootstrap_samples: int = 1000

    @property
    def bootstrap(self) -> BootstrapSettings:
        """Settings of the confidence intervals."""
        return BootstrapSettings(self.bootstrap_samples, 0.95, self.seed)

    @property
    def margin_s(self) -> float:
        """Duration of the sound that is read before and after a window: the longest delay, at least one window."""
        return max(self.window_s, *self.steps_s)


@dataclass(frozen=True)
class ValidationRow:
    """A number of a metric for a clip; ``clip`` names the good clip that it is or was made from.

    ``kind`` is ``positive`` or a :class:`avpref.rewards.negatives.corruptions.NegativeKind`; ``parameters`` is JSON.
    """

    clip: str
    recording: str
    file: str
    start_s: float
    kind: str
    op: str
    index: int
    step_s: float
    parameters: str
    scorer: str
    fingerprint: str
    metric: str
    value: float | None
    status: str
    reason: str


@dataclass(frozen=True)
class AbsentRow:
    """A negative that could not be made of a clip, and why."""

    clip: str
    kind: str
    op: str
    index: int
    reason: str


@dataclass(frozen=True)
class ScoredWindows:
    """All scores of all clips, the negatives that could not be made, and the windows that could not be decoded."""

    rows: tuple[ValidationRow, ...]
    absent: tuple[AbsentRow, ...]
    unusable: tuple[Unusable, ...]


@dataclass(frozen=True)
class DelayDiscrimination:
    """How well a metric separates clips from the same clips with their sound late or early by ``step_s``."""

    step_s: float
    discrimination: Discrimination


@dataclass(frozen=True)
class MetricValidation:
    """Statistics of a metric of a scorer; see :mod:`avpref.validation.discrimination` for the numbers.

    ``overall`` is against all negatives of :data:`SEED_KINDS`; ``without_number`` counts the rows without a number by kind and
    reason.
    """

    scorer: str
    metric: Metric
    terms: Terms
    overall: Discrimination
    kinds: Mapping[NegativeKind, Discrimination]
    steps: tuple[DelayDiscrimination, ...]
    monotonicity: Monotonicity
    directions: Mapping[str, Monotonicity]
    without_number: Mapping[tuple[str, str], int]


def score_windows(
    windows: Sequence[ValidationWindow],
    scorers: Sequence[Scorer],
    settings: ValidationSettings,
    advance: Callable[[], None] = lambda: None,
) -> ScoredWindows:
    """Make the negatives of each window and score all of its clips by each scorer; ``advance`` is called after each window.

    A window that cannot be decoded is reported as unusable, with the reason. Raises InputError if none can be decoded.
    """
    rows: list[ValidationRow] = []
    absent: list[AbsentRow] = []
    unusable: list[Unusable] = []
    for window in windows:
        try:
            clips = _window_clips(window, windows, settings)
        except MediaError as error:
            unusable.append(Unusable(window.name, error.found))
        else:
            absent += [AbsentRow(window.name, row.kind, row.op, row.index, row.reason) for row in clips.absent]
            for scorer in scorers:
                rows += _score_rows(window, clips, scorer)
        advance()
    if not rows:
        reasons = "; ".join(sorted({window.reason for window in unusable}))
        raise InputError(f"no window could be decoded: {reasons}", "whole media files", "copy or make the files again")
    return ScoredWindows(tuple(rows), tuple(absent), tuple(unusable))


def validate_metrics(
    scored: ScoredWindows, scorers: Sequence[Scorer], settings: ValidationSettings
) -> list[MetricValidation]:
    """Statistics of every metric of every scorer, in the order of ``scorers`` and of their metrics."""
    recording_of = {row.clip: row.recording for row in scored.rows}
    number_of = {recording: number for number, recording in enumerate(dict.fromkeys(recording_of.values()))}
    clip_index = {clip: number for number, clip in enumerate(recording_of)}
    source = np.array([number_of[recording] for recording in recording_of.values()], np.int64)
    by_metric: dict[tuple[str, str], list[ValidationRow]] = defaultdict(list)
    for row in scored.rows:
        by_metric[row.fingerprint, row.metric].append(row)
    return [
        _validate_metric(scorer, metric, by_metric[scorer.fingerprint, metric.name], clip_index, source, settings)
        for scorer in scorers
        for metric in scorer.metrics
    ]


@dataclass(frozen=True, eq=False)
class _WindowClips:
    """A window, its negatives, and those that could not be made."""

    cut: Cut
    negatives: list[Negative]
    absent: list[Absent]

    def clips(self) -> Iterator[tuple[Negative | None, DecodedClip]]:
        """The good clip with None, then each negative with its clip."""
        yield None, self.cut.clip
        yield from ((negative, negative.clip) for negative in self.negatives)


def _window_clips(
    window: ValidationWindow, windows: Sequence[ValidationWindow], settings: ValidationSettings
) -> _WindowClips:
    """Read ``window`` and make its negatives; ``windows`` are the possible donors. Raises MediaError."""
    cut = read_cut(window, settings.window_s, settings.margin_s)
    outcomes: list[Negative | Absent] = []
    for index in range(settings.num_negatives):
        outcomes += negatives(cut, _donor(cut, window, windows, settings.seed, index), settings.seed, index)
    outcomes += delayed_negatives(cut, settings.steps_s)
    return _WindowClips(
        cut,
        [outcome for outcome in outcomes if isinstance(outcome, Negative)],
        [outcome for outcome in outcomes if isinstance(outcome, Absent)],
    )


def _donor(
    cut: Cut, window: ValidationWindow, windows: Sequence[ValidationWindow], seed: int, index: int
) -> Donor | None:
    """A random window of another recording, None if there is none. An unreadable one is skipped here and reported by the caller."""
    others = [other for other in windows if other.recording != window.recording]
    random = Generator(PCG64(derive_seed("donor", seed, window.name, index)))
    for number in random.permutation(len(others)):
        with contextlib.suppress(MediaError):
            return read_donor(others[int(number)], cut.clip)
    return None


def _score_rows(window: ValidationWindow, window_clips: _WindowClips, scorer: Scorer) -> Iterator[ValidationRow]:
    clips = list(window_clips.clips())
    scorable = [ScorableClip(_clip_id(window, negative), window.text, clip) for negative, clip in clips]
    for (negative, _), scores in zip(clips, _scores(scorer, scorable), strict=True):
        for score in scores:
            yield ValidationRow(
                clip=window.name,
                recording=window.recording,
                file=window.file,
                start_s=window.start_s,
                kind=POSITIVE if negative is None else negative.kind.value,
                op="" if negative is None else negative.op,
                index=0 if negative is None else negative.index,
                step_s=0.0 if negative is None else negative.step_s,
                parameters="{}" if negative is None else json.dumps(dict(negative.parameters)),
                scorer=type(scorer).__name__,
                fingerprint=scorer.fingerprint,
                metric=score.metric,
                value=score.value,
                status=score.status.value,
                reason=score.reason,
            )


def _scores(scorer: Scorer, clips: Sequence[ScorableClip]) -> list[list[Score]]:
    """Scores of every clip of a window; a scorer of one track only scores each distinct track once."""
    inputs = frozenset().union(*(metric.inputs for metric in scorer.metrics)) - {MetricInput.PROMPT}
    if inputs == PICTURE:
        tracks = [id(clip.clip.frames) for clip in clips]
    elif inputs == SOUND:
        tracks = [id(clip.clip.audio) for clip in clips]
    else:
        tracks = [id(clip) for clip in clips]
    distinct: dict[int, ScorableClip] = {}
    for track, clip in zip(tracks, clips, strict=True):
        distinct.setdefault(track, clip)
    scores_of = dict(zip(distinct, scorer.score(list(distinct.values())), strict=True))
    return [scores_of[track] for track in tracks]


def _clip_id(window: ValidationWindow, negative: Negative | None) -> str:
    variant = POSITIVE if negative is None else f"{negative.kind.value}/{negative.op}/{negative.index}"
    return f"{window.name}/{variant}"


@dataclass(frozen=True)
class _SignedValue:
    """A row's number, negated if lower is better, NaN if there is none; ``clip`` is the index of the good clip."""

    clip: int
    kind: str
    op: str
    step_s: float
    goodness: float


def _validate_metric(
    scorer: Scorer,
    metric: Metric,
    rows: Sequence[ValidationRow],
    clip_index: Mapping[str, int],
    source: Indices,
    settings: ValidationSettings,
) -> MetricValidation:
    """Statistics of ``metric`` from its ``rows``; ``source`` [P] are the recordings of the good clips, by ``clip_index``."""
    values = [_SignedValue(clip_index[row.clip], row.kind, row.op, row.step_s, _goodness(row, metric)) for row in rows]
    tie = tie_of(np.array([value.goodness for value in values]))
    positive = np.full(len(source), np.nan)
    for value in values:
        if value.kind == POSITIVE:
            positive[value.clip] = value.goodness

    def against(negatives: Sequence[_SignedValue]) -> Discrimination:
        goodness = np.array([value.goodness for value in negatives], np.float64)
        positive_of = np.array([value.clip for value in negatives], np.int64)
        return discriminate(DiscriminationData(positive, source, goodness, positive_of), tie, settings.bootstrap)

    delays = [value for value in values if value.kind == NegativeKind.DESYNC]
    of_kind = {kind: [value for value in values if value.kind == kind] for kind in SEED_KINDS}
    steps = sorted({value.step_s for value in delays})
    series = {
        name: _delay_series([value for value in delays if value.op == name], positive, source) for name in DIRECTIONS
    }
    return MetricValidation(
        scorer=type(scorer).__name__,
        metric=metric,
        terms=scorer.terms,
        overall=against([value for kind in SEED_KINDS for value in of_kind[kind]]),
        kinds={kind: against(of_kind[kind]) for kind in SEED_KINDS},
        steps=tuple(
            DelayDiscrimination(step, against([value for value in delays if value.step_s == step])) for step in steps
        ),
        monotonicity=monotonicity([delays for name in DIRECTIONS for delays in series[name]], tie, settings.bootstrap),
        directions={name: monotonicity(series[name], tie, settings.bootstrap) for name in DIRECTIONS},
        without_number=Counter((row.kind, row.reason) for row in rows if row.value is None),
    )


def _delay_series(delays: Sequence[_SignedValue], positive: Floats, source: Indices) -> list[DelaySeries]:
    """A series per clip that starts with the clip as it is; ``delays`` are those of one direction."""
    by_clip: dict[int, list[_SignedValue]] = defaultdict(list)
    for value in delays:
        by_clip[value.clip].append(value)
    return [
        DelaySeries(
            int(source[clip]),
            np.array([0.0, *(value.step_s for value in values)]),
            np.array([positive[clip], *(value.goodness for value in values)]),
        )
        for clip, values in by_clip.items()
    ]


def _goodness(row: ValidationRow, metric: Metric) -> float:
    if row.value is None:
        return float("nan")
    return row.value if metric.higher_is_better else -row.value
