"""Pages of a pool in a real browser: they fit, a filter by a measure works, and a clip plays with its sound."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from explorer_server import serving_pool
from pool_clips import plain_video, scene, tune, write_video

from avpref.pool.pool_folder import create_pool
from avpref.pool.pool_stages import STAGES, configured, owned, run_stages

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[3]
SETS = (
    "executor={kind: in_process}",
    "measure.optional=[]",
    "measure.scorers=[frame_measures, sound_measures, flow_measures]",
    "filter.filters=[{name: still, measure: static_share, max: 0.9}]",
    "write.text=a pattern",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("shown-pool")
    (folder / "videos").mkdir()
    plain_video(folder / "videos" / "moving.mp4", 1)
    write_video(folder / "videos" / "still.mp4", scene(2, 1).repeat(75, 0), tune(2, 3.0))
    pool = create_pool(
        folder / "pools", configured(str(ROOT / "configs" / "pool.yaml"), [str(folder / "videos")], SETS)
    )
    with owned(pool):
        run_stages(pool, STAGES)
    with serving_pool(folder / "pools") as base:
        yield base


@pytest.mark.parametrize("width", [380, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_of_a_pool_fit_and_a_clip_plays(
    open_page: Callable[..., Any], address: str, images: Path, width: int, scheme: str
) -> None:
    watched = open_page(address, width, scheme)
    for name, path in {"funnel": "/", "sources": "/table/sources", "lost": "/table/lost"}.items():
        watched.open(path)
        watched.page.screenshot(path=str(images / f"pool-{name}-{width}-{scheme}.png"), full_page=True)
        assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name
    watched.open("/table/clips")
    watched.page.select_option("select[name=column]", "flow_px")
    watched.page.select_option("select[name=operator]", "≥")
    watched.page.fill("input[name=value]", "1")
    watched.page.click("#controls button")
    watched.page.wait_for_load_state("networkidle")
    rows = watched.page.locator("table.rows tbody tr")
    assert rows.count() == 1 and "moving.mp4" in rows.first.inner_text()
    watched.page.screenshot(path=str(images / f"pool-clips-{width}-{scheme}.png"), full_page=True)
    rows.first.locator("a").click()
    watched.page.wait_for_load_state("networkidle")
    watched.page.click("[data-do=play]")
    watched.page.wait_for_timeout(1500)
    assert watched.page.evaluate("document.querySelector('video').currentTime") > 0.3
    watched.page.screenshot(path=str(images / f"pool-clip-{width}-{scheme}.png"), full_page=True)
    assert watched.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert watched.problems == []
