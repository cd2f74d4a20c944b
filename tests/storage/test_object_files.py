"""Both stores of files against one model of the protocol, and what an object store says when it cannot keep it."""

from __future__ import annotations

import doctest
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from avpref.config.storage_settings import ObjectStorage
from avpref.errors import InputError, StorageError
from avpref.identity import bytes_sha256, derive_seed, digest
from avpref.storage import object_files
from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles
from avpref.storage.object_files import ListedFiles, ObjectFiles, check_commit_rule
from avpref.storage.sealed_tables import TableStore

STORES = ("folder", "objects")


@pytest.fixture
def store_of(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], Files]:
    """``store_of("objects")`` is an empty store of that kind."""

    def make(kind: str) -> Files:
        match kind:
            case "folder":
                return LocalFiles(tmp_path / "files")
            case _:
                return ObjectFiles(request.getfixturevalue("bucket"), "team/runs")

    return make


Step = tuple[str, str, bytes] | tuple[str, str]
NAMES = st.sampled_from(["a", "b.parquet", "units/a", "units/b/a", "units2/a", "units/b/c.d", "CURRENT"])
DATA = st.binary(max_size=40)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("commit_once"), NAMES, DATA),
        st.tuples(st.just("replace"), NAMES, DATA),
        st.tuples(st.just("delete"), NAMES),
    ),
    max_size=12,
)


def obey(files: Files, model: dict[str, bytes], step: Step) -> None:
    """One step on the store and on the model; both must answer alike."""
    match step:
        case "commit_once", str(name), bytes(data):
            assert files.commit_once(name, data) is (name not in model)
            model.setdefault(name, data)
        case "replace", str(name), bytes(data):
            files.replace(name, data)
            model[name] = data
        case "delete", str(name):
            files.delete(name)
            model.pop(name, None)


def under(model: dict[str, bytes], folder: str) -> list[str]:
    return sorted(name for name in model if not folder or name.startswith(f"{folder}/"))


def inside(model: dict[str, bytes], folder: str) -> list[str]:
    start = f"{folder}/" if folder else ""
    below = (name.removeprefix(start) for name in under(model, folder))
    return sorted({name.partition("/")[0] for name in below if "/" in name})


@pytest.mark.parametrize("kind", STORES)
def test_the_example_of_the_protocol_runs_on_both_stores(store_of: Callable[[str], Files], kind: str) -> None:
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(Files) or "", {"store": store_of(kind)}, kind, None, 0)
    assert len(example.examples) == 8
    report: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(example, out=report.append).failed == 0, "".join(report)


