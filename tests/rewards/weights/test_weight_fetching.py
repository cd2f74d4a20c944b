"""Fetching weight files: web servers and the hub on loopback, downloads that break off, full disks."""

from __future__ import annotations

import fcntl
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_weights import (
    COMMIT,
    Site,
    checkpoint_bytes,
    hub_file,
    model_of,
    sha256,
    web_file,
    write,
)

from avpref.errors import InputError, StorageError
from avpref.rewards.weights import weight_fetch
from avpref.rewards.weights.catalogue import (
    UNFINISHED,
    WebFile,
    WeightFile,
    find,
    resolve,
)
from avpref.rewards.weights.weight_fetch import fetch, plan
from avpref.rewards.weights.weight_verify import State, verify
from avpref.storage.file_hashes import RECORDS


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
