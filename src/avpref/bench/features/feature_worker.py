"""The worker that computes features and scores: it decodes each clip once for all networks and scorers that lack results of it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from avpref.bench.clips.clip_files import ClipFile, read_headers
from avpref.bench.features.feature_files import FeatureFiles, FeatureRow, Result, array_row
from avpref.bench.features.parts import FeatureItem, NetworkPart, Part, ScorerPart, by_name, clip_key, cut_clip
from avpref.bench.networks.bench_clip import BenchClip, NoFeatures
from avpref.datasets.rows import QuarantineRow
from avpref.devices import resolved
from avpref.domain import Score, ScoreStatus
from avpref.errors import MediaError
from avpref.execution.contract import Receipt
from avpref.media.reading import DecodedClip, probe, read_clip
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules
from avpref.rewards.outside.declaration import is_two_phase
from avpref.rewards.picture_needs import SCORED_SIZE
from avpref.rewards.protocol import ScorableClip
from avpref.storage.unit import Unit

LONGEST_S = 60.0
"""Seconds of a clip that are read; the rest of a longer one is not."""
MS_PER_S = 1000.0
LIBROSA_RATE_HZ = 48_000


@dataclass(frozen=True)
class FeatureSpec:
    """Builds workers that commit to ``files``; parts are loaded when a unit first needs them."""

    files: FeatureFiles
    parts: tuple[Part, ...]
    device: str = "auto"
    rules: ReadingRules = DEFAULT_READING

    def build(self) -> FeatureWorker:
        """A worker with one torch thread, so that sums are equal with every executor."""
        torch.set_num_threads(1)
        return FeatureWorker(self)


@dataclass
class FeatureWorker:
    """Works on units of clips. A clip that cannot be decoded is quarantined for all parts, one that a scorer loses for that part."""

    spec: FeatureSpec
    _open: dict[str, Any] = field(default_factory=dict)

    def run(self, unit: Unit[FeatureItem]) -> Receipt:
        """Commit the results of ``unit``'s clips for each of its parts that lacks them.

        Raises InputError where weights are absent.
        """
        started, files, parts = time.perf_counter(), self.spec.files, by_name(self.spec.parts)
        missing = {name: part for name, part in files.parts(unit).items() if not files.files.exists(part)}
        works = {name: _work(parts[name], self._opened(parts[name])) for name in missing}
        quarantined: list[QuarantineRow] = []
        for item in unit.items:
            try:
                clip = decoded(item, self.spec.rules)
            except MediaError as error:
                quarantined.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
                continue
            views = _Views(item, clip)
            for work in works.values():
                work.add(item, views)
            del clip, views
        num_rows, lost = 0, list(quarantined)
        for name, part in missing.items():
            rows, failed = works[name].results(unit.stage)
            files.files.commit(part, rows, [*quarantined, *failed])
            num_rows, lost = num_rows + len(rows), [*lost, *failed]
        return Receipt(num_rows, len(lost), time.perf_counter() - started)

    def _opened(self, part: Part) -> Any:
        if part.name not in self._open:
            self._open[part.name] = part.source.open(resolved(self.spec.device))
            torch.set_num_threads(1)
        return self._open[part.name]


def decoded(item: FeatureItem, rules: ReadingRules = DEFAULT_READING) -> DecodedClip:
    """The clip with the sound of the file beside it, where there is one. Raises MediaError, also for files that were replaced."""
    files = ClipFile(item.item_id, Path(item.video) if item.video else None, Path(item.sound) if item.sound else None)
    headers = read_headers(files, rules)
    if headers.content != item.identity.content:
        found = f"{files.shown.name} has other bytes than when the benchmark began"
        raise MediaError(found, "the same file", "run the command again")
    if files.video is None:
        assert files.sound is not None
        return _read(files.sound, rules)
    clip = _read(files.video, rules)
    if files.sound is None:
        return clip
    sound = _read(files.sound, rules)
    return replace(
        clip,
        audio=sound.audio,
        sample_rate_hz=sound.sample_rate_hz,
        channels=sound.channels,
        weights=sound.weights,
        sound_share=sound.sound_share,
    )


def _read(path: Path, rules: ReadingRules) -> DecodedClip:
    duration_s = min(LONGEST_S, probe(path, rules).duration_s)
    return read_clip(path, duration_s=duration_s, size=SCORED_SIZE, rules=rules)


class _Views:
    """A decoded clip as parts see it; equal views are made once."""

    def __init__(self, item: FeatureItem, clip: DecodedClip) -> None:
        identity = item.identity
        self.bench = BenchClip(clip, identity.text, identity.sound_text)
        self._item, self._clip = item, clip
        self._scorable: dict[tuple[str, float, bool], ScorableClip] = {}

    def scorable(self, part: ScorerPart) -> ScorableClip:
        """The clip as a scorer receives it."""
        text = part.text_of(self._item.identity)
        key = (text, part.cut_s, part.has_librosa_sound)
        if key not in self._scorable:
            clip = self._with_librosa_sound() if part.has_librosa_sound else self._clip
            self._scorable[key] = ScorableClip(self._item.item_id, text, cut_clip(clip, part.cut_s))
        return self._scorable[key]

    def _with_librosa_sound(self) -> DecodedClip:
        """The clip with mono sound at 48 kHz; a clip without sound stays as it is, and the scorer gives the reason."""
        try:
            sound = self.bench.librosa_sound(LIBROSA_RATE_HZ)
        except NoFeatures:
            return self._clip
        return replace(self._clip, audio=sound, sample_rate_hz=LIBROSA_RATE_HZ, channels=None, weights=())


Finished = tuple[list[FeatureRow], list[QuarantineRow]]


def _work(part: Part, tool: Any) -> _NetworkWork | _ScorerWork:
    return _NetworkWork(part, tool) if isinstance(part, NetworkPart) else _ScorerWork(part, tool)


class _NetworkWork:
    """A network's work on a unit: clip by clip, at once."""

    def __init__(self, part: NetworkPart, network: Any) -> None:
        self._part, self._network = part, network
        self._rows: list[FeatureRow] = []

    def add(self, item: FeatureItem, views: _Views) -> None:
        """Features of a clip, or the reason why there are none."""
        started = time.perf_counter()
        key = clip_key(item.identity, self._part.depends_on)
        try:
            inputs = self._network.inputs(views.bench)
            arrays = self._network.features(inputs.tensor)
            results = {name: Result(array, inputs.remark) for name, array in arrays.items()}
        except NoFeatures as error:
            results = {"": Result(None, str(error))}
        elapsed_ms = MS_PER_S * (time.perf_counter() - started) / len(results)
        self._rows += [array_row(key, self._part.name, name, result, elapsed_ms) for name, result in results.items()]

    def results(self, stage: str) -> Finished:
        """The rows of all clips."""
        return self._rows, []


