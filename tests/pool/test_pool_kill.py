"""A pool that is killed anywhere ends as if nothing had been, and does again at most what was in flight; one actor or two agree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pool_clips import plain_video, with_cuts

from avpref.pool.pool_folder import open_pool_folder
from avpref.pool.pool_tables import CLIPS, DECISIONS, MEASURES, WRITTEN
from avpref.storage.event_log import read_events

ROOT = Path(__file__).parents[2]
NUM_VIDEOS, UNIT = 8, 2
COMPARED = (CLIPS, MEASURES, DECISIONS, WRITTEN)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(NUM_VIDEOS - 1):
        plain_video(folder / f"{number}.mp4", 100 + number, 2.2)
    with_cuts(folder / "cuts.mp4", [55, 60], seed=200)
    return folder


def build(videos: Path, pools: Path, executor: str, kill: str = "") -> int:
    words = ["--source", str(videos), "--pools", str(pools), "--json", "--config", str(ROOT / "configs" / "pool.yaml")]
    sets = [f"executor={executor}", "measure.optional=[]", "filter.filters=[]", f"run.unit_candidates={UNIT}"]
    sets += ["measure.scorers=[frame_measures, sound_measures, flow_measures]"]
    command = [sys.executable, "-m", "avpref.cli.main", "pool", "build", *words]
    command += [word for value in sets for word in ("--set", value)]
    environment = {**os.environ, "AVPREF_KILL": kill} if kill else dict(os.environ)
    return subprocess.run(command, capture_output=True, env=environment, cwd=ROOT).returncode


def content(pools: Path) -> dict[str, list[str]]:
    """The rows of the tables without times."""
    pool = open_pool_folder(pools)
    rows = {table.name: pool.tables.read(table).to_pylist() for table in COMPARED}
    return {
        name: sorted(json.dumps({**row, "elapsed_ms": 0}, sort_keys=True, default=str) for row in part)
        for name, part in rows.items()
    }


def started(pools: Path) -> dict[str, int]:
    """Number of units that were started, by stage, over all executions."""
    counts: dict[str, int] = {}
    for event, _ in read_events(open_pool_folder(pools).root / "events.jsonl"):
        if event["event"] == "unit_started":
            counts[event["stage"]] = counts.get(event["stage"], 0) + 1
    return counts


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[str]], dict[str, int]]:
    pools = tmp_path_factory.mktemp("undisturbed")
    assert build(videos, pools, "{kind: in_process}") == 0
    return content(pools), started(pools)


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    ["write.begun:6", "commit.linked:9", "unit.committed:3", "unit.committed:7", "seal.listed:2", "seal.filed:5"],
)
def test_a_killed_pool_is_continued_and_repeats_one_unit_at_most(
    point: str, videos: Path, tmp_path: Path, undisturbed: tuple[dict[str, list[str]], dict[str, int]]
) -> None:
    assert build(videos, tmp_path, "{kind: in_process}", kill=point) == -signal.SIGKILL
    assert build(videos, tmp_path, "{kind: in_process}") == 0
    rows, counts = undisturbed
    assert content(tmp_path) == rows
    assert sum(started(tmp_path).values()) <= sum(counts.values()) + 1


@pytest.mark.slow
@pytest.mark.parametrize("num_actors", [1, 2])
def test_actors_give_the_same_rows(
    num_actors: int, videos: Path, tmp_path: Path, undisturbed: tuple[dict[str, list[str]], dict[str, int]]
) -> None:
    assert build(videos, tmp_path, f"{{kind: ray, num_actors: {num_actors}}}") == 0
    assert content(tmp_path) == undisturbed[0] and started(tmp_path) == undisturbed[1]
