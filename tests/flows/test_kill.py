"""kill -9 at many moments: the run goes on where it was, and ends as if nothing had happened.

The loop runs in processes of their own, in process groups of their own, and the whole group is killed. Starting Python
anew for each would take minutes, so a nursery process imports once and forks; what it forks is as mortal as any.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from avpref import config
from avpref.datasets.tables import CANDIDATES
from avpref.flows.retrain import run_loop
from avpref.flows.run_folder import RunFolder, create, open_root
from avpref.identity import derive_seed, file_sha256
from avpref.settings import RayExecutor

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
PATIENCE_S = 240.0

NURSERY = """
import os, sys, traceback
from pathlib import Path
from avpref import cluster
from avpref.flows import generating, rendering, retrain, run_folder, scoring

def noted(worker, unit, attempt=cluster.attempt):
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, f"{unit.stage}/{unit.fingerprint}/{unit.name}.parquet\\n".encode())
    os.close(log)
    return attempt(worker, unit)

cluster.attempt = noted
for line in sys.stdin:
    child = os.fork()
    if not child:
        os.setsid()
        try:
            retrain.run_loop(run_folder.open_root(Path(line.strip())))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

MOMENTS = (
    ("tables/prompts/CURRENT", 1),
    ("units/sft_clips/*/*.parquet", 2),
    ("models/sft-*/clips.safetensors", 1),
    ("models/sft-*/audio_stage/checkpoints/step_*", 1),
    ("models/sft-*/checkpoints/step_*", 1),
    ("models/sft-*/network.safetensors", 1),
    ("clips/*/*.mp4", 9),
    ("units/generate/*/*.parquet", 6),
    ("units/generate/*/*.parquet", 13),
    ("tables/candidates/CURRENT", 1),
    ("units/score/*/*.parquet", 5),
    ("tables/scores/*.parquet", 1),
    ("tables/norms/CURRENT", 1),
    ("tables/pairs/CURRENT", 1),
    ("units/encode/*/*.parquet", 1),
    ("models/dpo-*/checkpoints/step_*", 1),
    ("models/dpo-*/adapter/adapter_model.safetensors", 1),
    ("units/evaluate/*/*.parquet", 1),
    ("tables/evaluations/CURRENT", 1),
    ("result.json", 1),
)
"""(files to wait for, how many) before the kill: every stage, and the seams between them."""
AFTER_S = (0.0, 0.0, 0.01, 0.1)
"""Delays between the moment and the kill, one drawn for each."""


@dataclass
class Nursery:
    """Forks the loop on request, and kills it."""

    process: subprocess.Popen[bytes]
    log: Path
    errors: Path
    child: int = 0
    unread: bytes = b""

    def start(self, root: Path) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{root}\n".encode())
        self.process.stdin.flush()
        self.child = int(self._line(PATIENCE_S) or 0)
        assert self.child, self.errors.read_text()

    def ended(self, wait_s: float = 0.0) -> int | None:
        """The child's exit status, or None while it runs."""
        line = self._line(wait_s)
        return None if line is None else int(line)

    def kill(self) -> int:
        """SIGKILL to the child's whole group; how the child ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL)
        status = self.ended(PATIENCE_S)
        assert status is not None
        return status

    def attempted(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def _line(self, wait_s: float) -> bytes | None:
        """The next line, or None after ``wait_s``. Reads the descriptor itself: select knows nothing of Python's buffers."""
        assert self.process.stdout is not None
        while b"\n" not in self.unread:
            if not select.select([self.process.stdout], [], [], wait_s)[0]:
                return None
            more = os.read(self.process.stdout.fileno(), 4096)
            assert more, self.errors.read_text()
            self.unread += more
        line, _, self.unread = self.unread.partition(b"\n")
        return line


@pytest.fixture
def nursery(tmp_path: Path) -> Iterator[Nursery]:
    log, errors = tmp_path / "attempts.log", tmp_path / "errors.log"
    with open(errors, "wb") as stream:
        arguments = [sys.executable, "-c", NURSERY, str(log)]
        process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, start_new_session=True
        )
    found = Nursery(process, log, errors)
    try:
        yield found
    finally:
        for group in (found.child, process.pid):
            with contextlib.suppress(ProcessLookupError):
                if group:
                    os.killpg(group, signal.SIGKILL)
        process.communicate()


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


def same_end(folder: RunFolder, reference: RunFolder, sealed: Callable[[RunFolder, str], list[bytes]]) -> None:
    for table in ("norms", "pairs", "skipped", "evaluations", "gate_decisions"):
        assert sealed(folder, table) == sealed(reference, table), table
    made, expected = (each.read(CANDIDATES).drop_columns("elapsed_s").to_pylist() for each in (folder, reference))
    assert made == expected
    for pattern in ("models/sft-*/network.safetensors", "models/dpo-*/adapter/adapter_model.safetensors"):
        hashes = [{p.relative_to(f.root): file_sha256(p) for p in f.root.glob(pattern)} for f in (folder, reference)]
        assert hashes[0] == hashes[1] != {}
    assert (folder.root / "result.json").exists()


