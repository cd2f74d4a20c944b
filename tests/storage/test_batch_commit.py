"""Many files committed at once: whole or absent each, first commit wins, and durable before the call returns."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from avpref.config.storage_settings import ObjectStorage
from avpref.errors import StorageError
from avpref.storage.commits import batch_commit
from avpref.storage.commits.batch_commit import commit_all
from avpref.storage.failpoints import FailPoint, KillAt, set_observer
from avpref.storage.local_files import TEMPORARY_PREFIX, LocalFiles, sweep_temporaries
from avpref.storage.object_files import ObjectFiles

FILES = [(f"clips/{number % 3}/{number}.mp4", f"clip {number}".encode() * 100) for number in range(20)]


def files_in(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("has_one_call", [True, False])
def test_all_files_are_there_and_a_late_attempt_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_one_call: bool
) -> None:
    if not has_one_call:
        monkeypatch.setattr(batch_commit, "_sync_file_system", lambda root: False)
    store = LocalFiles(tmp_path)
    store.commit_once(FILES[3][0], b"earlier")
    commit_all(store, FILES)
    assert files_in(tmp_path) == {**dict(FILES), FILES[3][0]: b"earlier"}
    commit_all(store, [(name, b"late") for name, _ in FILES])
    commit_all(store, [])
    assert files_in(tmp_path) == {**dict(FILES), FILES[3][0]: b"earlier"}


@pytest.mark.parametrize(
    ("point", "number"),
    [
        (FailPoint.WRITE_BEGUN, 7),
        (FailPoint.WRITE_FLUSHED, 1),
        (FailPoint.WRITE_SYNCED, 1),
        (FailPoint.COMMIT_LINKED, 5),
        (FailPoint.COMMIT_DONE, 1),
    ],
)
def test_after_a_kill_every_file_is_whole_or_absent(tmp_path: Path, point: FailPoint, number: int) -> None:
    process = os.fork()
    if process == 0:
        set_observer(KillAt({point: frozenset({number})}))
        commit_all(LocalFiles(tmp_path), FILES)
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(process, 0)[1])
    visible = {name: data for name, data in files_in(tmp_path).items() if TEMPORARY_PREFIX not in name}
    assert visible.items() <= dict(FILES).items()
    assert len(visible) == {FailPoint.COMMIT_LINKED: 5, FailPoint.COMMIT_DONE: len(FILES)}.get(point, 0)
    sweep_temporaries(tmp_path)
    commit_all(LocalFiles(tmp_path), FILES)
    assert files_in(tmp_path) == dict(FILES)


def test_a_full_disk_is_named_and_leaves_nothing_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def write_bytes(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        with path.open("wb") as stream:
            return stream.write(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(StorageError, match="no space left"):
        commit_all(LocalFiles(tmp_path), FILES)
    assert files_in(tmp_path) == {}


def test_a_bucket_gets_all_of_them_too(bucket: ObjectStorage) -> None:
    store = ObjectFiles(bucket, bucket.prefix)
    commit_all(store, FILES)
    assert {name: store.read(name) for name, _ in FILES} == dict(FILES)
