"""The real clips: all are read and measured, three are one scene each, and none is taken for a duplicate."""

from __future__ import annotations

from pathlib import Path

import pytest
from pool_clips import BuildPool

from avpref.pool.pool_tables import CLIPS, RECORDINGS, SIMILAR


@pytest.mark.slow
def test_real_clips_become_clips_with_plausible_measures(media: Path, tmp_path: Path, build_pool: BuildPool) -> None:
    names = ("dog.mp4", "tennis.mp4", "whale.mp4", "telescope.mp4")
    scorers = "measure.scorers=[frame_measures, sound_measures, flow_measures, sync_measures]"
    pool = build_pool(*(media / name for name in names), sets=(scorers,), until="measure")
    assert pool.tables.num_rows(SIMILAR) == 0
    assert [row["is_used"] for row in pool.tables.read(RECORDINGS).to_pylist()] == [True] * 4
    with pool.connect() as con:
        rows = con.execute(
            "SELECT regexp_extract(uri, '[a-z]+.mp4') AS name, measure, value FROM all_measures"
            " JOIN clips USING (clip_id) JOIN listed USING (source_id) WHERE value IS NOT NULL"
        ).fetchall()
    values: dict[str, dict[str, list[float]]] = {}
    for name, measure, value in rows:
        values.setdefault(name, {}).setdefault(measure, []).append(value)
    assert set(values) == set(names)
    for name in names:
        assert all(0 < flow < 200 for flow in values[name]["flow_px"])
        assert all(-60 < loudness < 0 for loudness in values[name]["loudness_lufs"])
        assert all(share == 0.0 for share in values[name]["black_share"])
    scenes: dict[str, set[int]] = {}
    for clip in pool.tables.read(CLIPS).to_pylist():
        scenes.setdefault(clip["source_id"], set()).add(clip["scene"])
    assert sorted(map(len, scenes.values()))[:3] == [1, 1, 1]
