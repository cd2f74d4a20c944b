"""Files that appear whole or not at all, under real processes, real kills and full disks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.domain import SCHEMA_VERSION
from avpref.errors import SchemaVersionError, StorageError, TableError
from avpref.identity import bytes_sha256
from avpref.storage import local_files as store
from avpref.storage.local_files import LocalFiles, commit_once, replace, storage_error, sweep_temporaries
from avpref.storage.sealed_tables import TableStore

POINTS = ("open", "write", "fsync", "link", "unlink", "folder fsync", "after")


def in_child(work: Callable[[], int]) -> int:
    """Run ``work`` in a forked process; its wait status."""
    process = os.fork()
    if process == 0:
        status = 70
        with contextlib.suppress(BaseException):
            status = work()
        os._exit(status)
    return os.waitpid(process, 0)[1]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_commit(path: Path, data: bytes, point: str, act: Callable[[Path, bytes], object]) -> int:
    """``act(path, data)`` in a process that kills itself just before it reaches ``point``."""

    def work() -> int:
        calls = {"fsync": 0}
        real_fsync, real_link, real_replace, real_unlink = os.fsync, os.link, os.replace, Path.unlink

        def fsync(handle: int) -> None:
            calls["fsync"] += 1
            if point == ("fsync" if calls["fsync"] == 1 else "folder fsync"):
                die()
            real_fsync(handle)

        def publish(real: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: object) -> None:
                if point == "link":
                    die()
                real(*arguments)

            return call

        def unlink(self: Path, missing_ok: bool = False) -> None:
            if point == "unlink":
                die()
            real_unlink(self, missing_ok)

        class Torn:
            """A file that dies in the middle of its bytes."""

            def __init__(self, *arguments: object) -> None:
                if point == "open":
                    die()
                self.stream = open(*arguments)  # type: ignore[call-overload]  # noqa: SIM115

            def __enter__(self) -> Torn:
                return self

            def __exit__(self, *error: object) -> None:
                self.stream.close()

            def write(self, content: bytes) -> None:
                self.stream.write(content[: len(content) // 2])
                self.stream.flush()
                if point == "write":
                    die()
                self.stream.write(content[len(content) // 2 :])

            def flush(self) -> None:
                self.stream.flush()

            def fileno(self) -> int:
                return self.stream.fileno()

        os.fsync, os.link, os.replace = fsync, publish(real_link), publish(real_replace)  # type: ignore[assignment]
        Path.unlink = unlink  # type: ignore[method-assign]
        store.open = Torn  # type: ignore[attr-defined]
        act(path, data)
        die()
        return 0

    return in_child(work)


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_point_of_a_commit_leaves_the_whole_file_or_none(tmp_path: Path, point: str) -> None:
    path, data = tmp_path / "deep" / "unit.parquet", os.urandom(100_000)
    assert killed_commit(path, data, point, commit_once) == signal.SIGKILL
    is_published = point in ("unlink", "folder fsync", "after")
    assert path.exists() == is_published
    assert not is_published or path.read_bytes() == data
    again = os.urandom(50_000)
    assert commit_once(path, again) is not is_published
    assert path.read_bytes() == (data if is_published else again)
    sweep_temporaries(tmp_path)
    assert [each.name for each in path.parent.iterdir()] == ["unit.parquet"]


@pytest.mark.parametrize("point", [point for point in POINTS if point != "unlink"])
def test_a_kill_at_any_point_of_a_replace_leaves_the_old_or_the_new(tmp_path: Path, point: str) -> None:
    path, old, new = tmp_path / "CURRENT", b"old" * 1000, b"new" * 2000
    replace(path, old)
    assert killed_commit(path, new, point, replace) == signal.SIGKILL
    assert path.read_bytes() == (new if point in ("folder fsync", "after") else old)


def test_of_many_concurrent_commits_exactly_one_wins(tmp_path: Path) -> None:
    """Processes that are let loose at once on one name: one says that it created the file, and its bytes are there."""
    for round_number in range(10):
        path = tmp_path / f"{round_number}.parquet"
        gate_out, gate_in = os.pipe()
        children = []
        for writer in range(8):
            process = os.fork()
            if process == 0:
                os.close(gate_in)
                os.read(gate_out, 1)  # returns when the parent closes its end
                os._exit(0 if commit_once(path, bytes([writer]) * 10_000) else 1)
            children.append(process)
        os.close(gate_in)
        os.close(gate_out)
        won = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0 for process in children]
        assert sum(won) == 1
        assert path.read_bytes() == bytes([won.index(True)]) * 10_000
    assert sweep_temporaries(tmp_path) == 0


@given(first=st.binary(max_size=64), second=st.binary(max_size=64))
def test_what_was_committed_never_changes_and_what_is_replaced_is_the_last(
    tmp_path_factory: pytest.TempPathFactory, first: bytes, second: bytes
) -> None:
    folder = tmp_path_factory.mktemp("store")
    assert [commit_once(folder / "a", data) for data in (first, second)] == [True, False]
    assert (folder / "a").read_bytes() == first
    replace(folder / "a", second)
    assert (folder / "a").read_bytes() == second


def test_writers_on_two_machines_never_share_a_temporary_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process ids repeat over machines that share a disk."""
    here = store.temporary_of(tmp_path / "a")
    monkeypatch.setattr(store.socket, "gethostname", lambda: "another")
    assert store.temporary_of(tmp_path / "a") != here


# sealed tables


