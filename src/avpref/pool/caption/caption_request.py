"""A request to an endpoint for chat completions that describes one clip, and the check of its answer.

Picture and sound are described apart, and the answer must be one JSON object of a fixed schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from avpref.config.pool.caption_settings import CaptionSettings
from avpref.media.reading import DecodedClip
from avpref.rewards.service.clip_messages import MediaLimits, frame_urls, wav_base64
from avpref.rewards.service.service_client import ServiceFailure

VERSION = 1
RATE_HZ = 16_000
FIELDS = {
    "visual": "one or two sentences about subjects, actions, place and camera in the picture; nothing about sound",
    "auditory": "one or two sentences about the sounds, their sources and their order; nothing that is only seen",
    "text": "one or two sentences that describe picture and sound together",
    "category": "one word in lower case for the main subject",
}
INSTRUCTION = (
    "Describe one video clip in {language}. Its frames follow in order of time, evenly spaced over {duration:.2f} seconds{sound}. "
    "Describe only content that is there. Answer with one JSON object with these keys:\n{fields}"
)
LONGEST_FIELD = 2000
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        name: {"type": "string", "minLength": 1, "maxLength": LONGEST_FIELD, "description": text}
        for name, text in FIELDS.items()
    },
    "required": list(FIELDS),
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Description:
    """The answer of the service: four texts, and the tokens that it counted."""

    visual: str
    auditory: str
    text: str
    category: str
    input_tokens: int
    output_tokens: int


def request_of(clip: DecodedClip, settings: CaptionSettings, seed: int) -> dict[str, Any]:
    """The document that asks for the description of ``clip``; the sound is sent as WAV of 16 kHz."""
    limits = MediaLimits(settings.num_frames, settings.longest_side_px, settings.sound)
    has_sound = settings.sound and clip.audio is not None
    fields = "\n".join(f"{name}: {text}" for name, text in FIELDS.items())
    sound = ", and its sound" if has_sound else ""
    text = INSTRUCTION.format(language=settings.language, duration=clip.duration_s, sound=sound, fields=fields)
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    content += [{"type": "image_url", "image_url": {"url": url}} for url in frame_urls(clip, limits)]
    if has_sound:
        from avpref.rewards.learned.mono16k import mono_16k

        sound_data = wav_base64(mono_16k(clip), RATE_HZ)
        content.append({"type": "input_audio", "input_audio": {"data": sound_data, "format": "wav"}})
    return {
        "model": settings.model,
        "temperature": 0.01,
        "top_p": 0.1,
        "seed": seed,
        "max_tokens": settings.max_tokens,
        "messages": [{"role": "user", "content": content}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "description", "strict": True, "schema": SCHEMA},
        },
    }


def description_of(answer: Mapping[str, Any]) -> Description:
    """The description in a completion. Raises ServiceFailure where it is none, or does not fit the schema."""
    try:
        (choice,) = answer["choices"]
        message, ending = choice["message"], choice.get("finish_reason")
        content = message.get("content")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ServiceFailure("the answer is no chat completion with one choice") from None
    if message.get("refusal"):
        raise ServiceFailure(f"the model refused: {str(message['refusal'])[:200]}")
    if ending not in (None, "stop"):
        raise ServiceFailure(f"the completion ended with {ending}")
    try:
        document = json.loads(content)
    except (TypeError, ValueError):
        raise ServiceFailure(f"the model's answer is not JSON: {str(content)[:200]}") from None
    return Description(*_checked(document), *_tokens(answer.get("usage")))


def _checked(document: object) -> tuple[str, str, str, str]:
    if not isinstance(document, Mapping):
        raise ServiceFailure(f"the model's answer is a {type(document).__name__}, not a JSON object")
    unknown, missing = sorted(set(document) - set(FIELDS)), sorted(set(FIELDS) - set(document))
    if unknown or missing:
        raise ServiceFailure(f"the model's answer has unknown keys {unknown} and lacks {missing}")
    values = []
    for name in FIELDS:
        value = document[name]
        if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_FIELD:
            raise ServiceFailure(f"{name} is no text of 1 to {LONGEST_FIELD} characters: {str(value)[:100]!r}")
        values.append(" ".join(value.split()))
    return values[0], values[1], values[2], values[3].lower()


def _tokens(usage: object) -> tuple[int, int]:
    if not isinstance(usage, Mapping):
        return 0, 0
    counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    first, second = (count if isinstance(count, int) and count >= 0 else 0 for count in counts)
    return first, second
