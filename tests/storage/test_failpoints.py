"""Fail points: the counts of ``KillAt``, the processes that it kills, and that nothing happens without an observer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from avpref.errors import ConfigError
from avpref.storage import failpoints
from avpref.storage.failpoints import FailPoint, KillAt, hit, set_observer

HITS = """
import os, sys
from avpref.storage.failpoints import FailPoint, hit
for _ in range(int(sys.argv[1])):
    hit(FailPoint.SEAL_LISTED)
    os.write(1, b".")
"""


@pytest.fixture(autouse=True)
def _no_observer() -> Iterator[None]:
    yield
    set_observer(None)


def killed_after(number: int, **environment: str) -> tuple[int, int]:
    """Run a process with ``number`` hits of one fail point: its exit status, and how many hits it survived."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AVPREF_KILL")}
    done = subprocess.run(
        [sys.executable, "-c", HITS, str(number)], env={**plain, **environment}, capture_output=True, check=False
    )
    return done.returncode, len(done.stdout)


def test_an_observer_sees_the_hits_in_order_until_it_is_removed() -> None:
    seen: list[FailPoint] = []
    set_observer(seen.append)
    hit(FailPoint.WRITE_BEGUN)
    hit(FailPoint.COMMIT_DONE)
    set_observer(None)
    hit(FailPoint.RESULT_DUE)
    assert seen == [FailPoint.WRITE_BEGUN, FailPoint.COMMIT_DONE]


@pytest.mark.parametrize(
    ("kill", "number", "end"),
    [
        ("seal.listed:3", 9, (-signal.SIGKILL, 2)),
        ("seal.listed:3", 2, (0, 2)),
        ("seal.pointed:1 seal.listed:2,1", 9, (-signal.SIGKILL, 0)),
        ("seal.pointed:1", 4, (0, 4)),
        ("", 4, (0, 4)),
    ],
)
def test_the_environment_kills_at_the_hit_that_it_names(kill: str, number: int, end: tuple[int, int]) -> None:
    assert killed_after(number, AVPREF_KILL=kill) == end


def test_processes_that_share_a_folder_count_together(tmp_path: Path) -> None:
    """Each number is met once: the first process dies, those after it go on counting and live until the next number."""
    armed = {failpoints.KILL_VARIABLE: "seal.listed:3,8", failpoints.COUNTS_VARIABLE: str(tmp_path)}
    assert [killed_after(4, **armed) for _ in range(4)] == [(-signal.SIGKILL, 2), (0, 4), (-signal.SIGKILL, 0), (0, 4)]


@pytest.mark.parametrize("text", ["seal.listed", "seal.listed:", "seal.listed:x", "nowhere:1", "seal.listed:1,"])
def test_text_of_another_form_is_refused_with_the_known_points(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KillAt.parse(text)
    assert all(point in caught.value.expected for point in FailPoint)
    assert killed_after(1, AVPREF_KILL=text)[0] == 1


def test_without_a_folder_hits_are_counted_in_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append(number))
    kill_at = KillAt.parse("unit.committed:2,3")
    for point in (FailPoint.UNIT_COMMITTED, FailPoint.SEAL_FILED, *[FailPoint.UNIT_COMMITTED] * 3):
        kill_at(point)
    assert killed == [signal.SIGKILL] * 2
