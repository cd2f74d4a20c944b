"""Verifying weight files: sizes, hashes, records of fetches, and files that cannot be opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_weights import (
    Site,
    checkpoint_bytes,
    model_of,
    safetensors_bytes,
    sha256,
    web_file,
    write,
)

from avpref.rewards.weights.catalogue import (
    WeightFile,
)
from avpref.rewards.weights.weight_fetch import fetch, plan
from avpref.rewards.weights.weight_verify import State, unreadable, verify
from avpref.storage.file_hashes import RECORDS


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
