"""A vision-language model as a scorer, behind an endpoint for chat completions as OpenAI defines it.

Each metric is a question that the model answers with a number. The request has evenly spaced frames as images, the sound as WAV, the prompt
if a question is about it, temperature 0, and a JSON schema of the answer; the answer is checked against that schema here as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, model_validator

from avpref.domain import Metric, MetricInput
from avpref.rewards.service.clip_messages import ClipMessage
from avpref.rewards.service.service_client import ServiceFailure
from avpref.rewards.service.service_scorer import ServiceScorer, checked_values
from avpref.rewards.service.service_settings import MetricSettings, ServiceSettings

INSTRUCTION = (
    "You rate one video clip. Its frames follow in order of time, evenly spaced over {duration:.2f} seconds{sound}. "
    "Answer with one JSON object that has a number for every key:\n{questions}"
)


class Question(MetricSettings):
    """A metric, the question whose answer is its value, and the range of the answer."""

    question: str = Field(min_length=1)
    lowest: float = 0.0
    highest: float = 10.0

    @model_validator(mode="after")
    def _ordered(self) -> Question:
        if not self.lowest < self.highest:
            raise ValueError(f"lowest {self.lowest:g} is not below highest {self.highest:g}")
        return self


class VlmJudge(ServiceScorer):
    """The scorer ``vlm_judge``."""

    path: ClassVar[str] = "/chat/completions"

    class Settings(ServiceSettings):
        """``url`` ends before ``/chat/completions``; ``seed`` and ``max_tokens`` are sent as they are."""

        model: str = Field(min_length=1)
        questions: tuple[Question, ...] = Field(min_length=1)
        max_tokens: int = Field(default=256, gt=0)
        seed: int = 0

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings, [question.metric() for question in settings.questions])
        self._questions = {question.name: question for question in settings.questions}
        self._judge = settings

    def ask(self, message: ClipMessage, metrics: Sequence[Metric]) -> Mapping[str, Any]:
        """See the base class."""
        questions = [self._questions[metric.name] for metric in metrics]
        answer = self._client.post(
            {
                "model": self._judge.model,
                "temperature": 0,
                "seed": self._judge.seed,
                "max_tokens": self._judge.max_tokens,
                "messages": [{"role": "user", "content": self._content(message, questions)}],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "ratings", "strict": True, "schema": answer_schema(questions)},
                },
            }
        )
        values = checked_values(_ratings(answer), metrics)
        for question in questions:
            if not question.lowest <= values[question.name] <= question.highest:
                limits = f"{question.lowest:g} to {question.highest:g}"
                raise ServiceFailure(f"{question.name} = {values[question.name]:g}, expected {limits}")
        return values

    def _content(self, message: ClipMessage, questions: Sequence[Question]) -> list[dict[str, Any]]:
        lines = [f"{item.name} ({item.lowest:g} to {item.highest:g}): {item.question}" for item in questions]
        sound = ", and its sound" if message.sound else ""
        text = INSTRUCTION.format(duration=message.duration_s, sound=sound, questions="\n".join(lines))
        if any(MetricInput.PROMPT in item.inputs for item in questions):
            text += f"\nThe clip was made for this text: {json.dumps(message.text, ensure_ascii=False)}"
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        content += [{"type": "image_url", "image_url": {"url": url}} for url in message.frames]
        if message.sound:
            content.append({"type": "input_audio", "input_audio": {"data": message.sound, "format": "wav"}})
        return content


def answer_schema(questions: Sequence[Question]) -> dict[str, Any]:
    """The strict JSON schema of an answer: one number in the range of each question, and nothing else."""
    return {
        "type": "object",
        "properties": {
            item.name: {"type": "number", "minimum": item.lowest, "maximum": item.highest, "description": item.question}
            for item in questions
        },
        "required": [item.name for item in questions],
        "additionalProperties": False,
    }


def _ratings(answer: Mapping[str, Any]) -> object:
    """The JSON value in the message of a completion. Raises ServiceFailure."""
    try:
        (choice,) = answer["choices"]
        message, reason = choice["message"], choice.get("finish_reason")
        content = message.get("content")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ServiceFailure("the answer is no chat completion with one choice") from None
    if message.get("refusal"):
        raise ServiceFailure(f"the model refused: {str(message['refusal'])[:200]}")
    if reason not in (None, "stop"):
        raise ServiceFailure(f"the completion ended with {reason}")
    try:
        return json.loads(content)
    except (TypeError, ValueError):
        raise ServiceFailure(f"the model's answer is not JSON: {str(content)[:200]}") from None
