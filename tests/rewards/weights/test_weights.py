"""The catalogue of weight files, the folders in which they are looked for, and the ids of their contents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from toy_weights import (
    LONG_AGO_NS,
    checkpoint_bytes,
    hub_file,
    into_hub_cache,
    model_of,
    safetensors_bytes,
    sha256,
    web_file,
    write,
)

from avpref.errors import ConfigError, InputError, StorageError
from avpref.rewards.weights.catalogue import (
    MODELS,
    HubFile,
    WebFile,
    find,
    model_named,
    resolve,
    weights_id,
)
from avpref.rewards.weights.weight_fetch import plan
from avpref.storage import file_hashes
from avpref.storage.file_hashes import LEDGER, sha256_of

# the catalogue


def test_the_catalogue_is_consistent() -> None:
    of_bench = ["i3d", "audioclip", "panns", "panns_32k", "vggish", "passt", "clip", "cavp"]
    names = [model.name for model in MODELS]
    assert names == ["audiobox", "imagebind", "synchformer", "videoalign", "clap", *of_bench]
    for model in MODELS:
        names = [file.name for file in model.files]
        assert len(set(names)) == len(names) and model.terms.licence and model.note
        assert model.num_bytes == sum(file.num_bytes for file in model.files)
        for file in model.files:
            assert file.num_bytes > 0
            assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.place.endswith(file.name)
            match file.source:
                case HubFile() as source:
                    is_pinned = re.fullmatch("[0-9a-f]{40}", source.revision) is not None
                    assert is_pinned or (model.name == "clap" and source.revision == "main")
                    assert source.repo.count("/") == 1
                case WebFile() as source:
                    assert source.url.startswith("https://")


def test_commercial_use_is_as_the_licences_say() -> None:
    allowed = {model.name: model.terms.commercial_use for model in MODELS}
    assert {name for name, is_allowed in allowed.items() if not is_allowed} == {"imagebind", "synchformer", "i3d"}
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
