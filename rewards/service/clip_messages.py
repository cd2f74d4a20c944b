"""Parts of a clip as JSON values: evenly spaced frames as JPEG data URLs, the sound as a WAV file in base64."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from avpref.domain import Metric, MetricInput
from avpref.media.reading import DecodedClip
from avpref.rewards.protocol import ScorableClip

JPEG_QUALITY = 90
NO_PICTURE, NO_SOUND, NO_TEXT = "no video track", "no audio track", "empty text"


@dataclass(frozen=True)
class ClipMessage:
    """A clip ready to be sent.

    Attributes:
        candidate_id: the clip's id.
        text: the prompt.
        duration_s: length of the clip.
        frames: JPEG data URLs.
        sound: WAV file in base64; empty without sound.
        reasons: metric → why it is skipped; metrics that are asked for are absent.
    """

    candidate_id: str
    text: str
    duration_s: float
    frames: tuple[str, ...]
    sound: str
    reasons: dict[str, str]


@dataclass(frozen=True)
class MediaLimits:
    """Limits of a message: number of frames, their longest side in pixels, and whether the sound is sent."""

    num_frames: int
    longest_side_px: int
    with_sound: bool


def message_of(clip: ScorableClip, metrics: Sequence[Metric], limits: MediaLimits) -> ClipMessage:
    """The message of a clip; metrics whose inputs the clip lacks are skipped with the reason."""
    media = clip.clip
    missing = {
        MetricInput.PICTURE: NO_PICTURE if media.frames is None else "",
        MetricInput.SOUND: NO_SOUND if media.audio is None else "",
        MetricInput.PROMPT: NO_TEXT if not clip.text.strip() else "",
    }
    reasons = {
        metric.name: ", ".join(missing[part] for part in MetricInput if part in metric.inputs and missing[part])
        for metric in metrics
    }
    sound = wav_base64(media.audio, media.sample_rate_hz) if limits.with_sound and media.audio is not None else ""
    skipped = {name: reason for name, reason in reasons.items() if reason}
    return ClipMessage(clip.candidate_id, clip.text, media.duration_s, frame_urls(media, limits), sound, skipped)


def frame_urls(clip: DecodedClip, limits: MediaLimits) -> tuple[str, ...]:
    """At most ``num_frames`` evenly spaced frames, first and last included, as JPEG data URLs."""
    if clip.frames is None:
        return ()
    count = min(limits.num_frames, len(clip.frames))
    chosen = np.linspace(0, len(clip.frames) - 1, count).round().astype(int)
    return tuple(
        f"data:image/jpeg;base64,{_jpeg_base64(clip.frames[index], limits.longest_side_px)}" for index in chosen
    )


def wav_base64(audio: np.ndarray, rate_hz: int) -> str:
    """Mono sound [S] in [-1, 1] as a WAV file of 16 bits, in base64."""
    samples = (np.clip(np.nan_to_num(audio), -1.0, 1.0) * 32767).round().astype("<i2")
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return base64.b64encode(stream.getvalue()).decode()


def _jpeg_base64(frame: np.ndarray, longest_side_px: int) -> str:
    scale = longest_side_px / max(frame.shape[:2])
    if scale < 1:
        size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    is_encoded, data = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert is_encoded
    return base64.b64encode(data.tobytes()).decode()