def test_sealing_points_current_at_a_new_version_and_keeps_the_old(tmp_path: Path) -> None:
    tables = TableStore(LocalFiles(tmp_path))
    assert tables.current("pairs") is None
    first = tables.seal("pairs", "f1", [(b"one", 3), (b"two", 4)])
    assert tables.current("pairs") == first
    assert first.rows == 7
    assert [tables.files.read(name) for name in tables.names(first)] == [b"one", b"two"]
    second = tables.seal("pairs", "f2", [(b"one", 3)])
    assert tables.current("pairs") == second != first
    assert tables.version("pairs", first.version) == first
    tables.verify(first)


def test_sealing_the_same_again_changes_no_file(tmp_path: Path) -> None:
    tables = TableStore(LocalFiles(tmp_path))
    first = tables.seal("pairs", "f", [(b"one", 3)])
    before = {path: path.stat() for path in (tmp_path / "pairs").iterdir() if path.name != "CURRENT"}
    assert tables.seal("pairs", "f", [(b"one", 3)]) == first
    assert {path: path.stat().st_mtime_ns for path in before} == {path: s.st_mtime_ns for path, s in before.items()}


def test_a_kill_between_manifest_and_pointer_leaves_the_old_version_current(tmp_path: Path) -> None:
    tables = TableStore(LocalFiles(tmp_path))
    first = tables.seal("pairs", "f1", [(b"one", 1)])

    def work() -> int:
        store.replace = lambda path, data: die()
        tables.seal("pairs", "f2", [(b"two", 2)])
        return 0

    assert in_child(work) == signal.SIGKILL
    assert tables.current("pairs") == first
    assert tables.seal("pairs", "f2", [(b"two", 2)]) == tables.current("pairs")


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_verify_names_the_file_that_was_tampered_with(tmp_path: Path, damage: str) -> None:
    tables = TableStore(LocalFiles(tmp_path))
    manifest = tables.seal("pairs", "f", [(b"one", 1), (b"two", 1)])
    victim = tmp_path / tables.names(manifest)[1]
    if damage == "changed":
        victim.write_bytes(b"tw0")
    else:
        victim.unlink()
    with pytest.raises(TableError) as caught:
        tables.verify(manifest)
    assert victim.name in caught.value.found
    assert bytes_sha256(b"two") in caught.value.expected
    assert "restore" in caught.value.fix


def test_a_manifest_of_another_schema_version_is_refused(tmp_path: Path) -> None:
    tables = TableStore(LocalFiles(tmp_path))
    manifest = tables.seal("pairs", "f", [(b"one", 1)])
    path = tmp_path / "pairs" / f"{manifest.version}.json"
    path.write_text(path.read_text().replace(f'"schema_version": {SCHEMA_VERSION}', '"schema_version": 99'))
    with pytest.raises(SchemaVersionError, match="99"):
        tables.current("pairs")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"table": "pairs"}'])
def test_a_broken_manifest_is_a_table_error_that_names_it(tmp_path: Path, content: str) -> None:
    tables = TableStore(LocalFiles(tmp_path))
    manifest = tables.seal("pairs", "f", [(b"one", 1)])
    path = tmp_path / "pairs" / f"{manifest.version}.json"
    path.write_text(content)
    with pytest.raises(TableError, match=manifest.version):
        tables.current("pairs")


# disks that refuse


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """A mount on ``folder``; skips the test where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    if (
        shutil.which("mount") is None
        or subprocess.run(["mount", *options, str(folder)], capture_output=True).returncode
    ):
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


@pytest.mark.parametrize("write", [commit_once, replace])
def test_a_full_disk_is_a_storage_error_and_leaves_no_temporary(tmp_path: Path, write: Callable[..., object]) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64k", "none") as folder:
        with pytest.raises(StorageError, match="no space left") as caught:
            write(folder / "big", os.urandom(1_000_000))
        assert "df -h" in caught.value.fix
        assert list(folder.iterdir()) == []
        assert write(folder / "little", b"fits") in (True, None)


@pytest.mark.parametrize("write", [commit_once, replace])
def test_no_space_at_fsync_is_a_storage_error_and_leaves_no_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., object]
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="no space left"):
        write(tmp_path / "big", b"data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", [commit_once, replace])
def test_a_file_where_a_folder_should_be_is_a_storage_error(tmp_path: Path, write: Callable[..., object]) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(StorageError, match="cannot write") as caught:
        write(tmp_path / "runs" / "deep" / "unit", b"data")
    assert "--runs" in caught.value.fix


@pytest.mark.parametrize("write", [commit_once, replace])
def test_a_folder_that_no_user_can_make_is_a_storage_error(write: Callable[..., object]) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write(Path("/proc/avpref/unit"), b"data")


def test_a_read_only_disk_is_a_storage_error(tmp_path: Path) -> None:
    with (
        mounted(tmp_path / "fixed", "-t", "tmpfs", "-o", "size=64k,ro", "none") as folder,
        pytest.raises(StorageError, match="cannot write"),
    ):
        commit_once(folder / "unit", b"data")


def test_a_disk_without_hard_links_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError) as caught:
        commit_once(tmp_path / "unit", b"data")
    assert "hard links" in caught.value.expected
    assert list(tmp_path.iterdir()) == []


def test_the_folder_to_make_room_in_is_one_that_stays(tmp_path: Path) -> None:
    """A checkpoint is written in a temporary folder, which is removed when the disk is full."""
    full = OSError(errno.ENOSPC, "No space left on device")
    error = storage_error(tmp_path / ".partial-step" / "tensors.safetensors", full)
    assert f"(df -h {tmp_path})" in error.fix
