"""Moments: what a trap counts, whom it kills, and that nothing happens where nobody watches."""

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

VISITS = """
import os, sys
from avpref.storage.failpoints import FailPoint, hit
for visit in range(int(sys.argv[1])):
    hit(FailPoint.SEAL_LISTED)
    os.write(1, b".")
"""


@pytest.fixture(autouse=True)
def _nobody_watches() -> Iterator[None]:
    yield
    set_observer(None)


def visits(number: int, **environment: str) -> tuple[int, int]:
    """A process that comes to a moment so many times: how it ended, and how many visits it survived."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AVPREF_KILL")}
    done = subprocess.run(
        [sys.executable, "-c", VISITS, str(number)], env={**plain, **environment}, capture_output=True, check=False
    )
    return done.returncode, len(done.stdout)


def test_a_watcher_sees_the_moments_in_order_and_no_more_once_it_is_gone() -> None:
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
def test_the_environment_kills_at_the_visit_that_it_names(kill: str, number: int, end: tuple[int, int]) -> None:
    assert visits(number, AVPREF_KILL=kill) == end


def test_processes_that_share_a_folder_count_together(tmp_path: Path) -> None:
    """Each number is met once: the first process dies, those after it go on counting and live until the next number."""
    armed = {failpoints.KILL_VARIABLE: "seal.listed:3,8", failpoints.COUNTS_VARIABLE: str(tmp_path)}
    assert [visits(4, **armed) for _ in range(4)] == [(-signal.SIGKILL, 2), (0, 4), (-signal.SIGKILL, 0), (0, 4)]


@pytest.mark.parametrize("text", ["seal.listed", "seal.listed:", "seal.listed:x", "nowhere:1", "seal.listed:1,"])
def test_what_cannot_be_understood_names_the_moments(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KillAt.parse(text)
    assert all(moment in caught.value.expected for moment in FailPoint)
    assert visits(1, AVPREF_KILL=text)[0] == 1


def test_a_trap_without_a_folder_counts_in_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, number: killed.append(number))
    found = KillAt.parse("unit.committed:2,3")
    for moment in (FailPoint.UNIT_COMMITTED, FailPoint.SEAL_FILED, *[FailPoint.UNIT_COMMITTED] * 3):
        found(moment)
    assert killed == [signal.SIGKILL] * 2