def killed_everywhere(
    nursery: Nursery,
    folder: RunFolder,
    moments: list[tuple[str, int, float]],
    marks_of: Callable[[Path], dict[str, object]],
) -> int:
    """Start, wait for each moment, kill; then let it finish. Nothing that was finished at a kill is touched again."""
    kept: dict[str, object] = {}
    done: set[str] = set()
    kills = 0
    for pattern, count, delay_s in [*moments, ("", 1, 0.0)]:
        before = len(nursery.attempted())
        nursery.start(folder.root)
        status = nursery.ended(PATIENCE_S) if not pattern else wait_for(folder.root, pattern, count, nursery.ended)
        if status is None:
            time.sleep(delay_s)
            status = nursery.kill()
            kills += status == -signal.SIGKILL
        assert status in (0, -signal.SIGKILL), nursery.errors.read_text()
        now = marks_of(folder.root)
        assert kept.items() <= now.items(), f"written again after {pattern}: {sorted(set(kept) - set(now))}"
        assert not done & set(nursery.attempted()[before:]), "a finished unit was computed again"
        kept = now
        done = {name.removeprefix("units/") for name in now if name.startswith("units/")}
    assert status == 0
    return kills


def drawn(moments: tuple[tuple[str, int], ...], *seed: object) -> list[tuple[str, int, float]]:
    generator = np.random.Generator(np.random.PCG64(derive_seed("kill", *seed)))
    return [(pattern, count, float(generator.choice(AFTER_S))) for pattern, count in moments]


def test_a_loop_that_is_killed_at_every_stage_ends_like_one_that_was_not(
    tiny_run: RunFolder,
    tmp_path: Path,
    nursery: Nursery,
    finished_marks: Callable[[Path], dict[str, object]],
    sealed: Callable[[RunFolder, str], list[bytes]],
) -> None:
    folder = create(tmp_path / "runs", config.load(TINY, environment={}).settings)
    kills = killed_everywhere(nursery, folder, drawn(MOMENTS, 0), finished_marks)
    assert kills >= len(MOMENTS) // 2  # on a busy machine some moments pass before they are seen
    same_end(folder, tiny_run, sealed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_loop_that_is_killed_at_random_moments_ends_like_one_that_was_not(
    tiny_run: RunFolder,
    tmp_path: Path,
    nursery: Nursery,
    seed: int,
    finished_marks: Callable[[Path], dict[str, object]],
    sealed: Callable[[RunFolder, str], list[bytes]],
) -> None:
    """Each execution dies a random while after its beginning, a little later each time so that all stages have their turn."""
    generator = np.random.Generator(np.random.PCG64(derive_seed("kill at random", seed)))
    folder = create(tmp_path / "runs", config.load(TINY, environment={}).settings)
    moments = [("run.json", 1, float(generator.uniform(0.02, 0.4) * (1 + n / 4))) for n in range(40)]
    assert killed_everywhere(nursery, folder, moments, finished_marks) >= 5
    same_end(folder, tiny_run, sealed)


# a whole Ray cluster dies with its driver

RAY_LOOP = """
import sys
from pathlib import Path
from avpref.flows import retrain, run_folder
retrain.run_loop(run_folder.open_root(Path(sys.argv[1])))
"""
MARK = "AVPREF_TEST_DRIVER"


def marked(mark: str) -> list[int]:
    """Processes that were started, directly or not, with ``mark`` in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


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
        for left in marked(mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
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
    asked = RunFolder(folder.root, folder.settings.model_copy(update={"executor": RayExecutor(num_actors=2)}))
    with asked.locked():
        return open_root(folder.root)


def test_a_ray_loop_that_is_killed_leaves_no_process_and_ends_in_one_process(
    tiny_run: RunFolder,
    tiny_copy: Callable[..., RunFolder],
    finished_marks: Callable[[Path], dict[str, object]],
    sealed: Callable[[RunFolder, str], list[bytes]],
) -> None:
    folder = tiny_copy("generate")
    killed_on_ray(on_ray(folder), "units/generate/*/*.parquet", 6, 0.05)
    before = finished_marks(folder.root)
    run_loop(folder)
    assert before.items() <= finished_marks(folder.root).items()
    same_end(folder, tiny_run, sealed)


@pytest.mark.slow
def test_a_ray_loop_that_is_killed_in_every_pool_ends_on_ray(
    tiny_run: RunFolder,
    tmp_path: Path,
    finished_marks: Callable[[Path], dict[str, object]],
    sealed: Callable[[RunFolder, str], list[bytes]],
) -> None:
    folder = on_ray(create(tmp_path / "runs", config.load(TINY, environment={}).settings))
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
    same_end(folder, tiny_run, sealed)
