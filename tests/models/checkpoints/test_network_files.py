"""Networks on disk."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from network_states import state_hash
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avpref.errors import InputError, SchemaVersionError
from avpref.models.checkpoints.network_loading import load_network, save_network
from avpref.models.dit import ModelType
from avpref.models.positions import AudioPositions


@pytest.fixture
def saved(make_network, tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_network(path, make_network(), {"step": "12"})
    return path


def test_round_trip(make_network, make_inputs, tiny_config, saved: Path) -> None:
    network, loaded, inputs = make_network(), load_network(saved, tiny_config, ModelType.T2AV), make_inputs()
    assert state_hash(loaded) == state_hash(network)
    arguments = (inputs.latents, inputs.t, inputs.text, inputs.mask)
    assert torch.equal(loaded(*arguments).audio, network(*arguments).audio)
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    with safe_open(saved, framework="pt") as file:
        metadata = json.loads(file.metadata()["avpref"])
    assert metadata["step"] == "12" and metadata["model_type"] == "t2av"
    assert [item.name for item in saved.parent.iterdir()] == [saved.name]


def test_dtype_is_that_of_the_file(make_network, tiny_config, tmp_path: Path) -> None:
    save_network(tmp_path / "half.safetensors", make_network().bfloat16())
    loaded = load_network(tmp_path / "half.safetensors", tiny_config, ModelType.T2AV)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_hash_sees_one_changed_value_and_no_file_layout(make_network, tiny_config, saved: Path) -> None:
    tensors = load_file(saved)
    save_file(dict(reversed(tensors.items())), saved.with_name("bare.safetensors"))
    bare = load_network(saved.with_name("bare.safetensors"), tiny_config, ModelType.T2AV)
    before = state_hash(bare)
    assert before == state_hash(make_network())
    with torch.no_grad():
        bare.head.head.bias[0] += 1
    assert state_hash(bare) != before


def test_differences_are_named_and_counted(tiny_config, saved: Path) -> None:
    tensors = load_file(saved)
    del tensors["head.modulation"]
    for index in range(5):
        tensors[f"surplus.{index}"] = torch.zeros(1)
    tensors["head.head.bias"] = torch.zeros(7)
    save_file(tensors, saved)
    with pytest.raises(InputError) as caught:
        load_network(saved, tiny_config, ModelType.T2AV)
    message = str(caught.value)
    assert "1 missing (head.modulation)" in message
    assert "5 unexpected (surplus.0, surplus.1, surplus.2, ...)" in message
    assert "1 of another shape (head.head.bias (7,) instead of (12,))" in message


def test_a_joint_file_is_no_video_network(tiny_config, saved: Path) -> None:
    with pytest.raises(InputError, match="unexpected"):
        load_network(saved, tiny_config, ModelType.T2V)


def test_a_configuration_that_shapes_cannot_tell_is_told_by_metadata(tiny_config, saved: Path) -> None:
    changed = replace(tiny_config, audio_pe_type=AudioPositions.VANILLA)
    with pytest.raises(InputError, match="saved with audio_pe_type=interleave_offset"):
        load_network(saved, changed, ModelType.T2AV)


def test_another_schema_version_is_refused(tiny_config, saved: Path) -> None:
    save_file(load_file(saved), saved, metadata={"avpref": json.dumps({"avpref_schema": "999"})})
    with pytest.raises(SchemaVersionError, match="schema 999"):
        load_network(saved, tiny_config, ModelType.T2AV)


@pytest.mark.parametrize("content", [None, b"not tensors"])
def test_unreadable_files_are_refused(tiny_config, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read"):
        load_network(path, tiny_config, ModelType.T2AV)


def test_equal_networks_give_equal_bytes(make_network, saved: Path, tmp_path: Path) -> None:
    again = [tmp_path / f"again-{attempt}.safetensors" for attempt in range(4)]
    for path in again:
        save_network(path, make_network(), {"step": "12"})
    assert {path.read_bytes() for path in again} == {saved.read_bytes()}


def test_a_failed_write_leaves_the_old_file(make_network, saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        save_network(saved, make_network(), {"step": object()})  # type: ignore[dict-item]
    assert saved.read_bytes() == before and [item.name for item in saved.parent.iterdir()] == [saved.name]
