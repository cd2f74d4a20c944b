"""The nightly deployment of a pool on a real server: every stage is a subflow, and a second night computes new files alone."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from pool_clips import plain_video

from avpref.pool.pool_folder import open_pool_folder
from avpref.pool.pool_stages import STAGES
from avpref.pool.pool_tables import WRITTEN
from avpref.storage.event_log import read_events

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

NAME = "pool-build/nightly-pool"
OVERRIDES = [
    "executor={kind: in_process}",
    "measure.optional=[]",
    "measure.scorers=[frame_measures, sound_measures]",
    "filter.filters=[]",
]


def made(pools: Path) -> dict[str, int]:
    """Items computed by the last execution of each stage."""
    events = read_events(open_pool_folder(pools).root / "events.jsonl")
    return {event["stage"]: event["made"] for event, _ in events if event["event"] == "stage_items"}


def test_a_second_night_computes_new_files_alone(make_server: Callable[..., Any], tmp_path: Path) -> None:
    videos, pools = tmp_path / "videos", tmp_path / "pools"
    videos.mkdir()
    for number in range(3):
        plain_video(videos / f"{number}.mp4", 300 + number, 2.4)
    server = make_server()
    server.deploy()
    server.worker()

    def asked() -> str | None:
        """The id of a new flow run; None while the server's database is busy."""
        try:
            return str(server.run_deployment(NAME, pools=str(pools), sources=[str(videos)], overrides=OVERRIDES))
        except HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            return None

    def night() -> dict[str, Any]:
        run = server.until("a flow run", asked)
        ended = server.until("the pool", lambda: state if (state := server.flow_run(run))["end_time"] else None)
        assert ended["state_name"] == "Completed", server.logs()
        return dict(ended)

    first = night()
    stages = server.until("subflows", lambda: runs if len(runs := server.stages(first)) == len(STAGES) else None)
    assert stages == {stage.name: "Completed" for stage in STAGES}
    artifacts = server.until("artifacts", lambda: server.of_runs("artifacts", [first, *server.children(first)]))
    assert "pool-funnel" in {artifact["key"].removeprefix("avpref-") for artifact in artifacts}
    assert (made(pools)["scan"], open_pool_folder(pools).tables.num_rows(WRITTEN)) == (3, 3)
    plain_video(videos / "new.mp4", 400, 2.4)
    night()
    counts = made(pools)
    assert [counts[name] for name in ("scan", "write")] == [1, 1] and counts["measure"] == 2
    assert open_pool_folder(pools).tables.num_rows(WRITTEN) == 4
