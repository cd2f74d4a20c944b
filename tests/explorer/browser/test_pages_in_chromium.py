"""Pages and player in a real browser: sizes, schemes, contrast, keys, drift; no error and no request to anybody else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from explorer_server import serving
from shown_runs import ShownRun, make_shown_run

from avpref.datasets import tables
from avpref.registry.study_files import StudyFiles

pytestmark = pytest.mark.browser

DRIFT_P95_MS, PLAYED_S = 15.0, 10.0

LOW_CONTRAST = """(() => {
  const parse = (text) => { const v = text.match(/[\\d.]+/g).map(Number); return [v[0], v[1], v[2], v[3] ?? 1]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0.99) return colour;
    }
    return [255, 255, 255, 1];
  };
  const low = [];
  for (const node of document.querySelectorAll("main *, header *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const box = node.getBoundingClientRect();
    if (!own || !box.width || node.closest("[hidden], svg, option, :disabled, .skip")) continue;
    const style = getComputedStyle(node);
    const [a, b] = [light(parse(style.color)), light(ground(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    const text = node.textContent.trim().slice(0, 30);
    if (ratio < (large ? 3 : 4.5)) low.push(`${node.tagName} ${node.className} ${text} ${ratio.toFixed(2)}`);
  }
  return low;
})()"""
UNNAMED = """[...document.querySelectorAll("button, a, input:not([type=hidden]), select, textarea")].filter((node) =>
  !node.textContent.trim() && !node.ariaLabel && !node.labels?.length && !node.title).map((node) => node.outerHTML)"""
PLAYER = "document.querySelector('[data-player]').player"


def paths_of(server: Any) -> dict[str, str]:
    """Name → path of every kind of page."""
    base = f"/run/{server.folder.run_id}"
    pair = server.folder.tables.read(tables.PAIRS)["pair_id"][0].as_py()
    (study,) = StudyFiles(server.folder.files).ids()
    grids = ("pairs", "candidates", "held-out", "skipped", "excluded", "quarantine")
    return {
        "runs": "/",
        "run": base,
        **{f"table-{grid}": f"{base}/table/{grid}" for grid in grids},
        "pair": f"{base}/pair/{pair}",
        "strategies": f"{base}/leaderboard",
        "votes": f"{base}/studies",
        "sql": f"{base}/sql?query=FROM%20pair_rows",
        "study": f"{base}/study/{study}",
        "welcome": f"/vote/{server.folder.run_id}/{study}",
        "ballot": f"/vote/{server.folder.run_id}/{study}/1",
        "thanks": f"/vote/{server.folder.run_id}/{study}/0",
        "error": f"{base}/pair/x0",
    }


@pytest.mark.parametrize("width", [380, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_can_be_read(
    open_page: Callable[..., Any], server: Any, images: Path, width: int, scheme: str
) -> None:
    watched = open_page(server.base, width, scheme)
    for name, path in paths_of(server).items():
        watched.problems.clear()
        watched.open(path)
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert watched.page.evaluate(LOW_CONTRAST) == [], name
        assert watched.page.evaluate(UNNAMED) == [], name
        if name != "error":
            assert watched.problems == [], name
        if name in ("pair", "table-pairs", "run"):
            watched.page.screenshot(path=images / f"explorer-{name}-{width}-{scheme}.png")


def test_the_keyboard_reaches_everything(open_page: Callable[..., Any], server: Any) -> None:
    watched = open_page(server.base)
    page = watched.page
    watched.open(f"/run/{server.folder.run_id}/table/pairs")
    page.keyboard.press("/")
    page.keyboard.type("take 1")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=take+1**")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/pair/**")
    page.wait_for_load_state("networkidle")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(f"{PLAYER}.position") == pytest.approx(2 / 25, abs=0.01)
    page.keyboard.press("b")
    assert page.evaluate(f"{PLAYER}.heard") == 1
    page.keyboard.press("l")
    page.keyboard.press("]")
    page.keyboard.press("s")
    assert page.evaluate(f"[{PLAYER}.loop, {PLAYER}.rate]") == [True, 1.5]
    assert page.locator(".stage.swapped").count() == 1
    page.keyboard.press(" ")
    page.get_by_role("button", name="Pause").wait_for()
    page.keyboard.press(" ")
    page.get_by_role("button", name="Play").wait_for()
    page.keyboard.press("?")
    assert page.locator("dialog[open]").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert watched.problems == []


def test_pictures_stay_in_step_with_the_sound(open_page: Callable[..., Any], server: Any) -> None:
    watched = open_page(server.base)
    page = watched.page
    watched.open(paths_of(server)["pair"])
    page.keyboard.press(" ")
    page.get_by_role("button", name="Pause").wait_for()
    sources = page.evaluate(f"window.before = {PLAYER}.sides.map((side) => side.source), 0")
    assert sources == 0
    page.evaluate(f"setTimeout(() => {PLAYER}.hear(1), 3000)")
    drift = page.evaluate(f"{PLAYER}.measure({PLAYED_S})")
    print(f"drift over {PLAYED_S:g} s: {drift}")
    assert drift["num"] > 50 and drift["p95"] <= DRIFT_P95_MS
    assert page.evaluate(
        f"{PLAYER}.heard === 1 && {PLAYER}.sides.every((side, n) => side.source === window.before[n])"
    ), "the change of the sound must not start the sounds again"
    heard = page.evaluate(f"{PLAYER}.sides.map((side) => side.heardS)")
    assert heard[0] > 2 and heard[1] > 5
    assert watched.problems == []


def test_a_clip_that_vanished_is_named_and_the_other_plays(open_page: Callable[..., Any], tmp_path: Path) -> None:
    folder = make_shown_run(tmp_path, ShownRun(train=1, held_out=0, num_frames=25, fps_hz=25.0))
    pair = folder.tables.read(tables.PAIRS).to_pylist()[0]
    path = next(
        row["path"]
        for row in folder.tables.read(tables.CANDIDATES).to_pylist()
        if row["candidate_id"] == pair["rejected"]
    )
    (folder.root / path).unlink()
    with serving(folder) as server:
        watched = open_page(server.base)
        watched.open(f"/run/{folder.run_id}/pair/{pair['pair_id']}")
        problem = watched.page.locator("[data-show=problem]")
        problem.wait_for()
        assert "is missing" in problem.inner_text()
