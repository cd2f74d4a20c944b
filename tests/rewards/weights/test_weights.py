"""The catalogue of weight files, where they are found, what they are called, and fetching and verifying them. Loopback only."""

from __future__ import annotations

import fcntl
import hashlib
import http.server
import io
import json
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from avpref.errors import ConfigError, InputError, StorageError
from avpref.rewards.weights import weight_fetch
from avpref.rewards.weights.catalogue import (
    MODELS,
    UNFINISHED,
    HubFile,
    Model,
    Terms,
    WebFile,
    WeightFile,
    find,
    model_named,
    resolve,
    weights_id,
)
from avpref.rewards.weights.weight_fetch import fetch, plan
from avpref.rewards.weights.weight_verify import State, unreadable, verify
from avpref.storage import file_hashes
from avpref.storage.file_hashes import LEDGER, RECORDS, sha256_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TERMS = Terms("CC-BY-4.0", commercial_use=True)
LONG_AGO_NS = 1_700_000_000_000_000_000


def safetensors_bytes(num_values: int = 50) -> bytes:
    size = 4 * num_values
    header = json.dumps({"__metadata__": {}, "w": {"dtype": "F32", "shape": [num_values], "data_offsets": [0, size]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(range(256)) * (size // 256) + bytes(size % 256)


def checkpoint_bytes(index: str = "archive/data.pkl") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(index, b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(range(200)))
    return stream.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def web_file(url: str, data: bytes, name: str = "model.pth", *, exact: bool = True, known: bool = True) -> WeightFile:
    return WeightFile(name, WebFile(f"{url}/{name}"), len(data), sha256(data) if known else None, is_size_exact=exact)


def hub_file(data: bytes, path: str = "deep/model.pth", **former: tuple[str, ...]) -> WeightFile:
    source = HubFile("org/repo", path, COMMIT, **former)
    return WeightFile(path.split("/")[-1], source, len(data), sha256(data), is_size_exact=True)


def model_of(*files: WeightFile) -> Model:
    return Model("toy", files, TERMS, "a toy")


def write(path: Path, data: bytes, mtime_ns: int | None = None) -> Path:
    import os

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of fetched weights; the Hugging Face cache is ``hub`` beside it. Both empty."""
    from huggingface_hub import constants

    monkeypatch.setenv("AVPREF_WEIGHTS", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    file_hashes._remembered.cache_clear()
    return tmp_path / "home"


def into_hub_cache(hub: Path, repo: str, path: str, data: bytes, *, commit: str = COMMIT, ref: str = "") -> Path:
    root = hub / f"models--{repo.replace('/', '--')}"
    if ref:
        write(root / "refs" / ref, commit.encode())
    return write(root / "snapshots" / commit / path, data)


@dataclass
class Site:
    """A server on loopback: what it holds, what it was asked, and how it misbehaves."""

    url: str = ""
    pages: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    drops_after: int | None = None
    stalls_after: int | None = None
    has_ranges: bool = True


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            found.asked.append((self.command, self.path, wanted))
            data = found.pages.get(self.path)
            if data is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and found.has_ranges else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", f'"{sha256(data)}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data[start : found.stalls_after or found.drops_after])
                while found.stalls_after:
                    time.sleep(0.01)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield found
        server.shutdown()
        thread.join()


# the catalogue


def test_the_catalogue_is_consistent() -> None:
    assert [model.name for model in MODELS] == ["audiobox", "imagebind", "synchformer", "videoalign"]
    for model in MODELS:
        names = [file.name for file in model.files]
        assert len(set(names)) == len(names) and model.terms.licence and model.note
        assert model.num_bytes == sum(file.num_bytes for file in model.files)
        for file in model.files:
            assert file.num_bytes > 0
            assert file.sha256 is None or (re.fullmatch("[0-9a-f]{64}", file.sha256) and file.is_size_exact)
            assert file.place.endswith(file.name)
            match file.source:
                case HubFile() as source:
                    assert re.fullmatch("[0-9a-f]{40}", source.revision) and source.repo.count("/") == 1
                case WebFile() as source:
                    assert source.url.startswith("https://")


def test_commercial_use_is_as_the_licences_say() -> None:
    allowed = {model.name: model.terms.commercial_use for model in MODELS}
    assert allowed == {"audiobox": True, "imagebind": False, "synchformer": False, "videoalign": True}
    assert all(model.terms.is_meaningful for model in MODELS)


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="audiobux") as caught:
        model_named("audiobux")
    assert "audiobox" in caught.value.expected
    assert model_named("imagebind").name == "imagebind"


def test_terms_are_those_that_the_scorers_give() -> None:
    from avpref.rewards.audiobox import audiobox
    from avpref.rewards.imagebind import imagebind
    from avpref.rewards.synchformer import synchformer

    given = (audiobox.AUDIOBOX_TERMS, imagebind.IMAGEBIND_TERMS, synchformer.SYNCHFORMER_TERMS)
    assert tuple(model_named(name).terms for name in ("audiobox", "imagebind", "synchformer")) == given


def test_nothing_here_imports_torch() -> None:
    names = (
        "avpref.rewards.weights.catalogue, avpref.rewards.weights.weight_fetch, avpref.rewards.weights.weight_verify"
    )
    code = f"import sys, {names}; assert 'torch' not in sys.modules and 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# where files are


def test_a_file_is_looked_for_in_the_folder_then_at_home_then_in_the_hub_cache(tmp_path: Path, home: Path) -> None:
    data = checkpoint_bytes()
    model, folder = model_of(hub_file(data)), tmp_path / "named"
    folder.mkdir()
    cached = into_hub_cache(tmp_path / "hub", "org/repo", "deep/model.pth", data)
    assert resolve(model, folder) == {"model.pth": cached}
    fetched = write(home / "toy" / "deep" / "model.pth", data)
    assert resolve(model, folder) == resolve(model) == {"model.pth": fetched}
    own = write(folder / "model.pth", data)
    assert resolve(model, folder) == {"model.pth": own}
    laid_out = write(folder / "deep" / "model.pth", data)
    assert resolve(model, folder) == {"model.pth": laid_out}
    assert resolve(model) == {"model.pth": fetched}


def test_caches_of_former_names_and_of_main_count(tmp_path: Path) -> None:
    data = checkpoint_bytes()
    file = hub_file(data, former_repos=("old/name",))
    other = "f" * 40
    into_hub_cache(tmp_path / "hub", "org/repo", "deep/model.pth", data, commit=other)
    assert find(model_of(file), file) is None, "another commit, which main does not name"
    named = into_hub_cache(tmp_path / "hub", "old/name", "deep/model.pth", data, commit=other, ref="main")
    assert find(model_of(file), file) == named


def test_the_hub_cache_is_where_the_environment_says(tmp_path: Path) -> None:
    source = next(file.source for file in MODELS[0].files if file.name == "config.json")
    assert isinstance(source, HubFile)
    cached = into_hub_cache(tmp_path / "hf" / "hub", source.repo, source.path, b"{}", commit=source.revision)
    code = "from avpref.rewards.weights.catalogue import *; print(find(AUDIOBOX, AUDIOBOX.files[1]))"
    environment = {"HF_HOME": str(tmp_path / "hf"), "AVPREF_WEIGHTS": str(tmp_path), "HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(cached)


def test_one_error_names_everything_that_is_absent(tmp_path: Path) -> None:
    model = model_named("videoalign")
    with pytest.raises(InputError) as caught:
        resolve(model, tmp_path)
    error = caught.value
    assert all(file.name in error.found for file in model.files)
    assert "5,043 MB" in error.found and "Apache-2.0" in error.found
    assert str(tmp_path) in error.expected and "Hugging Face cache" in error.expected
    assert error.fix == "avpref weights fetch videoalign"


def test_only_what_is_absent_is_named(home: Path) -> None:
    data = checkpoint_bytes()
    write(home / "toy" / "model.pth", data)
    with pytest.raises(InputError, match=r"^toy: notes\.json absent"):
        resolve(model_of(web_file("http://nowhere", data), web_file("http://nowhere", b"{}", "notes.json")))


@pytest.mark.parametrize(
    "change", [lambda data: data[:-1], lambda data: data + b"x"], ids=["cut short", "another file"]
)
def test_a_file_of_another_size_is_refused(home: Path, change, request: pytest.FixtureRequest) -> None:
    data = checkpoint_bytes()
    path = write(home / "toy" / "model.pth", change(data))
    model = model_of(web_file("http://nowhere", data))
    for use in (resolve, plan):
        with pytest.raises(InputError, match=request.node.callspec.id) as caught:
            use(model)
        assert caught.value.expected == f"{len(data):,} bytes"
        assert caught.value.fix == f"rm '{path}' && avpref weights fetch toy"
    assert path.read_bytes() == change(data)


def test_a_named_folder_is_taken_at_its_word(tmp_path: Path) -> None:
    data = checkpoint_bytes()
    own = write(tmp_path / "own" / "model.pth", b"weights of another training")
    assert resolve(model_of(web_file("http://nowhere", data)), tmp_path / "own") == {"model.pth": own}
    with pytest.raises(ConfigError, match="no folder"):
        resolve(model_of(web_file("http://nowhere", data)), tmp_path / "typo")


def test_a_named_folder_may_hold_a_converted_checkpoint(tmp_path: Path, home: Path) -> None:
    model = model_of(web_file("http://nowhere", checkpoint_bytes()))
    own = write(tmp_path / "own" / "model.safetensors", safetensors_bytes())
    assert resolve(model, tmp_path / "own") == {"model.pth": own}
    write(home / "toy" / "model.safetensors", safetensors_bytes())
    with pytest.raises(InputError, match="absent"):
        resolve(model)


# what files are called


def test_the_id_depends_on_content_and_name_alone(tmp_path: Path) -> None:
    paths = {"a": write(tmp_path / "1" / "x", b"one"), "b": write(tmp_path / "1" / "y", b"two")}
    moved = {"b": write(tmp_path / "2" / "z", b"two"), "a": write(tmp_path / "2" / "w", b"one")}
    swapped = {"a": paths["b"], "b": paths["a"]}
    changed = {**paths, "b": write(tmp_path / "3" / "y", b"twa")}
    assert weights_id(paths) == weights_id(moved) and re.fullmatch("[0-9a-f]{64}", weights_id(paths))
    assert len({weights_id(paths), weights_id(swapped), weights_id(changed), weights_id({"a": paths["a"]})}) == 4


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read for their hash."""
    read: list[Path] = []

    def note(path: Path) -> str:
        read.append(path)
        return sha256(path.read_bytes())

    monkeypatch.setattr(file_hashes, "file_sha256", note)
    return read


def test_a_hash_is_remembered_beside_the_file_until_it_changes(tmp_path: Path, hashed: list[Path]) -> None:
    path = write(tmp_path / "w.pth", b"one", LONG_AGO_NS)
    write(tmp_path / LEDGER, b"{broken")
    for _ in range(2):
        assert sha256_of(path) == sha256(b"one")
        file_hashes._remembered.cache_clear()
    assert hashed == [path]
    other = write(tmp_path / "v.pth", b"one", LONG_AGO_NS)
    assert sha256_of(other) == sha256(b"one") and hashed == [path, other]
    for data, mtime_ns in ((b"two", LONG_AGO_NS + 1), (b"three", LONG_AGO_NS + 1)):
        assert sha256_of(write(path, data, mtime_ns)) == sha256(data)
    assert len(hashed) == 4


def test_a_folder_that_cannot_be_written_to_costs_one_reading_a_process(
    tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise StorageError(f"cannot write {path}")

    monkeypatch.setattr(file_hashes, "replace", refuse)
    path = write(tmp_path / "w.pth", b"one", LONG_AGO_NS)
    assert sha256_of(path) == sha256_of(path) == sha256(b"one")
    assert hashed == [path] and [entry.name for entry in tmp_path.iterdir()] == ["w.pth"]


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path: Path, hashed: list[Path]) -> None:
    path = write(tmp_path / "w.pth", b"one")
    assert sha256_of(path) == sha256_of(path) == sha256(b"one")
    assert hashed == [path, path] and not (tmp_path / LEDGER).exists()


# fetching


def test_fetching_from_the_web(site: Site, home: Path) -> None:
    data, notes = checkpoint_bytes(), b'{"a": 1}'
    site.pages = {"/model.pth": data, "/notes.json": notes}
    model = model_of(
        web_file(site.url, data), web_file(site.url, notes + b"    ", "notes.json", exact=False, known=False)
    )
    came = fetch(plan(model))
    assert [entry[1] for entry in site.asked] == ["/notes.json", "/model.pth"], "smallest first"
    assert {name: entry.sha256 for name, entry in came.items()} == {
        "model.pth": sha256(data),
        "notes.json": sha256(notes),
    }
    assert resolve(model)["model.pth"].read_bytes() == data
    assert sorted(path.name for path in (home / "toy").iterdir()) == ["model.pth", "notes.json", RECORDS]
    assert [finding.state for finding in verify(model)] == [State.OK, State.OK]
    assert fetch(plan(model)) == {} and len(site.asked) == 2


def test_an_unfinished_download_goes_on(site: Site, home: Path) -> None:
    data = checkpoint_bytes()
    site.pages = {"/model.pth": data}
    write(home / "toy" / UNFINISHED / "model.pth.partial", data[:100])
    model = model_of(web_file(site.url, data))
    assert plan(model).num_bytes == len(data) - 100
    fetch(plan(model))
    assert site.asked == [("GET", "/model.pth", "bytes=100-")]
    assert resolve(model)["model.pth"].read_bytes() == data


def test_a_server_without_ranges_sends_everything_again(site: Site, home: Path) -> None:
    data = checkpoint_bytes()
    site.pages, site.has_ranges = {"/model.pth": data}, False
    write(home / "toy" / UNFINISHED / "model.pth.partial", b"x" * 100)
    fetch(plan(model_of(web_file(site.url, data))))
    assert (home / "toy" / "model.pth").read_bytes() == data


@pytest.mark.parametrize("held", ["all", "too much"])
def test_a_partial_that_is_complete_or_too_long(site: Site, home: Path, held: str) -> None:
    data = checkpoint_bytes()
    site.pages = {"/model.pth": data}
    write(home / "toy" / UNFINISHED / "model.pth.partial", data if held == "all" else data + b"x")
    fetch(plan(model_of(web_file(site.url, data))))
    assert (home / "toy" / "model.pth").read_bytes() == data
    assert len(site.asked) == (0 if held == "all" else 1)


def test_a_download_that_breaks_off_keeps_what_came(site: Site, home: Path) -> None:
    data = checkpoint_bytes()
    site.pages, site.drops_after = {"/model.pth": data}, 120
    model = model_of(web_file(site.url, data))
    with pytest.raises(InputError, match=r"did not come|ended after") as caught:
        fetch(plan(model))
    assert caught.value.fix
    assert find(model, model.files[0]) is None
    assert "unfinished" in next(verify(model)).found
    site.drops_after = None
    fetch(plan(model))
    assert (home / "toy" / "model.pth").read_bytes() == data


def test_what_has_another_hash_does_not_get_the_name(site: Site, home: Path) -> None:
    data = checkpoint_bytes()
    site.pages = {"/model.pth": data[:-1] + b"!"}
    model = model_of(web_file(site.url, data))
    with pytest.raises(InputError, match=sha256(site.pages["/model.pth"])) as caught:
        fetch(plan(model))
    assert sha256(data) in caught.value.expected
    assert find(model, model.files[0]) is None
    assert (home / "toy" / UNFINISHED / "model.pth.rejected").exists()


def test_another_size_is_refused_before_it_is_downloaded(site: Site, home: Path) -> None:
    data = checkpoint_bytes()
    site.pages = {"/model.pth": data + b"more"}
    with pytest.raises(InputError, match=f"offers {len(data) + 4:,} bytes"):
        fetch(plan(model_of(web_file(site.url, data))))
    assert not list(home.rglob("*.partial"))


def test_a_page_that_is_not_there(site: Site) -> None:
    with pytest.raises(InputError, match="404"):
        fetch(plan(model_of(web_file(site.url, b"data"))))


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(InputError, match="did not come") as caught:
        fetch(plan(model_of(web_file("http://127.0.0.1:9", b"data"))))
    assert "avpref weights fetch toy" in caught.value.fix


def test_fetching_from_the_hub(site: Site, home: Path) -> None:
    data = checkpoint_bytes()
    site.pages = {f"/org/repo/resolve/{COMMIT}/deep/model.pth": data}
    model = model_of(hub_file(data))
    came = fetch(plan(model), endpoint=site.url)
    assert came["model.pth"].sha256 == sha256(data)
    assert resolve(model) == {"model.pth": home / "toy" / "deep" / "model.pth"}
    assert sorted(path.name for path in (home / "toy").iterdir()) == ["deep", RECORDS]
    assert next(verify(model)).state is State.OK
    asked = len(site.asked)
    assert fetch(plan(model), endpoint=site.url) == {} and len(site.asked) == asked


def test_a_broken_download_from_the_hub_goes_on(site: Site) -> None:
    data = checkpoint_bytes()
    address = f"/org/repo/resolve/{COMMIT}/deep/model.pth"
    site.pages, site.drops_after = {address: data}, 120
    model = model_of(hub_file(data))
    with pytest.raises(InputError):
        fetch(plan(model), endpoint=site.url)
    site.drops_after = None
    fetch(plan(model), endpoint=site.url)
    assert site.asked[-1] == ("GET", address, "bytes=120-")
    assert resolve(model)["model.pth"].read_bytes() == data


def test_a_file_that_the_hub_does_not_have(site: Site) -> None:
    with pytest.raises(InputError, match="did not come"):
        fetch(plan(model_of(hub_file(b"data"))), endpoint=site.url)


def test_what_came_from_the_hub_with_another_hash_does_not_get_the_name(site: Site) -> None:
    data = checkpoint_bytes()
    site.pages = {f"/org/repo/resolve/{COMMIT}/deep/model.pth": bytes(len(data))}
    model = model_of(hub_file(data))
    with pytest.raises(InputError, match="SHA-256"):
        fetch(plan(model), endpoint=site.url)
    assert find(model, model.files[0]) is None


def test_offline_means_no_downloads(site: Site, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    data = checkpoint_bytes()
    site.pages = {"/model.pth": data}
    model = model_of(web_file(site.url, data))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE") as caught:
        fetch(plan(model))
    assert str(home / "toy") in caught.value.expected and not site.asked
    write(home / "toy" / "model.pth", data)
    assert fetch(plan(model)) == {}


def test_the_disk_is_looked_at_first(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    small = type("Usage", (), {"free": 7_000})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: small)
    file = WeightFile("model.pth", WebFile(f"{site.url}/model.pth"), 5_000_000, is_size_exact=True)
    with pytest.raises(StorageError) as caught:
        fetch(plan(model_of(file)))
    assert "7 kB free" in caught.value.found and "5 MB" in caught.value.expected
    assert "AVPREF_WEIGHTS=" in caught.value.fix and not site.asked


def test_a_home_that_cannot_be_made(tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVPREF_WEIGHTS", str(write(tmp_path / "file", b"") / "home"))
    with pytest.raises(StorageError, match="AVPREF_WEIGHTS=DIR"):
        fetch(plan(model_of(web_file(site.url, b"data"))))


def test_one_command_fetches_a_model_at_a_time(site: Site, home: Path) -> None:
    lock = write(home / "toy" / UNFINISHED / "lock", b"")
    with open(lock) as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another command"):
            fetch(plan(model_of(web_file(site.url, b"data"))))
    assert not site.asked


FETCH_ONE = """
import sys
from avpref.rewards.weights.catalogue import HubFile, Model, Terms, WeightFile
from avpref.rewards.weights.weight_fetch import fetch, plan
url, commit, size, sha256 = sys.argv[1:]
file = WeightFile("model.pth", HubFile("org/repo", "model.pth", commit), int(size), sha256, is_size_exact=True)
fetch(plan(Model("toy", (file,), Terms("CC-BY-4.0", commercial_use=True), "a toy")), endpoint=url)
"""


def test_a_killed_download_from_the_hub_goes_on_where_it_stopped(site: Site, home: Path) -> None:
    data = random.Random(0).randbytes(3 * 2**20)
    address = f"/org/repo/resolve/{COMMIT}/model.pth"
    site.pages, site.stalls_after = {address: data}, 2 * 2**20
    arguments = (site.url, COMMIT, str(len(data)), sha256(data))
    partial = home / "toy" / UNFINISHED / "model.pth.partial"
    process = subprocess.Popen([sys.executable, "-c", FETCH_ONE, *arguments])
    try:
        wait_for(lambda: partial.exists() and partial.stat().st_size > 0)
    finally:
        process.kill()
        process.wait()
        site.stalls_after = None
    held = partial.stat().st_size
    assert 0 < held <= 2 * 2**20
    subprocess.run([sys.executable, "-c", FETCH_ONE, *arguments], check=True)
    assert site.asked[-1] == ("GET", address, f"bytes={held}-")
    assert (home / "toy" / "model.pth").read_bytes() == data
    assert not (home / "toy" / UNFINISHED).exists()


def wait_for(is_true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < end_s, "nothing came"
        time.sleep(0.01)


def test_a_full_disk_while_downloading(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    def fail(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    site.pages = {"/model.pth": b"data"}
    monkeypatch.setattr(weight_fetch, "_copy", fail)
    with pytest.raises(StorageError, match="No space left"):
        fetch(plan(model_of(web_file(site.url, b"data"))))


# verifying


def findings(home: Path, data: bytes, file: WeightFile) -> tuple[State, str, str]:
    write(home / "toy" / file.place, data)
    (finding,) = verify(model_of(file))
    assert bool(finding.fix) is (finding.state is not State.OK)
    return finding.state, finding.found, finding.expected


def test_an_absent_file_is_a_finding() -> None:
    (finding,) = verify(model_of(web_file("http://nowhere", checkpoint_bytes())))
    assert (finding.state, finding.path, finding.fix) == (State.ABSENT, "", "avpref weights fetch toy")


def test_sizes_and_hashes_of_the_catalogue_are_checked(home: Path) -> None:
    data = checkpoint_bytes()
    file = web_file("http://nowhere", data)
    assert findings(home, data, file)[0] is State.OK
    assert findings(home, data[:50], file) == (State.CUT_SHORT, "50 bytes", f"{len(data):,} bytes")
    assert findings(home, data + b" ", file)[0] is State.ANOTHER_FILE
    other = data.replace(bytes(range(100)), bytes(range(100, 200)))
    assert len(other) == len(data)
    state, found, expected = findings(home, other, file)
    assert state is State.ANOTHER_FILE and sha256(other) in found and sha256(data) in expected


def test_a_file_without_a_published_hash_is_compared_with_the_day_it_was_fetched(site: Site, home: Path) -> None:
    data = b'{"layers": 12}'
    site.pages = {"/notes.json": data}
    model = model_of(web_file(site.url, b"about so much", "notes.json", exact=False, known=False))
    fetch(plan(model))
    assert next(verify(model)).expected == "as it was fetched"
    write(home / "toy" / "notes.json", b'{"layers": 13}')
    (finding,) = verify(model)
    assert finding.state is State.ALTERED and sha256(data) in finding.expected
    write(home / "toy" / "notes.json", b'{"layers"')
    assert next(verify(model)).state is State.CUT_SHORT
    (home / "toy" / RECORDS).unlink()
    assert next(verify(model)).state is State.UNREADABLE
    write(home / "toy" / "notes.json", b'{"layers": 13}')
    assert next(verify(model)).state is State.OK


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("w.safetensors", b"<html>not found</html>", "SafetensorError"),
        ("w.safetensors", b"abc", "SafetensorError"),
        ("w.safetensors", safetensors_bytes()[:-8], "SafetensorError"),
        ("w.safetensors", (4).to_bytes(8, "little") + b"[1,2", "SafetensorError"),
        ("w.safetensors", (4).to_bytes(8, "little") + b"1234", "SafetensorError"),
        ("w.pth", b"<html>not found</html>", "BadZipFile"),
        ("w.pth", checkpoint_bytes("archive/other"), "no torch checkpoint"),
        ("w.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "Git LFS pointer"),
        ("w.json", b"", "JSONDecodeError"),
        ("w.py", b"404: Not Found", "SyntaxError"),
        ("w.py", b"a = '\x00'", "null"),
    ],
)
def test_what_cannot_be_opened_says_why(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    assert reason in unreadable(write(tmp_path / name, data))


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_every_beginning_of_a_file_is_unreadable(tmp_path: Path, name: str) -> None:
    data = safetensors_bytes() if name.endswith("safetensors") else checkpoint_bytes()
    assert unreadable(write(tmp_path / name, data)) == ""
    for size in (*range(0, len(data), 5), len(data) - 1):
        assert unreadable(write(tmp_path / name, data[:size])), size


def test_files_that_torch_and_safetensors_write_are_readable(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.arange(5.0), "b": torch.ones(2, 3, dtype=torch.bfloat16)}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "w.pth")
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert unreadable(tmp_path / "w.pth") == unreadable(tmp_path / "w.safetensors") == ""
