"""A reward service: one JSON document per clip in, one number per metric out.

Request: ``{"id", "text", "duration_s", "frames": [JPEG data URLs], "sound": WAV in base64 or null, "metrics": [names]}``.
Answer: ``{"scores": {name: number}}`` with exactly the names that were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from avpref.domain import Metric
from avpref.rewards.service.clip_messages import ClipMessage
from avpref.rewards.service.service_client import ServiceFailure
from avpref.rewards.service.service_scorer import ServiceScorer
from avpref.rewards.service.service_settings import MetricSettings, ServiceSettings


class RewardService(ServiceScorer):
    """The scorer ``reward_service``."""

    class Settings(ServiceSettings):
        """The metrics that the service gives; the other settings are those of every service."""

        metrics: tuple[MetricSettings, ...] = Field(min_length=1)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, [metric.metric() for metric in settings.metrics])

    def ask(self, message: ClipMessage, metrics: Sequence[Metric]) -> Mapping[str, Any]:
        """See the base class."""
        answer = self._client.post(
            {
                "id": message.candidate_id,
                "text": message.text,
                "duration_s": message.duration_s,
                "frames": message.frames,
                "sound": message.sound or None,
                "metrics": [metric.name for metric in metrics],
            }
        )
        if set(answer) != {"scores"}:
            raise ServiceFailure(
                f"an answer with {', '.join(sorted(map(str, answer))) or 'nothing'}, expected scores alone"
            )
        scores = answer["scores"]
        if not isinstance(scores, Mapping):
            raise ServiceFailure(f"the scores are a {type(scores).__name__}, not a JSON object")
        return scores