class _ScorerWork:
    """A scorer's work on a unit: one that prepares clips scores all of them at the end."""

    def __init__(self, part: ScorerPart, scorer: Any) -> None:
        self._part, self._scorer = part, scorer
        self._items: list[FeatureItem] = []
        self._prepared: list[Any] = []
        self._times_ms: list[float] = []

    def add(self, item: FeatureItem, views: _Views) -> None:
        """Prepare or score a clip."""
        started = time.perf_counter()
        clip = views.scorable(self._part)
        prepared = self._scorer.prepare(clip) if is_two_phase(self._scorer) else self._scorer.score([clip])[0]
        self._items.append(item)
        self._prepared.append(prepared)
        self._times_ms.append(MS_PER_S * (time.perf_counter() - started))

    def results(self, stage: str) -> Finished:
        """Rows of the clips with numbers or reasons, and of those that the scorer should have judged and could not."""
        started = time.perf_counter()
        scored: Sequence[Sequence[Score]] = self._prepared
        if is_two_phase(self._scorer):
            scored = self._scorer.score_prepared(self._prepared)
        share_ms = MS_PER_S * (time.perf_counter() - started) / max(1, len(self._items))
        rows: list[FeatureRow] = []
        failed: list[QuarantineRow] = []
        for item, scores, own_ms in zip(self._items, scored, self._times_ms, strict=True):
            lost = [score for score in scores if score.status is ScoreStatus.QUARANTINED]
            if lost:
                failed.append(
                    QuarantineRow(item.item_id, stage, "ScorerError", f"{self._part.name}: {lost[0].reason}", 1)
                )
            else:
                rows += self._rows(item, scores, own_ms + share_ms)
        return rows, failed

    def _rows(self, item: FeatureItem, scores: Sequence[Score], elapsed_ms: float) -> Iterator[FeatureRow]:
        key = clip_key(item.identity, self._part.depends_on)
        for score in scores:
            value = None if score.value is None else np.array([[score.value]], np.float64)
            result = Result(value, score.reason)
            yield array_row(key, self._part.name, score.metric, result, elapsed_ms / len(scores))
