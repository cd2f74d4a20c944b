"""Who owns a run, who waits for it, and which version of the product may go on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from avpref import __version__
from avpref.config.loading import load_config
from avpref.errors import ProductVersionError, StorageError
from avpref.storage.run_folder import RUN_FILE, RunFolder, adopt_version, create, open_root
from avpref.storage.work_folder import WorkFolder

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
OWN = """
import sys
from pathlib import Path
from avpref.errors import StorageError
from avpref.storage.lock import owned
wait = sys.argv[2] == "wait"
print("ready", flush=True)
sys.stdin.readline()
try:
    with owned(Path(sys.argv[1]), wait):
        print("owned", flush=True)
        sys.stdin.readline()
except StorageError as error:
    print("refused " + error.found, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def command(root: Path, how: str = "refuse") -> Iterator[subprocess.Popen[str]]:
    """Another process that asks for the folder when it is given a line, and gives it back at the next."""
    arguments = [sys.executable, "-c", OWN, str(root), how]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert line_of(process) == "ready"
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_of_processes_that_start_at_the_same_instant_exactly_one_owns(tmp_path: Path) -> None:
    with command(tmp_path) as first, command(tmp_path) as second, command(tmp_path) as third:
        processes = (first, second, third)
        for process in processes:
            tell(process)
        answers = {process.pid: line_of(process) for process in processes}
        (owner,) = [pid for pid, answer in answers.items() if answer == "owned"]
        others = [answer for pid, answer in answers.items() if pid != owner]
        assert all(answer.startswith("refused") and f"process {owner} " in answer for answer in others)


def test_the_refusal_names_command_process_host_and_time(tmp_path: Path) -> None:
    folder = WorkFolder(tmp_path)
    with command(tmp_path) as other:
        tell(other)
        assert line_of(other) == "owned"
        with pytest.raises(StorageError) as caught, folder.locked():
            raise AssertionError("owned twice")
        assert f"process {other.pid} on {os.uname().nodename} since 20" in caught.value.found
        assert str(tmp_path) in caught.value.found  # what it was started with
        assert "--wait" in caught.value.fix


@pytest.mark.parametrize("end", ["done", "killed"])
def test_who_waits_says_for_whom_and_owns_the_folder_when_the_owner_has_ended(tmp_path: Path, end: str) -> None:
    with command(tmp_path) as owner, command(tmp_path, "wait") as waiting:
        tell(owner)
        assert line_of(owner) == "owned"
        tell(waiting)
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        assert f"in use by process {owner.pid} " in said and "waiting" in said
        tell(owner) if end == "done" else owner.send_signal(signal.SIGKILL)
        assert line_of(waiting) == "owned"
        assert f"process {waiting.pid} " in (tmp_path / "lock").read_text()


def test_who_waits_can_be_interrupted(tmp_path: Path) -> None:
    with command(tmp_path) as owner, command(tmp_path, "wait") as waiting:
        tell(owner)
        line_of(owner)
        tell(waiting)
        assert waiting.stderr is not None and waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in waiting.communicate(timeout=60)[1]


# versions of the product


def of_version(folder: RunFolder, version: str) -> None:
    path = folder.root / RUN_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))


def test_a_run_of_another_version_is_refused_with_both_versions_and_not_touched(tmp_path: Path) -> None:
    settings = load_config(TINY, environment={}).settings
    folder = create(tmp_path, settings)
    of_version(folder, "0.0.9")
    (folder.root / "units").mkdir()
    (folder.root / "units" / ".partial-x").write_text("what the other version is writing")
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    with pytest.raises(ProductVersionError) as caught, create(tmp_path, settings).locked():
        raise AssertionError("owned")
    assert "0.0.9" in caught.value.found and __version__ in caught.value.found
    assert "--adopt-version" in caught.value.fix and "avpref==0.0.9" in caught.value.fix
    after = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file() and path.name != "lock"}
    assert after == before


def test_a_run_of_another_version_can_be_looked_at(tiny_copy: Callable[..., RunFolder]) -> None:
    folder = tiny_copy()
    of_version(folder, "0.0.9")
    assert open_root(folder.root).documents.read("result.json")


def test_an_adopted_run_goes_on_and_remembers_who_began_it(tmp_path: Path) -> None:
    folder = create(tmp_path, load_config(TINY, environment={}).settings)
    for version in ("0.0.8", "0.0.9", __version__):
        of_version(folder, version)
        adopt_version(folder)
    with folder.locked():
        document = json.loads((folder.root / RUN_FILE).read_text())
    assert document["version"] == __version__ and document["earlier_versions"] == ["0.0.8", "0.0.9"]


def test_a_run_that_is_worked_on_is_not_adopted(tmp_path: Path) -> None:
    folder = create(tmp_path, load_config(TINY, environment={}).settings)
    of_version(folder, "0.0.9")
    with command(folder.root) as owner:
        tell(owner)
        line_of(owner)
        with pytest.raises(StorageError):
            adopt_version(folder)
    assert json.loads((folder.root / RUN_FILE).read_text())["version"] == "0.0.9"
