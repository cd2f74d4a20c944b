"""Base class of the scorers behind HTTP: the media are prepared clip by clip, the requests of a unit run side by side."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar

from avpref.domain import Metric, Score, Terms
from avpref.rewards.protocol import ScorableClip, failed, measured, skipped
from avpref.rewards.service.clip_messages import ClipMessage, MediaLimits, message_of
from avpref.rewards.service.service_client import ServiceClient, ServiceFailure
from avpref.rewards.service.service_settings import ServiceSettings

VERSION = 1


class ServiceScorer(ABC):
    """A scorer whose numbers come from a service. Classes implement ``ask``; ``path`` is appended to the URL."""

    has_canary: ClassVar[bool] = False
    has_own_actors: ClassVar[bool] = True
    not_of_scores: ClassVar[frozenset[str]] = ServiceSettings.NOT_OF_SCORES
    path: ClassVar[str] = ""

    def __init__(self, settings: ServiceSettings, metrics: Sequence[Metric]) -> None:
        self.metrics = tuple(metrics)
        self._settings = settings
        self._limits = MediaLimits(settings.num_frames, settings.longest_side_px, settings.sound)
        self._client = ServiceClient(type(self).__name__, settings, self.path)

    @property
    def terms(self) -> Terms:
        """The terms that the settings state."""
        return self._settings.terms

    @property
    def fingerprint(self) -> str:
        """Version of this code and of the service; the URL where the settings name no version."""
        return f"{VERSION} {self._settings.version or self._settings.url}"

    @abstractmethod
    def ask(self, message: ClipMessage, metrics: Sequence[Metric]) -> Mapping[str, Any]:
        """The value of every metric of one clip, from the service. Raises ServiceFailure."""

    def prepare(self, clip: ScorableClip) -> ClipMessage:
        """The clip as it is sent."""
        return message_of(clip, self.metrics, self._limits)

    def score_prepared(self, messages: Sequence[ClipMessage]) -> list[list[Score]]:
        """The scores of every clip; a clip without a valid answer has failed scores with the reason."""
        return self._client.ask_all(self._scores, messages)

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return self.score_prepared([self.prepare(clip) for clip in clips])

    def _scores(self, message: ClipMessage) -> list[Score]:
        metrics, name = [metric for metric in self.metrics if metric.name not in message.reasons], message.candidate_id
        try:
            values = checked_values(self.ask(message, metrics), metrics) if metrics else {}
        except ServiceFailure as failure:
            return [failed(name, metric, str(failure)) for metric in self.metrics]
        return [
            skipped(name, metric, message.reasons[metric.name])
            if metric.name in message.reasons
            else measured(name, metric, values[metric.name])
            for metric in self.metrics
        ]


def checked_values(answer: object, metrics: Sequence[Metric]) -> dict[str, float]:
    """The values of an answer that has exactly one finite number for each of ``metrics``. Raises ServiceFailure."""
    if not isinstance(answer, Mapping):
        raise ServiceFailure(f"the scores are a {type(answer).__name__}, not a JSON object")
    expected = {metric.name for metric in metrics}
    if set(answer) != expected:
        raise ServiceFailure(
            f"scores of {', '.join(sorted(answer)) or 'nothing'}, expected {', '.join(sorted(expected))}"
        )
    for name, value in answer.items():
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ServiceFailure(f"{name} = {value!r}, expected a finite number")
    return {name: float(value) for name, value in answer.items()}
