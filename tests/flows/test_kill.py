"""kill -9 at many points: the run continues from there and ends as if nothing had happened.

Each fail point of :mod:`avpref.storage.failpoints` is hit on purpose, without a race. ``tests/chaos``
has the killer and the invariants that are checked after each death; ``make chaos`` does the same some hundred times.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fork_server import PATIENCE_S, ForkServer
from invariants import same_end
from kill_campaign import KillCampaign

from avpref.config.executor_settings import RayExecutor
from avpref.config.loading import load_config
from avpref.flows.retrain import run_loop
from avpref.identity import derive_seed
from avpref.storage.failpoints import FailPoint
from avpref.storage.run_folder import RunFolder, create, open_root

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
OFTEN = (FailPoint.WRITE_SYNCED, FailPoint.COMMIT_LINKED, FailPoint.MEDIA_COMMITTED, FailPoint.UNIT_COMMITTED)
"""Fail points that every unit hits: the process is killed there more than once, at hits that a seed draws."""
STRIKES, LATEST = 3, 5


def drawn(seed: int) -> dict[FailPoint, list[int]]:
    """Each fail point at its first hit, and the frequent ones at later hits too, some in one life and some in the next."""
    generator = np.random.Generator(np.random.PCG64(derive_seed("kill", seed)))
    hits = {point: [1] for point in FailPoint}
    return hits | {point: generator.integers(1, LATEST, STRIKES, endpoint=True).tolist() for point in OFTEN}


def test_a_loop_that_is_killed_where_units_are_committed_ends_like_one_that_was_not(
    tiny_run: RunFolder, tmp_path: Path, fork_server: ForkServer
) -> None:
    campaign = KillCampaign(fork_server, create(tmp_path / "runs", load_config(TINY, environment={}).settings))
    assert not campaign.at_failpoints({point: drawn(1)[point][:1] for point in OFTEN})
    assert set(campaign.kills) == set(OFTEN)
    same_end(campaign.folder, tiny_run)


@pytest.mark.slow
def test_a_loop_that_is_killed_at_every_fail_point_ends_like_one_that_was_not(
    tiny_run: RunFolder, tmp_path: Path, fork_server: ForkServer
) -> None:
    campaign = KillCampaign(fork_server, create(tmp_path / "runs", load_config(TINY, environment={}).settings))
    never = campaign.at_failpoints(drawn(0))
    assert not never, "the harness lists a fail point that a tiny run does not hit"
    assert set(campaign.kills) == set(FailPoint) and campaign.kills.total() >= 25
    same_end(campaign.folder, tiny_run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_loop_that_is_killed_at_random_moments_ends_like_one_that_was_not(
    tiny_run: RunFolder, tmp_path: Path, fork_server: ForkServer, seed: int
) -> None:
    """Each execution dies a random while after its beginning, a little later each time so that all stages have their turn."""
    generator = np.random.Generator(np.random.PCG64(derive_seed("kill at random", seed)))
    campaign = KillCampaign(fork_server, create(tmp_path / "runs", load_config(TINY, environment={}).settings))
    for n in range(40):
        campaign.after(float(generator.uniform(0.02, 0.4) * (1 + n / 4)))
    campaign.finish()
    assert campaign.kills.total() >= 5
    same_end(campaign.folder, tiny_run)


def test_wall_clocks_that_jump_change_nothing(tiny_run: RunFolder, tmp_path: Path, fork_server: ForkServer) -> None:
    """The clock goes back a day and forward a year from stage to stage; between two lives every file's time is set anew."""
    day_s, year_s = 86400.0, 365 * 86400.0
    campaign = KillCampaign(fork_server, create(tmp_path / "runs", load_config(TINY, environment={}).settings))
    root = campaign.folder.root
    fork_server.start(root, f"{FailPoint.CHECKPOINT_VISIBLE}:2", (-day_s, year_s))
    assert campaign.settle(fork_server.ended(PATIENCE_S)) == -signal.SIGKILL
    generator = np.random.Generator(np.random.PCG64(derive_seed("times of files")))
    for path in [path for path in sorted(root.rglob("*")) if path.is_file()]:
        changed_s = time.time() + float(generator.uniform(-year_s, year_s))
        os.utime(path, (changed_s, changed_s))
    campaign.forget_times()
    fork_server.start(root, "", (year_s, -day_s))
    assert campaign.settle(fork_server.ended(PATIENCE_S)) == 0
    same_end(campaign.folder, tiny_run)


