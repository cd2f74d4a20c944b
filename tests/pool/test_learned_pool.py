"""A pool with learned measures from files to decisions, where their packages are installed: burnt-in text, speech, faces."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from pool_clips import BuildPool, scene, tune, write_video

from avpref.config.learned_names import absent_modules
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import DECISIONS

HEIGHT_PX, WIDTH_PX = 270, 480


def require(*scorers: str) -> None:
    for name in scorers:
        if absent := absent_modules(name):
            pytest.skip(f"{name}: {', '.join(absent)} not installed (see docs/learned-scorers.md)")


def values(pool: PoolFolder, measure: str) -> dict[str, float | None]:
    """The values of a measure by the names of the sources."""
    query = (
        "SELECT listed.uri, value FROM all_measures JOIN clips USING (clip_id) JOIN listed USING (source_id)"
        " WHERE measure = $measure"
    )
    with pool.connect() as con:
        return {Path(uri).stem: value for uri, value in con.execute(query, {"measure": measure}).fetchall()}


@pytest.mark.slow
def test_burnt_in_text_is_read_and_removed_by_the_published_threshold(tmp_path: Path, build_pool: BuildPool) -> None:
    require("screen_text")
    folder = tmp_path / "in"
    folder.mkdir()
    plain = scene(1, 60, HEIGHT_PX, WIDTH_PX)
    written = plain.copy()
    for frame in written:
        for row, words in enumerate(("BREAKING NEWS", "SUBSCRIBE NOW", "50% OFF TODAY", "LIVE", "WEATHER", "SPORT")):
            cv2.rectangle(frame, (20, 8 + 43 * row), (330, 40 + 43 * row), (20, 20, 20), -1)
            cv2.putText(frame, words, (30, 34 + 43 * row), cv2.FONT_HERSHEY_SIMPLEX, 0.9, (255, 255, 255), 2)
    write_video(folder / "plain.mp4", plain, tune(1, 2.4))
    write_video(folder / "written.mp4", written, tune(2, 2.4))
    limit = "filter.filters=[{name: text, measure: text_regions, max: 5.0}]"
    pool = build_pool(folder, sets=("measure.scorers=[frame_measures, screen_text]", limit), until="filter")
    regions = values(pool, "text_regions")
    assert regions["plain"] == 0 and (regions["written"] or 0) >= 6
    decided = {row["filter"]: row["is_kept"] for row in pool.tables.read(DECISIONS).to_pylist()}
    assert decided == {"": True, "text": False}


@pytest.mark.slow
def test_a_face_is_seen_in_a_pool_of_real_clips(tmp_path: Path, media: Path, build_pool: BuildPool) -> None:
    require("faces", "speech")
    names = ("tennis.mp4", "dog.mp4", "telescope.mp4")
    scorers = "measure.scorers=[frame_measures, faces, speech]"
    pool = build_pool(*(media / name for name in names), sets=(scorers,), until="measure")
    faces, speech = values(pool, "num_faces"), values(pool, "speech_share")
    assert (faces["tennis"], faces["dog"]) == (1.0, 0.0)
    assert (speech["telescope"] or 0) > 0.3 and speech["dog"] == 0.0
