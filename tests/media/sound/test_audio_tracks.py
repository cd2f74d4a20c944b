"""Which audio track is read: the default one, never a commentary, and the chosen one where one is chosen."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from avpref.errors import MediaError
from avpref.media.reading import probe, read_clip
from avpref.media.reading_rules import DEFAULT_READING, ReadingRules

RATE_HZ = 16000


def tone(hertz: float, seconds: float = 1.0, rate_hz: int = RATE_HZ) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


def loudest_hz(path: Path, rules: ReadingRules = DEFAULT_READING) -> int:
    clip = read_clip(path, duration_s=0.9, rules=rules)
    assert clip.audio is not None
    spectrum = np.abs(np.fft.rfft(clip.audio * np.hanning(len(clip.audio))))
    return round(float(spectrum.argmax()) * clip.sample_rate_hz / len(clip.audio) / 100) * 100


def write(path: Path, *tracks: dict, picture: str = "") -> Path:
    """A recording with a picture in the language ``picture`` and ``tracks``: hertz, and optionally marks, language, title, rate_hz."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        if picture:
            video.metadata["language"] = picture
        streams = []
        for track in tracks:
            stream = container.add_stream("aac", rate=track.get("rate_hz", RATE_HZ), layout="mono")
            stream.disposition = track.get("marks", Disposition(0))
            stream.metadata.update({name: track[name] for name in ("language", "title") if name in track})
            streams.append(stream)
        for k in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 20 * k, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for track, stream in zip(tracks, streams, strict=True):
            rate_hz = track.get("rate_hz", RATE_HZ)
            samples = tone(track["hertz"], rate_hz=rate_hz)[None]
            part = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            part.sample_rate, part.pts, part.time_base = rate_hz, 0, Fraction(1, rate_hz)
            container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    return path


NO_MARKS = Disposition(0)


def track(hertz: int, marks: Disposition = NO_MARKS, **more: str | int) -> dict:
    return {"hertz": hertz, "marks": marks, **more}


ORDERS = {
    "default before the higher rate": ([track(400, Disposition.default), track(800, rate_hz=48000)], 400),
    "default in the second place": ([track(400), track(800, Disposition.default)], 800),
    "original before dubbed": ([track(400, Disposition.dub), track(800, Disposition.original)], 800),
    "not dubbed before dubbed": ([track(400, Disposition.dub), track(800)], 800),
    "the picture's language": ([track(400, language="fra"), track(800, language="deu"), track(1200)], 800),
    "no language before another": ([track(400, language="fra"), track(800, language="und")], 800),
    "default before language": ([track(400, Disposition.default, language="fra"), track(800, language="deu")], 400),
    "the higher rate among equals": ([track(400), track(800, rate_hz=48000)], 800),
    "the first among equals": ([track(400), track(800)], 400),
    "never a default commentary": ([track(400, Disposition.default | Disposition.comment), track(800)], 800),
    "never for people who hear badly": (
        [track(400, Disposition.default | Disposition.hearing_impaired), track(800)],
        800,
    ),
    "never for people who see badly": (
        [track(400, Disposition.default | Disposition.visual_impaired), track(800)],
        800,
    ),
    "never a titled commentary": ([track(400, Disposition.default, title="Director's Commentary"), track(800)], 800),
    "never a titled description": (
        [track(400, Disposition.default, title="English (Audio Description)"), track(800)],
        800,
    ),
}


@pytest.mark.parametrize("name", ORDERS)
def test_the_track_that_is_read_without_a_choice(tmp_path: Path, name: str) -> None:
    tracks, hertz = ORDERS[name]
    assert loudest_hz(write(tmp_path / "film.mkv", *tracks, picture="ger")) == hertz


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return write(
        tmp_path / "film.mkv",
        track(400, Disposition.default, language="ger", title="Hauptton"),
        track(800, language="eng", title="Main"),
        track(1200, Disposition.comment, language="eng", title="Commentary"),
        track(1600, language="fre", title="Principal"),
    )


@pytest.mark.parametrize(
    ("choice", "hertz"),
    [
        *((0, 400), (1, 800), ("2", 1200)),
        *(("deu", 400), ("de", 400), ("ger", 400), ("en-GB", 800), ("fr", 1600), ("fra", 1600)),
        *(("Main", 800), ("commentary", 1200), ("haupt", 400)),
    ],
)
def test_a_track_is_chosen_by_number_language_or_title(film: Path, choice: int | str, hertz: int) -> None:
    assert loudest_hz(film, rules=ReadingRules(audio_track=choice)) == hertz
    audio = probe(film, ReadingRules(audio_track=choice)).audio
    assert audio is not None and audio.stream_index == hertz // 400


@pytest.mark.parametrize(
    ("choice", "problem"), [(4, "no audio track fits"), ("ita", "no audio track"), ("a", "4 audio tracks fit")]
)
def test_a_choice_that_fits_no_or_several_tracks_is_refused_with_the_list(
    film: Path, choice: int | str, problem: str
) -> None:
    with pytest.raises(MediaError) as error:
        read_clip(film, rules=ReadingRules(audio_track=choice))
    assert problem in error.value.found and "2: eng 'Commentary' (comment)" in error.value.found
    assert "clip.audio_track=" in error.value.fix


def test_a_commentary_alone_is_read_only_if_it_is_chosen(tmp_path: Path) -> None:
    path = write(tmp_path / "film.mkv", track(400, Disposition.comment))
    with pytest.raises(MediaError, match="no audio track but special ones: 0: \\(comment\\)") as error:
        probe(path)
    number = error.value.fix.rpartition("=")[2]
    assert loudest_hz(path, rules=ReadingRules(audio_track=int(number))) == 400
