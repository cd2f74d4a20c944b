"""Speech made by espeak-ng is found by the learned measure, and the filter of the presets removes it."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pool_clips import RATE_HZ, BuildPool, plain_video, scene, write_video
from scipy.signal import resample_poly

from avpref.config.learned_names import is_installed
from avpref.pool.pool_tables import DECISIONS


def speech(words: str) -> NDArray[np.float32]:
    program = shutil.which("espeak-ng")
    if program is None:
        pytest.skip("espeak-ng is not installed: apt-get install espeak-ng")
    made = subprocess.run([program, "--stdout", words], capture_output=True, check=True)
    with wave.open(io.BytesIO(made.stdout)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
        return resample_poly(samples, RATE_HZ, file.getframerate()).astype(np.float32)


def test_a_clip_with_speech_is_removed_and_one_with_notes_is_kept(tmp_path: Path, build_pool: BuildPool) -> None:
    if not is_installed("speech"):
        pytest.skip("silero-vad is not installed: pip install 'avpref[learned]'")
    voice = speech("The train to the coast leaves at nine from platform two")
    number = round(len(voice) / RATE_HZ * 25)
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "speech.mp4", scene(1, number), voice)
    plain_video(tmp_path / "in" / "notes.mp4", 2)
    filters = "filter.filters=[{name: no_speech, measure: speech_share, max: 0.0}]"
    pool = build_pool(tmp_path / "in", sets=("measure.scorers=[sound_measures, speech]", filters), until="filter")
    with pool.connect() as con:
        rows = con.execute(
            "SELECT listed.uri, all_measures.value FROM all_measures JOIN clips USING (clip_id)"
            " JOIN listed USING (source_id) WHERE measure = 'speech_share'"
        ).fetchall()
    shares = {Path(uri).stem: value for uri, value in rows}
    assert shares["speech"] > 0.8 and shares["notes"] == 0.0
    assert sorted(row["is_kept"] for row in pool.tables.read(DECISIONS).to_pylist()) == [False, True]
