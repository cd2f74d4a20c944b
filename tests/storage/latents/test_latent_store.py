"""Shards, their index and the reader: what is written is read, bit by bit, and what was changed is refused."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_stores import FINGERPRINT, Named, clip, index_of, text, write_store
from safetensors.numpy import load as load_safetensors

from avpref.datasets.latents import AUDIO, LATENTS, TEXT_STATES, VIDEO, EncodedSample, LatentArray, half_precision
from avpref.errors import InputError, StorageError
from avpref.storage import local_files
from avpref.storage.latents.latent_reader import ClipSize, LatentReader
from avpref.storage.latents.latent_units import ShardImporter, commit_samples
from avpref.storage.latents.shards import shard_of
from avpref.storage.local_files import LocalFiles
from avpref.storage.sibling_runs import SiblingRun, UnitFile
from avpref.storage.unit import Unit
from avpref.storage.unit_files import UnitFiles


def samples(count: int = 7, seed: int = 0) -> list[EncodedSample]:
    generator = torch.Generator().manual_seed(seed)
    return [
        clip(f"c{number}", torch.randn(2, 3, 4, 5, generator=generator), torch.randn(1, 6, 4, generator=generator))
        for number in range(count)
    ]


@given(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=4), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_shard_is_a_safetensors_file_and_its_places_are_true(shapes: list[list[int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays = [half_precision(random.standard_normal(shape)) for shape in shapes]
    data, places = shard_of([(f"s{number}", {VIDEO: array}) for number, array in enumerate(arrays)])
    loaded = load_safetensors(data)
    assert set(loaded) == {f"s{number}/{VIDEO}" for number in range(len(arrays))}
    for number, array in enumerate(arrays):
        place = places[f"s{number}", VIDEO]
        assert np.array_equal(loaded[f"s{number}/{VIDEO}"], array.bits)
        assert data[place.offset : place.offset + place.num_bytes] == array.bits.tobytes()


def test_every_array_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = samples()
    write_store(tmp_path, written)
    reader = LatentReader(index_of(tmp_path), tmp_path)
    for sample in written:
        for part, array in sample.parts.items():
            assert np.array_equal(reader.read(sample.sample_id, part), array.bits)
        assert reader.size(sample.sample_id, VIDEO) == ClipSize(3, 4, 5)
        assert reader.shape(sample.sample_id, AUDIO) == (1, 6, 4)


def test_bfloat16_states_are_read_exactly(tmp_path: Path) -> None:
    states = torch.randn(5, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    array = LatentArray(states.view(torch.uint16).numpy(), "BF16", (5, 8))
    write_store(tmp_path, [EncodedSample("t", "a text", {TEXT_STATES: array}), text("none", torch.zeros(0, 8))])
    reader = LatentReader(index_of(tmp_path), tmp_path)
    assert torch.equal(torch.from_numpy(reader.read("t", TEXT_STATES)), states.float())
    assert reader.read("none", TEXT_STATES).shape == (0, 8)


def test_the_size_of_units_changes_no_value(tmp_path: Path) -> None:
    for name, per_unit in (("one", 1), ("five", 5)):
        write_store(tmp_path / name, samples(), per_unit)
    one, five = (LatentReader(index_of(tmp_path / name), tmp_path / name) for name in ("one", "five"))
    assert all(np.array_equal(one.read(f"c{n}", VIDEO), five.read(f"c{n}", VIDEO)) for n in range(7))


@pytest.mark.parametrize("damage", ["changed", "cut", "absent"])
def test_a_damaged_shard_is_named(tmp_path: Path, damage: str) -> None:
    write_store(tmp_path, samples(2))
    reader = LatentReader(index_of(tmp_path), tmp_path)
    (shard,) = tmp_path.glob("latents/*/*.safetensors")
    data = bytearray(shard.read_bytes())
    shard.unlink()
    data[-1] ^= 1
    if damage != "absent":
        shard.write_bytes(data if damage == "changed" else data[:-9])
    with pytest.raises(InputError, match=shard.name):
        reader.read("c1", AUDIO)
    if damage != "changed":
        with pytest.raises(InputError, match=shard.name):
            reader.require_shards()


def test_an_array_that_no_row_names_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path, samples(1))
    with pytest.raises(InputError, match="no video of other"):
        LatentReader(index_of(tmp_path), tmp_path).read("other", VIDEO)


def test_a_full_disk_leaves_no_unit_and_no_part_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = UnitFiles(LocalFiles(tmp_path / "units"), LATENTS)
    unit = Unit("encode", 0, FINGERPRINT, (Named("c0"),))

    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="no space left"):
        patched.setattr(local_files.os, "fsync", no_space)
        commit_samples(LocalFiles(tmp_path), files, unit, samples(1))
    assert not files.exists(unit) and not [path for path in tmp_path.rglob("*") if path.is_file()]
    commit_samples(LocalFiles(tmp_path), files, unit, samples(1))
    assert files.exists(unit)


def test_rows_of_a_sibling_come_with_their_shards_or_not_at_all(tmp_path: Path) -> None:
    own, sibling = tmp_path / "own", tmp_path / "sibling"
    files = write_store(sibling, samples(3))
    (name,) = [path.relative_to(sibling).as_posix() for path in sibling.glob("units/*/*/*.parquet")]
    file = UnitFile(SiblingRun("sibling", LocalFiles(sibling)), name)
    rows = file.rows()
    assert rows is not None and files.files.names()
    imported = ShardImporter(LocalFiles(own))(file, rows)
    assert imported.num_rows == rows.num_rows
    assert np.array_equal(LatentReader(imported, own).read("c2", VIDEO), samples(3)[2].parts[VIDEO].bits)
    present = {"c0": "clips/c0.mp4", "c1": "clips/c1.mp4", "c2": "clips/c2.mp4"}
    LocalFiles(sibling).commit_once("clips/c1.mp4", b"a clip")
    kept = ShardImporter(LocalFiles(own), present)(file, rows)
    assert set(kept["sample_id"].to_pylist()) == {"c1"}
    next(iter(sibling.glob("latents/*/*.safetensors"))).unlink()
    assert ShardImporter(LocalFiles(tmp_path / "third"))(file, rows).num_rows == 0


def test_the_header_of_a_shard_is_json_of_the_specification(tmp_path: Path) -> None:
    data, _ = shard_of([("a", {VIDEO: half_precision(np.ones((2, 2)))})])
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    assert header == {"a/video": {"dtype": "F16", "shape": [2, 2], "data_offsets": [0, 8]}}
    assert (8 + length) % 8 == 0
