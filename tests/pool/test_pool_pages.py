"""Pages over a pool: the funnel, tables that are filtered by measures, clips with sound, and errors as pages."""

from __future__ import annotations

import io
import wave
from pathlib import Path

import pytest
from pool_clips import BuildPool, plain_video, scene, tune, write_video
from starlette.testclient import TestClient

from avpref.explorer.access import Access
from avpref.pool.pages.pool_database import open_pool_pages
from avpref.pool.pages.pool_site import pool_application
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import DECISIONS

STILL = "filter.filters=[{name: still, measure: static_share, max: 0.9}]"


@pytest.fixture
def pool(tmp_path: Path, build_pool: BuildPool) -> PoolFolder:
    """Three sources: one kept clip that is not written, one that a filter removes, one refused."""
    folder = tmp_path / "videos"
    folder.mkdir()
    plain_video(folder / "moving.mp4", 1)
    (folder / "moving.txt").write_text("a <pattern> moves")
    write_video(folder / "still.mp4", scene(2, 1).repeat(75, 0), tune(2, 3.0))
    write_video(folder / "mute.mp4", scene(3, 75), None)
    return build_pool(folder, sets=(STILL,), until="filter")


def client_of(pool: PoolFolder) -> TestClient:
    site = pool_application(open_pool_pages(pool.runs, pool.root.name), Access("127.0.0.1", 80))
    return TestClient(site, base_url="http://127.0.0.1")


def text(client: TestClient, path: str, status: int = 200) -> str:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    return answer.text


def test_pages_show_the_funnel_the_tables_and_a_clip_with_its_sound(pool: PoolFolder) -> None:
    client = client_of(pool)
    overview = text(client, "/")
    assert "after still" in overview and "no sound" in overview and "loudness_lufs" in overview
    clips = text(client, "/table/clips")
    assert "moving.mp4" in clips and "still.mp4" in clips and "a &lt;pattern&gt; moves" in clips
    strict = text(client, "/table/clips?where=flow_px~≥~1")
    assert "moving.mp4" in strict and "still.mp4" not in strict
    removed = text(client, "/table/clips?where=decision~=~still")
    assert "still.mp4" in removed and "static_share" in removed and "moving.mp4" not in removed
    assert "mute.mp4" in text(client, "/table/lost?where=stage~=~scan")
    assert "mute.mp4" in text(client, "/table/sources?where=state~=~refused")
    kept = next(row["clip_id"] for row in pool.tables.read(DECISIONS).to_pylist() if row["is_kept"])
    page = text(client, f"/clip/{kept}?sort=-flow_px")
    assert "Decision: kept" in page and "flow_px" in page and "1 of 2" in page
    picture = client.get(f"/clip/{kept}/picture", headers={"Range": "bytes=4-7"})
    assert picture.status_code == 206 and picture.content == b"ftyp"
    with wave.open(io.BytesIO(client.get(f"/clip/{kept}/sound").content)) as sound:
        assert sound.getnframes() / sound.getframerate() == pytest.approx(3.0, abs=0.1)
    assert client.get(f"/clip/{kept}/spectrogram").content.startswith(b"\x89PNG")
    assert client.get(f"/clip/{kept}/curves").json()["has_sound"]
    assert "Content-Security-Policy" in client.get("/").headers


def test_a_pool_that_continues_shows_its_new_state_and_wrong_addresses_are_pages(
    pool: PoolFolder, build_pool: BuildPool, tmp_path: Path
) -> None:
    client = client_of(pool)
    assert "1 of 2" in text(client, "/table/clips?where=decision~=~kept")
    for path, status in {"/clip/k0": 404, "/table/none": 400, "/table/clips?where=x~=~1": 400}.items():
        assert "Expected" in text(client, path, status)
    opened = open_pool_pages(pool.runs, pool.root.name)
    (clip,) = opened.cursor().execute("SELECT clip_id FROM clip_rows WHERE source = 'still.mp4'").fetchone() or ("",)
    assert client.get(f"/clip/{clip}/curves/none").status_code == 404
    (tmp_path / "videos" / "still.mp4").unlink()
    assert "is gone" in text(client_of(pool), f"/clip/{clip}/sound", 404)
    plain_video(tmp_path / "videos" / "still.mp4", 9)
    build_pool(tmp_path / "videos", sets=(STILL,))
    again = client_of(pool)
    assert "Kept clips" in text(again, "/") and "2" in text(again, "/table/clips?where=decision~=~kept")
    assert len(list((pool.runs / ".explorer" / pool.root.name).glob("tables-*"))) == 1