def wait_for(root: Path, pattern: str, count: int, ended: Callable[[], int | None]) -> int | None:
    """Return once ``count`` files match, or with the exit status of a loop that ended before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if sum(1 for _ in root.glob(pattern)) >= count:
            return None
        status = ended()
        if status is not None:
            return status
        time.sleep(0.002)
    raise AssertionError(f"nothing like {pattern} after {PATIENCE_S} s")


# a whole Ray cluster dies with its driver

RAY_LOOP = """
import sys
from pathlib import Path
from avpref.flows import retrain
from avpref.storage import run_folder
retrain.run_loop(run_folder.open_root(Path(sys.argv[1])))
"""
MARK = "AVPREF_TEST_DRIVER"


def marked(mark: str) -> list[int]:
    """Processes that were started, directly or not, with ``mark`` in their environment."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                processes.append(int(path.parent.name))
    return processes


@contextlib.contextmanager
def ray_driver(root: Path, mark: str) -> Iterator[subprocess.Popen[bytes]]:
    """The loop on Ray in a process group of its own; whatever it started is gone after the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", RAY_LOOP, str(root)],
        env={**os.environ, MARK: mark},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for survivor in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(survivor, signal.SIGKILL)
        for session in Path(tempfile.gettempdir()).glob(f"avpref-ray-*/session_*_{process.pid}"):
            shutil.rmtree(session, ignore_errors=True)


def killed_on_ray(folder: RunFolder, pattern: str, count: int, delay_s: float) -> None:
    """Run until ``pattern`` matches, kill driver and cluster, and see that no process is left."""
    mark = f"{os.getpid()}-{derive_seed(str(folder.root), pattern, count)}"
    with ray_driver(folder.root, mark) as driver:
        assert wait_for(folder.root, pattern, count, driver.poll) is None, "ended before the kill"
        time.sleep(delay_s)
        assert len(marked(mark)) > 3  # the driver, the cluster's own processes, the actors
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
        deadline = time.monotonic() + PATIENCE_S
        while marked(mark) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not marked(mark), "processes that outlived their driver"


def on_ray(folder: RunFolder) -> RunFolder:
    """The run as another command with two actors would open it."""
    on_two_actors = RunFolder(folder.root, folder.settings.model_copy(update={"executor": RayExecutor(num_actors=2)}))
    with on_two_actors.locked():
        return open_root(folder.root)


@pytest.mark.slow
def test_a_ray_loop_that_is_killed_leaves_no_process_and_ends_in_one_process(
    tiny_run: RunFolder,
    tiny_copy: Callable[..., RunFolder],
    finished_marks: Callable[[Path], dict[str, object]],
) -> None:
    folder = tiny_copy("generate")
    killed_on_ray(on_ray(folder), "units/generate/*/*.parquet", 6, 0.05)
    before = finished_marks(folder.root)
    run_loop(folder)
    assert before.items() <= finished_marks(folder.root).items()
    same_end(folder, tiny_run)


@pytest.mark.slow
def test_a_ray_loop_that_is_killed_in_every_pool_ends_on_ray(
    tiny_run: RunFolder,
    tmp_path: Path,
    finished_marks: Callable[[Path], dict[str, object]],
) -> None:
    folder = on_ray(create(tmp_path / "runs", load_config(TINY, environment={}).settings))
    kept: dict[str, object] = {}
    for pattern, count in (
        ("units/sft_clips/*/*.parquet", 2),
        ("units/generate/*/*.parquet", 3),
        ("units/score/*/*.parquet", 2),
        ("units/encode/*/*.parquet", 1),
        ("units/evaluate/*/*.parquet", 1),
    ):
        killed_on_ray(folder, pattern, count, 0.0)
        now = finished_marks(folder.root)
        assert kept.items() <= now.items()
        kept = now
    with ray_driver(folder.root, f"{os.getpid()}-end") as driver:
        assert driver.wait(PATIENCE_S) == 0
    assert kept.items() <= finished_marks(folder.root).items()
    same_end(folder, tiny_run)
