"""Do the scorers see what they claim to see? Good clips, their negatives and delays are scored; statistics say how well they differ."""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64, Generator

from avpref.datasets.evidence.evaluation import BootstrapSettings
from avpref.domain import Dimension, Metric, Score, Terms
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
"""The kind of a clip as it is, in rows."""
DIRECTIONS = ("late", "early")


@dataclass(frozen=True)
class ValidationSettings:
    """Window length, seed, negatives of each kind per window, the delays, and resamples for the 95 % intervals."""

    window_s: float = 4.0
    seed: int = 0
    num_negatives: int = 1
    steps_s: tuple[float, ...] = DELAY_STEPS_S
    bootstrap_samples: int = 1000

    @property
    def bootstrap(self) -> BootstrapSettings:
        """How intervals are found."""
        return BootstrapSettings(self.bootstrap_samples, 0.95, self.seed)

    @property
    def margin_s(self) -> float:
        """How much sound is read around a window: the longest delay, and room for another window on each side."""
        return max(self.window_s, *self.steps_s)


@dataclass(frozen=True)
class ValidationRow:
    """One number of one metric for one clip; ``clip`` names the good clip that it is or was made from.

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
    """All scores of all clips, negatives that are absent, and windows that could not be decoded."""

    rows: tuple[ValidationRow, ...]
    absent: tuple[AbsentRow, ...]
    unusable: tuple[Unusable, ...]


@dataclass(frozen=True)
class DelayDiscrimination:
    """How well a metric tells clips from the same clips with their sound late and early by ``step_s``."""

    step_s: float
    found: Discrimination


@dataclass(frozen=True)
class MetricValidation:
    """What one metric of one scorer is worth; see :mod:`avpref.validation.discrimination` for the numbers.

    ``overall`` is against all negatives of :data:`SEED_KINDS`; ``without`` counts rows that have no number by kind and reason.
    """

    scorer: str
    metric: Metric
    terms: Terms
    overall: Discrimination
    kinds: Mapping[NegativeKind, Discrimination]
    steps: tuple[DelayDiscrimination, ...]
    monotonicity: Monotonicity
    directions: Mapping[str, Monotonicity]
    without: Mapping[tuple[str, str], int]


def score_windows(
    windows: Sequence[ValidationWindow],
    scorers: Sequence[Scorer],
    settings: ValidationSettings,
    advance: Callable[[], None] = lambda: None,
) -> ScoredWindows:
    """Make the negatives of each window and give all of its clips to each scorer; ``advance`` is called after each window.

    A window that cannot be decoded is left out, with the reason. Raises InputError where none can.
    """
    rows: list[ValidationRow] = []
    absent: list[AbsentRow] = []
    unusable: list[Unusable] = []
    for window in windows:
        try:
            made = _trials(window, windows, settings)
        except MediaError as error:
            unusable.append(Unusable(window.name, error.found))
        else:
            absent += [AbsentRow(window.name, one.kind, one.op, one.index, one.reason) for one in made.absent]
            for scorer in scorers:
                rows += _scored(window, made, scorer)
        advance()
    if not rows:
        reasons = "; ".join(sorted({one.reason for one in unusable}))
        raise InputError(f"no window could be decoded: {reasons}", "whole media files", "copy or make the files again")
    return ScoredWindows(tuple(rows), tuple(absent), tuple(unusable))


def validate_metrics(
    scored: ScoredWindows, scorers: Sequence[Scorer], settings: ValidationSettings
) -> list[MetricValidation]:
    """Statistics of every metric of every scorer, in their order."""
    recording_of = {row.clip: row.recording for row in scored.rows}
    number_of = {recording: number for number, recording in enumerate(dict.fromkeys(recording_of.values()))}
    place = {clip: number for number, clip in enumerate(recording_of)}
    source = np.array([number_of[recording] for recording in recording_of.values()], np.int64)
    by_metric: dict[tuple[str, str], list[ValidationRow]] = defaultdict(list)
    for row in scored.rows:
        by_metric[row.fingerprint, row.metric].append(row)
    return [
        _judged(scorer, metric, by_metric[scorer.fingerprint, metric.name], place, source, settings)
        for scorer in scorers
        for metric in scorer.metrics
    ]


@dataclass(frozen=True, eq=False)
class _WindowClips:
    """One window with what was made of it."""

    cut: Cut
    negatives: list[Negative]
    absent: list[Absent]

    def clips(self) -> Iterator[tuple[Negative | None, DecodedClip]]:
        """The clip as it is, then the negatives."""
        yield None, self.cut.clip
        yield from ((negative, negative.clip) for negative in self.negatives)


def _trials(
    window: ValidationWindow, windows: Sequence[ValidationWindow], settings: ValidationSettings
) -> _WindowClips:
    cut = read_cut(window, settings.window_s, settings.margin_s)
    made: list[Negative | Absent] = []
    for index in range(settings.num_negatives):
        made += negatives(cut, _donor(cut, window, windows, settings.seed, index), settings.seed, index)
    made += delayed_negatives(cut, settings.steps_s)
    return _WindowClips(
        cut,
        [each for each in made if isinstance(each, Negative)],
        [each for each in made if isinstance(each, Absent)],
    )


def _donor(
    cut: Cut, window: ValidationWindow, windows: Sequence[ValidationWindow], seed: int, index: int
) -> Donor | None:
    """A drawn window of another recording, None where there is no other. One that cannot be read is told of when its turn comes."""
    others = [other for other in windows if other.recording != window.recording]
    random = Generator(PCG64(derive_seed("donor", seed, window.name, index)))
    for place in random.permutation(len(others)):
        with contextlib.suppress(MediaError):
            return read_donor(others[int(place)], cut.clip)
    return None


def _scored(window: ValidationWindow, made: _WindowClips, scorer: Scorer) -> Iterator[ValidationRow]:
    trials = list(made.clips())
    given = [ScorableClip(_id(window, negative), window.text, clip) for negative, clip in trials]
    for (negative, _), scores in zip(trials, _scores(scorer, given), strict=True):
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
    """Scores of every clip of one window; a scorer that speaks for one track only judges each distinct one of them once."""
    speaks_for = {metric.dimension for metric in scorer.metrics}
    if speaks_for == {Dimension.VIDEO}:
        tracks = [id(clip.clip.frames) for clip in clips]
    elif speaks_for == {Dimension.AUDIO}:
        tracks = [id(clip.clip.audio) for clip in clips]
    else:
        tracks = [id(clip) for clip in clips]
    distinct: dict[int, ScorableClip] = {}
    for track, clip in zip(tracks, clips, strict=True):
        distinct.setdefault(track, clip)
    answers = dict(zip(distinct, scorer.score(list(distinct.values())), strict=True))
    return [answers[track] for track in tracks]


def _id(window: ValidationWindow, negative: Negative | None) -> str:
    what = POSITIVE if negative is None else f"{negative.kind.value}/{negative.op}/{negative.index}"
    return f"{window.name}/{what}"


@dataclass(frozen=True)
class _SignedValue:
    """A row's number with the better end up, NaN where there is none; ``clip`` is the number of the good clip."""

    clip: int
    kind: str
    op: str
    step_s: float
    goodness: float


