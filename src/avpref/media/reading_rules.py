"""Choices about recordings that have more than one reading."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from avpref.media.sound.audio_tracks import TrackChoice


class HdrHandling(StrEnum):
    """The treatment of a picture of high dynamic range (PQ, HLG)."""

    TONE_MAP = "tone_map"
    """It is converted to the standard range (:mod:`avpref.media.picture.tone_mapping`)."""
    REFUSE = "refuse"
    """The recording is refused."""


@dataclass(frozen=True)
class ReadingRules:
    """How recordings are read where there is a choice.

    ``audio_track`` chooses the sound, see :func:`avpref.media.sound.audio_tracks.choose_audio`.
    """

    audio_track: TrackChoice = ""
    hdr: HdrHandling = HdrHandling.TONE_MAP


DEFAULT_READING = ReadingRules()