@pytest.mark.parametrize("kind", STORES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_both_stores_do_what_the_model_does(store_of: Callable[[str], Files], kind: str, steps: list[Step]) -> None:
    files = store_of(kind).subfolder(digest("steps", [[str(part) for part in step] for step in steps]))
    for left in files.names():
        files.delete(left)
    model: dict[str, bytes] = {}
    for step in steps:
        obey(files, model, step)
    for name in {*model, "a", "units/b/a"}:
        assert files.exists(name) is (name in model)
        if name not in model:
            for read in (files.read, files.num_bytes, files.open):
                with pytest.raises(FileNotFoundError):
                    read(name)
            continue
        assert files.read(name) == model[name] and files.num_bytes(name) == len(model[name])
        with files.open(name) as stream:
            assert stream.read() == model[name]
    for folder in ("", "units", "units/b", "unit"):
        names = under(model, folder)
        assert files.names(folder) == names
        depth = folder.count("/") + 1 if folder else 0
        assert files.children(folder) == [name for name in names if name.count("/") == depth]
        empty = set(files.subfolder(folder).folders()) - set(inside(model, folder))
        assert not empty or (kind == "folder" and not any(files.subfolder(folder).names(each) for each in empty))
        assert set(inside(model, folder)) <= set(files.subfolder(folder).folders())
        assert folder == "" or files.subfolder(folder).names() == [name.removeprefix(f"{folder}/") for name in names]


@pytest.mark.parametrize("kind", STORES)
def test_of_many_commits_at_once_exactly_one_wins(store_of: Callable[[str], Files], kind: str) -> None:
    files = store_of(kind)
    with ThreadPoolExecutor(8) as threads:
        for number in range(6):
            name, writers = f"units/{number}", [bytes([writer]) * 5000 for writer in range(8)]
            won = list(threads.map(lambda data, name=name: files.commit_once(name, data), writers))
            assert sum(won) == 1
            assert files.read(name) == writers[won.index(True)]


@pytest.mark.parametrize("kind", STORES)
def test_a_large_file_is_read_in_pieces(store_of: Callable[[str], Files], kind: str) -> None:
    """Positions from the start, from here and from the end, over the borders of the buffer."""
    files = store_of(kind)
    block = bytes(derive_seed("block", index) % 256 for index in range(4099))
    data = block * 700
    files.commit_once("large", data)
    with files.open("large") as stream:
        assert stream.seek(-8, os.SEEK_END) == len(data) - 8
        assert stream.read() == data[-8:]
        stream.seek(1 << 20)
        stream.seek(-3, os.SEEK_CUR)
        assert stream.read(7) == data[(1 << 20) - 3 : (1 << 20) + 4]
        stream.seek(0)
        assert stream.read() == data
        assert stream.read(1) == b""


@pytest.mark.parametrize("kind", STORES)
def test_many_files_come_in_order_and_the_first_that_is_missing_is_named(
    store_of: Callable[[str], Files], kind: str
) -> None:
    files = store_of(kind).subfolder("units")
    names = [f"{number:02d}" for number in range(40)]
    for name in names:
        files.commit_once(name, name.encode() * 3)
    streams = list(zip(names, files.open_all(names), strict=True))
    assert all(stream.closed for _, stream in streams)
    assert [stream.read() for stream in files.open_all(names)] == [name.encode() * 3 for name in names]
    with pytest.raises(FileNotFoundError, match="absent"):
        for stream in files.open_all([*names[:20], "absent", *names[20:]]):
            stream.read()
    assert list(files.open_all([])) == []


def test_one_listing_answers_for_a_folder_and_what_comes_later_is_found(
    bucket: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, other = ListedFiles(bucket, "units"), ObjectFiles(bucket, "units")
    names = [f"score/{number}" for number in range(5)]
    for name in names[:4]:
        other.commit_once(name, b"1")
    assert [files.exists(name) for name in names] == [True] * 4 + [False]
    asked: list[str] = []
    looked = ObjectFiles.num_bytes

    def counted(self: ObjectFiles, name: str) -> int:
        asked.append(name)
        return looked(self, name)

    monkeypatch.setattr(ObjectFiles, "num_bytes", counted)
    assert [files.exists(name) for name in names] == [True] * 4 + [False]
    assert asked == names[4:]
    other.commit_once(names[4], b"1")
    assert files.exists(names[4]) and files.exists(names[4]) and asked == names[4:] * 2
    assert pickle.loads(pickle.dumps(files)) == files == ListedFiles(bucket, "units")


@pytest.mark.parametrize("kind", STORES)
def test_a_place_travels_to_other_processes(store_of: Callable[[str], Files], kind: str) -> None:
    files = store_of(kind)
    files.commit_once("here", b"1")
    again = pickle.loads(pickle.dumps(files))
    assert again == files and again.read("here") == b"1"
    code = (
        "import pickle, sys\n"
        "files = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(files.commit_once('here', b'2'), files.commit_once('there', b'3'))"
    )
    arguments = [sys.executable, "-c", code, pickle.dumps(files).hex()]
    assert subprocess.run(arguments, capture_output=True, text=True, check=True).stdout == "False True\n"
    assert (files.read("here"), files.read("there")) == (b"1", b"3")


@pytest.mark.parametrize("kind", STORES)
def test_sealed_tables_live_in_either_place(store_of: Callable[[str], Files], kind: str) -> None:
    tables = TableStore(store_of(kind))
    assert tables.current("pairs") is None
    first = tables.seal("pairs", "f1", [(b"one", 3), (b"two", 4)])
    assert tables.current("pairs") == first and tables.seal("pairs", "f1", [(b"one", 3), (b"two", 4)]) == first
    second = tables.seal("pairs", "f2", [(b"one", 3)])
    assert tables.current("pairs") == second != first
    tables.verify(first)
    tables.files.replace(tables.names(second)[0], b"0ne")
    with pytest.raises(InputError, match=bytes_sha256(b"0ne")):
        tables.verify(second)


@pytest.mark.parametrize("kind", STORES)
def test_two_writers_that_seal_at_once_leave_one_whole_version_current(
    store_of: Callable[[str], Files], kind: str
) -> None:
    files = store_of(kind)
    with ThreadPoolExecutor(4) as threads:
        sealed = list(
            threads.map(lambda number: TableStore(files).seal("t", f"f{number % 2}", [(b"x" * 100, 1)]), range(8))
        )
    current = TableStore(files).current("t")
    assert current in sealed and current is not None
    TableStore(files).verify(current)
    assert len(files.names("t")) == 2 * 2 + 1  # two versions of file and manifest, one pointer


# large files of models


def test_a_model_goes_up_and_comes_down_whole(bucket: ObjectStorage, tmp_path: Path) -> None:
    files, data = ObjectFiles(bucket, "models"), bytes(range(256)) * 50_000  # above the size of one part
    (tmp_path / "network").write_bytes(data)
    files.upload("network", tmp_path / "network")
    files.download("network", tmp_path / "deep" / "copy", bytes_sha256(data))
    assert (tmp_path / "deep" / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_a_model_that_was_changed_on_the_way_is_refused(bucket: ObjectStorage, tmp_path: Path) -> None:
    files = ObjectFiles(bucket, "models")
    files.commit_once("network", b"tampered")
    with pytest.raises(InputError) as caught:
        files.download("network", tmp_path / "copy", bytes_sha256(b"original"))
    assert bytes_sha256(b"tampered") in caught.value.found and "s3://" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


# stores that refuse


VERBS: dict[str, Callable[[ObjectFiles], object]] = {
    "read": lambda files: files.read("x"),
    "open": lambda files: files.open("x"),
    "exists": lambda files: files.exists("x"),
    "commit_once": lambda files: files.commit_once("x", b"1"),
    "replace": lambda files: files.replace("x", b"1"),
    "names": lambda files: files.names(),
    "children": lambda files: files.children(),
    "delete": lambda files: files.delete("x"),
}


def changed(storage: ObjectStorage, **values: object) -> ObjectFiles:
    return ObjectFiles(ObjectStorage(**{**storage.model_dump(), **values}), "runs")


@pytest.fixture
def few_retries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same retries, one instead of six."""
    monkeypatch.setattr(object_files, "MAX_RETRIES", 1)
    object_files._connection.cache_clear()
    yield
    object_files._connection.cache_clear()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("exists", "delete")])
def test_a_bucket_that_is_not_there_is_named(bucket: ObjectStorage, verb: str) -> None:
    """HEAD has no body and DELETE of a list no status, so two verbs cannot tell; a run's first act is a put."""
    with pytest.raises(StorageError) as caught:
        VERBS[verb](changed(bucket, url="s3://nowhere/runs"))
    assert "nowhere" in caught.value.found and bucket.endpoint in caught.value.found
    assert "storage.url" in caught.value.fix


@pytest.mark.parametrize("verb", VERBS)
def test_a_store_that_does_not_answer_is_named(bucket: ObjectStorage, few_retries: None, verb: str) -> None:
    with pytest.raises(StorageError) as caught:
        VERBS[verb](changed(bucket, endpoint="http://127.0.0.1:9"))
    assert "127.0.0.1:9" in caught.value.found and "storage.endpoint" in caught.value.fix


def test_http_has_to_be_allowed(bucket: ObjectStorage) -> None:
    with pytest.raises(StorageError) as caught:
        changed(bucket, allow_http=False).read("x")
    assert "storage.allow_http=true" in caught.value.fix


def test_missing_credentials_say_what_to_set(
    bucket: ObjectStorage, few_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(StorageError) as caught:
        changed(bucket).read("x")
    assert "AWS_ACCESS_KEY_ID" in caught.value.fix


def test_a_refusal_names_the_permission() -> None:
    """A server that says 403 to everything."""
    import http.server
    import threading

    class Refusing(http.server.BaseHTTPRequestHandler):
        def refuse(self) -> None:
            body = b"<Error><Code>AccessDenied</Code></Error>"
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if self.command != "HEAD" else b"")

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = refuse

        def log_message(self, *arguments: object) -> None:
            pass

    with pytest.MonkeyPatch.context() as patch, http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        files = ObjectFiles(ObjectStorage(url="s3://runs", endpoint=endpoint, allow_http=True), "")
        for verb in ("read", "exists", "commit_once", "replace", "names"):
            with pytest.raises(StorageError) as caught:
                VERBS[verb](files)
            assert "refuses" in caught.value.found and "s3:ListBucket" in caught.value.fix
        server.shutdown()


def test_a_store_that_overwrites_what_exists_is_refused(bucket: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ObjectFiles(bucket, "runs")
    assert check_commit_rule(files, "run.json", b"1") is True
    assert check_commit_rule(files, "run.json", b"2") is False
    monkeypatch.setattr(ObjectFiles, "commit_once", lambda self, name, data: self.replace(name, data) or True)
    with pytest.raises(StorageError, match="overwrites"):
        check_commit_rule(files, "another.json", b"1")