def _judged(
    scorer: Scorer,
    metric: Metric,
    rows: Sequence[ValidationRow],
    place: Mapping[str, int],
    source: Indices,
    settings: ValidationSettings,
) -> MetricValidation:
    judged = [_SignedValue(place[row.clip], row.kind, row.op, row.step_s, _goodness(row, metric)) for row in rows]
    tie = tie_of(np.array([one.goodness for one in judged]))
    positive = np.full(len(source), np.nan)
    for one in judged:
        if one.kind == POSITIVE:
            positive[one.clip] = one.goodness

    def against(chosen: Sequence[_SignedValue]) -> Discrimination:
        values = np.array([one.goodness for one in chosen], np.float64)
        own = np.array([one.clip for one in chosen], np.int64)
        return discriminate(DiscriminationData(positive, source, values, own), tie, settings.bootstrap)

    delays = [one for one in judged if one.kind == NegativeKind.DESYNC]
    of_kind = {kind: [one for one in judged if one.kind == kind] for kind in SEED_KINDS}
    steps = sorted({one.step_s for one in delays})
    ladders = {name: _delay_series([one for one in delays if one.op == name], positive, source) for name in DIRECTIONS}
    return MetricValidation(
        scorer=type(scorer).__name__,
        metric=metric,
        terms=scorer.terms,
        overall=against([one for kind in SEED_KINDS for one in of_kind[kind]]),
        kinds={kind: against(of_kind[kind]) for kind in SEED_KINDS},
        steps=tuple(
            DelayDiscrimination(step, against([one for one in delays if one.step_s == step])) for step in steps
        ),
        monotonicity=monotonicity([one for name in DIRECTIONS for one in ladders[name]], tie, settings.bootstrap),
        directions={name: monotonicity(ladders[name], tie, settings.bootstrap) for name in DIRECTIONS},
        without=Counter((row.kind, row.reason) for row in rows if row.value is None),
    )


def _delay_series(delays: Sequence[_SignedValue], positive: Floats, source: Indices) -> list[DelaySeries]:
    """One ladder per clip, from the clip as it is upwards; ``delays`` are those of one direction."""
    rungs: dict[int, list[_SignedValue]] = defaultdict(list)
    for one in delays:
        rungs[one.clip].append(one)
    return [
        DelaySeries(
            int(source[clip]),
            np.array([0.0, *(one.step_s for one in own)]),
            np.array([positive[clip], *(one.goodness for one in own)]),
        )
        for clip, own in rungs.items()
    ]


def _goodness(row: ValidationRow, metric: Metric) -> float:
    if row.value is None:
        return float("nan")
    return row.value if metric.higher_is_better else -row.value
