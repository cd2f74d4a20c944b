"""A full or read-only disk: the run ends with an error that names path and fix, and goes on once there is space. Uses real file systems."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fork_server import PATIENCE_S, ForkServer
from invariants import finished, same_end
from kill_campaign import KillCampaign

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.config.loading import load_config
from avpref.errors import StorageError
from avpref.execution.contract import Receipt
from avpref.execution.pool import InProcessPool
from avpref.flows.retrain import run_loop
from avpref.flows.run import Run
from avpref.flows.stages.generate import generate
from avpref.storage.failpoints import FailPoint
from avpref.storage.run_folder import RunFolder, create, open_root
from avpref.storage.unit import Unit

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
PAGE_KB = 4


class Disk:
    """A file system in memory of a size that can be changed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mount(self, options: str) -> None:
        self._run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.path))

    def remount(self, options: str) -> None:
        self._run("mount", "-o", f"remount,{options}", str(self.path))

    def used_kb(self) -> int:
        return shutil.disk_usage(self.path).used // 1024

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=False)

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    mounted = Disk(tmp_path / "disk")
    mounted.path.mkdir()
    try:
        mounted.mount("size=64m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount a file system here: {error}")
    yield mounted
    mounted.unmount()


def last_error(fork_server: ForkServer) -> str:
    return fork_server.errors.read_text().rpartition("avpref.errors.")[2]


@pytest.mark.slow
def test_a_run_on_a_disk_that_fills_again_and_again_ends_like_any_other(
    disk: Disk, tiny_run: RunFolder, fork_server: ForkServer
) -> None:
    """The disk grows by a little after each failure, so that every stage finds it full once; nothing that was whole is damaged."""
    campaign = KillCampaign(
        fork_server, create(disk.path / "runs", load_config(TINY, environment={}).settings), may_fail_with=1
    )
    needed_kb = sum(-(-path.stat().st_size // 1024 // PAGE_KB) * PAGE_KB for path in tiny_run.root.rglob("*"))
    failures = 0
    size_kb = disk.used_kb() + PAGE_KB
    while True:
        disk.remount(f"size={size_kb}k")
        fork_server.start(campaign.folder.root)
        if campaign.settle(fork_server.ended(PATIENCE_S)) == 0:
            break
        failures += 1
        assert failures < 12
        error = last_error(fork_server)
        assert error.startswith("StorageError: no space left while writing "), error
        assert str(campaign.folder.root) in error and "df -h" in error
        size_kb += needed_kb // 8
    assert failures >= 4
    same_end(campaign.folder, tiny_run)


def test_a_run_in_a_folder_that_became_read_only_says_so_and_goes_on_afterwards(
    disk: Disk, tiny_run: RunFolder, fork_server: ForkServer
) -> None:
    campaign = KillCampaign(
        fork_server, create(disk.path / "runs", load_config(TINY, environment={}).settings), may_fail_with=1
    )
    fork_server.start(campaign.folder.root, f"{FailPoint.MEDIA_COMMITTED}:9")
    assert campaign.settle(fork_server.ended(PATIENCE_S)) == -signal.SIGKILL
    disk.remount("ro")
    fork_server.start(campaign.folder.root)
    assert campaign.settle(fork_server.ended(PATIENCE_S)) == 1
    error = last_error(fork_server)
    assert re.match(rf"StorageError: cannot write {campaign.folder.root}\S*: Read-only file system", error), error
    assert "writable" in error
    disk.remount("rw")
    campaign.finish()
    same_end(campaign.folder, tiny_run)


def on_disk(disk: Disk, tiny_copy: Callable[..., RunFolder], executor: InProcessExecutor | RayExecutor) -> RunFolder:
    """A run before stage ``generate``, on a disk with space for only some of its clips."""
    copy = tiny_copy("generate")
    root = disk.path / copy.root.name
    shutil.copytree(copy.root, root)
    changed = RunFolder(root, copy.settings.model_copy(update={"executor": executor}))
    with changed.locked():
        pass
    disk.remount(f"size={disk.used_kb() + 40 * PAGE_KB}k")
    return open_root(root)


@pytest.mark.slow
def test_actors_on_a_full_disk_stop_the_run_and_no_candidate_is_quarantined(
    disk: Disk, tiny_run: RunFolder, tiny_copy: Callable[..., RunFolder], ray_cluster: int
) -> None:
    folder = on_disk(disk, tiny_copy, RayExecutor(num_actors=2))
    with pytest.raises(StorageError, match="no space left while writing"):
        generate.fn(Run.of(folder))
    events = (folder.root / "events.jsonl").read_text()
    assert '"event": "quarantined"' not in events and '"OSError"' not in events
    kept = finished(folder.root)
    disk.remount("size=64m")
    run_loop(folder)
    assert kept.items() <= finished(folder.root).items()
    same_end(folder, tiny_run)


class Spilling:
    """A worker whose library writes to a full disk."""

    def build(self) -> Spilling:
        return self

    def run(self, unit: Unit) -> Receipt:
        with open("/dev/full", "wb", buffering=0) as stream:
            stream.write(b"x")
        raise AssertionError("written")


def test_a_full_disk_inside_a_library_is_a_fatal_storage_error(tmp_path: Path) -> None:
    pool = InProcessPool(Spilling())
    pool.submit(Unit("score", 0, "f", ()))
    failure = pool.next_done().failure
    assert failure is not None and failure.is_fatal and isinstance(failure.cause, StorageError)
