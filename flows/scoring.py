"""The worker that scores candidates: each clip is read once, by timestamp, and given to every scorer of the set."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from avpref.cluster import Receipt, Unit
from avpref.datasets.rows import QuarantineRow, ScoreRow, score_row
from avpref.domain import METRICS, Candidate, Metric
from avpref.errors import ConfigError, MediaError
from avpref.flows.units import UnitFiles
from avpref.flows.worlds import clip_shape
from avpref.geometry import ClipShape
from avpref.identity import bytes_sha256
from avpref.media import read_clip
from avpref.rewards.protocol import ScorableClip, Scorer
from avpref.settings import Settings


@dataclass(frozen=True)
class ScoreItem:
    """A candidate that is to be scored, and the text to score it against."""

    candidate: Candidate
    text: str

    @property
    def item_id(self) -> str:
        """The candidate's id."""
        return self.candidate.candidate_id


def open_scorers(settings: Settings) -> list[Scorer]:
    """The scorers that the configuration names, in a fixed order."""
    match settings.scoring.scorers:
        case "toy":
            from avpref.rewards.toy import toy_scorers

            return list(toy_scorers())
        case "signal":
            from avpref.rewards.signals import signal_scorers

            return list(signal_scorers())
        case "fake":
            from avpref.rewards.fake import FakeScorer

            return [FakeScorer()]


def metrics_of(settings: Settings) -> list[Metric]:
    """The metrics of the run: what its scorers give, or those of them that the configuration lists.

    Raises ConfigError for a metric that no scorer of the set gives.
    """
    given = {metric.name: metric for scorer in open_scorers(settings) for metric in scorer.metrics}
    wanted = settings.scoring.metrics or tuple(given)
    unknown = [name for name in wanted if name not in given]
    if unknown:
        found = f"scoring.metrics lists {', '.join(unknown)}"
        raise ConfigError(
            found, f"metrics of the {settings.scoring.scorers} scorers: {', '.join(given)}", "--set scoring.metrics=[]"
        )
    return [given[metric.name] for metric in METRICS if metric.name in wanted]


@dataclass(frozen=True)
class ScoreSpec:
    """Builds workers that hold all scorers of the set."""

    root: Path
    settings: Settings
    files: UnitFiles

    def build(self) -> ScoreWorker:
        """Load the scorers."""
        scorers = open_scorers(self.settings)
        given = [metric.name for scorer in scorers for metric in scorer.metrics]
        kept = frozenset(self.settings.scoring.metrics or given)
        return ScoreWorker(self.root, self.files, scorers, kept, clip_shape(self.settings))


@dataclass(frozen=True)
class ScoreWorker:
    """Scores units of candidates. A file that cannot be read, or is not the file that was committed, is quarantined."""

    root: Path
    files: UnitFiles
    scorers: list[Scorer]
    metrics: frozenset[str]
    shape: ClipShape

    def run(self, unit: Unit) -> Receipt:
        """Commit the scores of ``unit``'s items (ScoreItem)."""
        started, clips, lost = time.perf_counter(), [], []
        for item in unit.items:
            try:
                clips.append(self._read(item))
            except MediaError as error:
                lost.append(QuarantineRow(item.item_id, unit.stage, "MediaError", str(error), 1))
        rows = [row for scorer in self.scorers for row in self._score(scorer, clips)]
        self.files.commit(unit, rows, lost)
        return Receipt(len(rows), len(lost), time.perf_counter() - started)

    def _read(self, item: ScoreItem) -> ScorableClip:
        path = self.root / item.candidate.path
        if not path.exists():
            raise MediaError(
                f"{item.candidate.path} is missing", "the file that was committed", "avpref runs resume RUN"
            )
        found = bytes_sha256(path.read_bytes())
        if found != item.candidate.sha256:
            expected = f"sha-256 {item.candidate.sha256[:12]}…, as committed"
            raise MediaError(
                f"{item.candidate.path} has sha-256 {found[:12]}…", expected, f"restore {item.candidate.path}"
            )
        return ScorableClip(item.item_id, item.text, read_clip(path, self.shape))

    def _score(self, scorer: Scorer, clips: Sequence[ScorableClip]) -> list[ScoreRow]:
        started = time.perf_counter()
        scores = [score for clip_scores in scorer.score(clips) for score in clip_scores if score.metric in self.metrics]
        elapsed_ms = 1000 * (time.perf_counter() - started) / max(len(scores), 1)
        return [score_row(score, type(scorer).__name__, scorer.fingerprint, elapsed_ms) for score in scores]
