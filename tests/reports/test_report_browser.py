"""The report in a real browser: every clip plays, nothing is refused by the policy, no page is wider than its window."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from avpref.reports.plots import INK, LIGHT_INK
from avpref.storage.run_folder import RunFolder

pytestmark = pytest.mark.browser
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
START_S = 60.0

PLAY_ALL = """(async () => {
  const clips = [...document.querySelectorAll('video')];
  for (const clip of clips) { clip.muted = true; await clip.play(); }
  const moved = clip => new Promise(done => clip.addEventListener('timeupdate', () => clip.currentTime > 0 && done(true)));
  return Promise.all(clips.map(moved));
})()"""

DRAWN = """(async () => {
  const drawings = [...document.images];
  await Promise.all(drawings.map(drawing => drawing.decode()));
  return drawings.map(drawing => [drawing.naturalWidth, drawing.currentSrc]);
})()"""


class Tab:
    """A page of a browser, driven by the DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.count = socket, 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> Any:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(timeout=START_S))
            if answer.get("id") == self.count:
                return answer.get("result", answer)
            self.events.append(answer)

    def evaluate(self, expression: str) -> Any:
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, userGesture=True, returnByValue=True
        )
        return answer["result"]["value"]

    def wait_for(self, method: str) -> None:
        while method not in {event.get("method") for event in self.events}:
            self.events.append(json.loads(self.socket.recv(timeout=START_S)))


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    from websockets.sync.client import connect

    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    switches = (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
    )
    process = subprocess.Popen([program, *switches, "about:blank"], stderr=subprocess.DEVNULL)
    try:
        pages = _pages(folder / "DevToolsActivePort")
        with connect(
            next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"), max_size=None
        ) as socket:
            yield Tab(socket)
    finally:
        process.terminate()
        process.wait(timeout=START_S)


def _pages(port_file: Path) -> list[dict[str, Any]]:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if port_file.exists() and port_file.read_text().count("\n"):
            port = port_file.read_text().split()[0]
            pages = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=START_S))
            if any(page["type"] == "page" for page in pages):
                return pages
        time.sleep(0.1)
    raise TimeoutError("the browser did not start")


def test_clips_play_and_the_policy_refuses_nothing(tiny_run: RunFolder, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as tab:
        tab.call("Log.enable")
        tab.call("Page.enable")
        tab.call("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=1, mobile=True)
        tab.call("Page.navigate", url=(tiny_run.root / "report.html").as_uri())
        tab.wait_for("Page.loadEventFired")
        played = tab.evaluate(PLAY_ALL)
        assert played and all(played)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        styled = tab.evaluate("getComputedStyle(document.querySelector('header')).borderLeftStyle")
        assert styled == "solid"
        assert not [event for event in tab.events if event.get("method") == "Log.entryAdded"]


def test_drawings_follow_light_and_dark_mode(tiny_run: RunFolder, tmp_path: Path) -> None:
    with browser(tmp_path / "profile") as tab:
        tab.call("Page.enable")
        sources = {}
        for theme in ("light", "dark"):
            tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])
            tab.events.clear()
            tab.call("Page.navigate", url=(tiny_run.root / "report.html").as_uri())
            tab.wait_for("Page.loadEventFired")
            drawn = tab.evaluate(DRAWN)
            assert drawn and all(width > 0 for width, _ in drawn)
            sources[theme] = [base64.b64decode(source.partition(",")[2]) for _, source in drawn]
        assert all(INK.encode() in drawing for drawing in sources["light"])
        assert all(LIGHT_INK.encode() in drawing and INK.encode() not in drawing for drawing in sources["dark"])
