"""Drawings of clips: one scale of decibels and of time, and files by range from folders and buckets."""

from __future__ import annotations

import io
import json
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from avpref.datasets import tables
from avpref.explorer.clips.clip_drawings import NUM_BANDS, extremes, levels_db
from avpref.explorer.clips.range_answers import _ranged
from avpref.media.reading import read_clip
from avpref.storage.local_files import LocalFiles
from avpref.storage.run_folder import RunFolder


@pytest.mark.parametrize("rate_hz", [16_000, 44_100])
@pytest.mark.parametrize("amplitude", [1.0, 0.1])
def test_a_sine_has_its_level_at_every_rate(rate_hz: int, amplitude: float) -> None:
    times = np.arange(rate_hz) / rate_hz
    level = levels_db(amplitude * np.sin(2 * np.pi * 1000 * times), rate_hz)
    assert level.shape == (NUM_BANDS, 100)
    assert abs(level[:, 10:90].max() - 20 * np.log10(amplitude)) < 2.5
    assert level[:, 10:90].min() == -80.0


def test_bands_rise_with_the_frequency() -> None:
    times = np.arange(16_000) / 16_000
    peaks = [int(levels_db(np.sin(2 * np.pi * f * times), 16_000)[:, 50].argmax()) for f in (200, 1000, 3000, 7000)]
    assert peaks == sorted(set(peaks))


def test_a_click_is_in_its_column() -> None:
    audio = np.zeros(16_000)
    audio[8_000] = 1.0
    assert abs(int(levels_db(audio, 16_000).sum(axis=0).argmax()) - 50) <= 1


def test_extremes_cover_every_sample() -> None:
    audio = np.sin(np.arange(1_234))
    low, high = extremes(audio, 16_000)
    assert (low.min(), high.max()) == (audio.min(), audio.max()) and len(low) == 8


def test_drawings_are_made_once_and_agree_with_the_clip(client: TestClient, shown_run: RunFolder) -> None:
    row = shown_run.tables.read(tables.CANDIDATES).slice(1, 1).to_pylist()[0]
    base = f"/run/{shown_run.run_id}/clip/{row['candidate_id']}"
    thumbnail = Image.open(io.BytesIO(client.get(f"{base}/thumbnail").content))
    assert thumbnail.size == (64, 48)
    spectrogram = Image.open(io.BytesIO(client.get(f"{base}/spectrogram").content))
    assert spectrogram.size == (100, NUM_BANDS)
    curves = json.loads(client.get(f"{base}/curves").content)
    assert curves["duration_s"] == pytest.approx(1.0) and len(curves["motion"]["values"]) == 7
    assert curves["motion"]["start_s"] == pytest.approx(0.125) and curves["onsets_s"]
    with wave.open(io.BytesIO(client.get(f"{base}/sound").content)) as sound:
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2") / 32767
        assert sound.getframerate() == 16_000
    audio = read_clip(shown_run.root / row["path"]).audio
    assert audio is not None
    np.testing.assert_allclose(samples, np.clip(audio, -1, 1), atol=2e-5)
    made = shown_run.runs / ".explorer" / shown_run.run_id
    files = {path: path.stat().st_mtime_ns for path in made.rglob("*.png")}
    client.get(f"{base}/spectrogram")
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.png")} == files and files


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=0-3", 206, 0, 4),
        ("bytes=5-", 206, 5, 10),
        ("bytes=-3", 206, 7, 10),
        ("bytes=2-99", 206, 2, 10),
        ("bytes=12-13", 416, 0, 0),
        ("items=0-3", 200, 0, 10),
        (None, 200, 0, 10),
    ],
)
def test_ranges_of_a_bucket_are_those_asked_for(
    tmp_path: Path, asked: str | None, status: int, start: int, end: int
) -> None:
    (tmp_path / "clip").write_bytes(b"0123456789")
    answer = _ranged(LocalFiles(tmp_path), "clip", asked)
    assert answer.status_code == status
    if status != 416:
        assert answer.headers["content-length"] == str(end - start)
    else:
        assert answer.headers["content-range"] == "bytes */10"


def test_ranges_carry_their_bytes(client: TestClient, shown_run: RunFolder) -> None:
    row = shown_run.tables.read(tables.CANDIDATES).slice(0, 1).to_pylist()[0]
    whole = (shown_run.root / row["path"]).read_bytes()
    path = f"/run/{shown_run.run_id}/clip/{row['candidate_id']}/media"
    part = client.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole[10:20])
    assert client.get(path).content == whole
