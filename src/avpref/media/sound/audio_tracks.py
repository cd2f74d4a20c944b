"""Choice and properties of the audio stream that is read from a file. PyAV only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from avpref.errors import MediaError
from avpref.media.containers import decodable
from avpref.media.timeline import end_s, origin_s

TrackChoice = int | str
"""The audio track to read: its number among the audio tracks from 0, its language or its title; empty: the default track."""

SPECIAL = (
    Disposition.comment
    | Disposition.hearing_impaired
    | Disposition.visual_impaired
    | Disposition.descriptions
    | Disposition.captions
    | Disposition.lyrics
    | Disposition.karaoke
    | Disposition.clean_effects
    | Disposition.non_diegetic
    | Disposition.dependent
    | Disposition.metadata
)
"""Dispositions of tracks that are read only if they are chosen."""
SPECIAL_TITLE = re.compile(
    r"comment|kommentar|descri(ption|ptive|bed)|deskription|descripci|impaired|hard of hearing|karaoke|isolated score",
    re.IGNORECASE,
)
"""Titles of such tracks, for files without dispositions."""
LANGUAGES = (
    {"en": "eng", "de": "deu", "ger": "deu", "fr": "fra", "fre": "fra", "es": "spa", "it": "ita", "pt": "por"}
    | {
        "nl": "nld",
        "dut": "nld",
        "ru": "rus",
        "ja": "jpn",
        "zh": "zho",
        "chi": "zho",
        "ko": "kor",
        "ar": "ara",
        "hi": "hin",
    }
    | {
        "sv": "swe",
        "da": "dan",
        "no": "nor",
        "fi": "fin",
        "pl": "pol",
        "cs": "ces",
        "cze": "ces",
        "tr": "tur",
        "el": "ell",
    }
    | {
        "gre": "ell",
        "he": "heb",
        "uk": "ukr",
        "hu": "hun",
        "ro": "ron",
        "rum": "ron",
        "fa": "fas",
        "per": "fas",
        "vi": "vie",
    }
)
"""The three-letter code (ISO 639-2/T) of two-letter and bibliographic codes."""
UNKNOWN_LANGUAGES = ("", "und", "mis", "mul", "zxx")


@dataclass(frozen=True)
class AudioTrack:
    """The audio stream that is read from a file. Its sound lasts from ``start_s`` to ``duration_s`` on the recording's timeline."""

    stream_index: int
    codec: str
    duration_s: float
    sample_rate_hz: int
    num_channels: int
    start_s: float = 0.0


def choose_audio(container: InputContainer, choice: TrackChoice = "") -> AudioStream | None:
    """The audio stream to read; None if there is none.

    Without a ``choice``: of the tracks that are no commentary, description, or version for people who hear or see badly, the one
    that is marked as default; then the original before a dubbed one; then the language of the picture before no language before
    other languages; then the highest sample rate, the most channels, the first. Raises MediaError if there is none that can be
    decoded, if all are special, and if no track or several tracks fit the ``choice``.
    """
    tracks = decodable(container, list(container.streams.audio))
    if not tracks:
        return None
    if choice != "":
        return _chosen(container, tracks, choice)
    plain = [track for track in tracks if not is_special(track)]
    if not plain:
        raise MediaError(
            found=f"{container.name}: no audio track but special ones: {_listed(container)}",
            expected="an audio track that is no commentary or description, or the choice of one",
            fix=f"--set clip.audio_track={list(container.streams.audio).index(tracks[0])}",
        )
    return min(plain, key=lambda track: _rank(container, track))


def is_special(track: AudioStream) -> bool:
    """Whether ``track`` is a commentary, a description or the like by its disposition or title."""
    return bool(track.disposition & SPECIAL) or bool(SPECIAL_TITLE.search(_title(track)))


def track_properties(container: InputContainer, stream: AudioStream) -> AudioTrack:
    """Properties of ``stream``, from headers."""
    duration_s, codec = end_s(container, stream), stream.codec_context.name
    start = stream.start_time
    start_s = (
        0.0 if start is None or stream.time_base is None else float(start * stream.time_base) - origin_s(container)
    )
    return AudioTrack(stream.index, codec, duration_s, stream.sample_rate, stream.channels, max(0.0, start_s))


def _rank(container: InputContainer, track: AudioStream) -> tuple[int, ...]:
    """Sort key of tracks without a choice: the smallest is read."""
    marks, language = track.disposition, _code(track.language)
    pictures = [_code(stream.language) for stream in container.streams.video]
    of_picture = next((code for code in pictures if code not in UNKNOWN_LANGUAGES), "")
    language_order = 0 if of_picture and language == of_picture else 1 if language in UNKNOWN_LANGUAGES else 2
    origin_order = 0 if marks & Disposition.original else 2 if marks & Disposition.dub else 1
    is_default = bool(marks & Disposition.default)
    return (int(not is_default), origin_order, language_order, -track.sample_rate, -track.channels, track.index)


def _chosen(container: InputContainer, tracks: Sequence[AudioStream], choice: TrackChoice) -> AudioStream:
    """The track that ``choice`` names by number, else by language, else by title (whole, else a part of it)."""
    listed = list(container.streams.audio)
    name = str(choice).strip()
    if name.isdecimal():
        fitting = [track for track in tracks if listed.index(track) == int(name)]
    else:
        folded = name.casefold()
        tests = (
            lambda track: _code(track.language) == _code(name),
            lambda track: _title(track).casefold() == folded,
            lambda track: folded in _title(track).casefold(),
        )
        fitting = next((some for test in tests if (some := [track for track in tracks if test(track)])), [])
    plain = [track for track in fitting if not is_special(track)]
    fitting = plain if len(plain) == 1 else fitting
    if len(fitting) == 1:
        return fitting[0]
    problem = "no audio track fits" if not fitting else f"{len(fitting)} audio tracks fit"
    raise MediaError(
        found=f"{container.name}: {problem} audio_track {choice!r}; it has {_listed(container)}",
        expected="the number of an audio track from 0, its language or its title",
        fix=f"--set clip.audio_track={listed.index((fitting or tracks)[0])}",
    )


def _listed(container: InputContainer) -> str:
    return "; ".join(_description(number, track) for number, track in enumerate(container.streams.audio))


def _description(number: int, track: AudioStream) -> str:
    marks = ", ".join(mark.name for mark in Disposition if mark & track.disposition and mark.name)
    parts = [track.language or "", repr(_title(track)) if _title(track) else "", f"({marks})" if marks else ""]
    return " ".join([f"{number}:", *(part for part in parts if part)])


def _title(track: AudioStream) -> str:
    return track.metadata.get("title") or track.metadata.get("handler_name") or ""


def _code(language: str | None) -> str:
    """Three-letter code of ``language``, which may have a region (pt-BR)."""
    short = re.split(r"[-_]", (language or "").strip().lower())[0]
    return LANGUAGES.get(short, short)
