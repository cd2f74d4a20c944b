"""Names of other programs: whole tables at full size, and a numeric proof against diffusers' own class."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from network_states import state_hash
from safetensors.torch import load_file, save_file

from avpref.errors import InputError
from avpref.models.checkpoints.exporting import save_diffusers, to_diffusers_names, to_original_names, video_only
from avpref.models.checkpoints.network_loading import load_generator, load_network
from avpref.models.checkpoints.weight_layouts import Layout, diffusers_name, is_audio, original_name, recognise
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import Latents

QUIET = "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"


@pytest.mark.parametrize(
    ("model_type", "num_tensors", "num_parameters"),
    [(ModelType.T2AV, 982, 2_252_388_960), (ModelType.T2V, 825, 1_418_996_800), (ModelType.T2A, 982 - 125, None)],
)
def test_counts_of_the_released_size(
    full_size, model_type: ModelType, num_tensors: int, num_parameters: int | None
) -> None:
    state = full_size(model_type).state_dict()
    assert len(state) == num_tensors
    if num_parameters is not None:
        assert sum(tensor.numel() for tensor in state.values()) == num_parameters


def test_the_audio_branch_is_157_tensors(full_size) -> None:
    state = full_size(ModelType.T2AV).state_dict()
    audio = {name: tensor for name, tensor in state.items() if is_audio(name)}
    assert (len(audio), sum(tensor.numel() for tensor in audio.values())) == (157, 833_392_160)
    assert video_only(state).keys() == full_size(ModelType.T2V).state_dict().keys()
    assert len(video_only(to_diffusers_names(state))) == 825


def test_every_name_has_one_in_diffusers_and_comes_back(full_size) -> None:
    names = list(full_size(ModelType.T2AV).state_dict())
    theirs = [diffusers_name(name) for name in names]
    assert len(set(theirs)) == len(names)
    assert [original_name(name) for name in theirs] == names
    assert [is_audio(name) for name in theirs] == [is_audio(name) for name in names]
    assert recognise(names, "x") is Layout.ORIGINAL and recognise(theirs, "x") is Layout.DIFFUSERS


def test_names_of_the_audio_branch_are_not_taken_for_the_video_branchs() -> None:
    assert diffusers_name("blocks.7.audio_ffn.0.weight") == "blocks.7.audio_ffn.net.0.proj.weight"
    assert diffusers_name("blocks.7.audio_modulation.param") == "blocks.7.audio_scale_shift_table"
    assert diffusers_name("audio_time_projection.1.bias") == "condition_embedder.audio_time_proj.bias"
    assert diffusers_name("audio_head.modulation") == "audio_scale_shift_table"
    assert diffusers_name("blocks.7.norm3.weight") == "blocks.7.norm2.weight"
    assert diffusers_name("blocks.7.self_attn.o") == "blocks.7.attn1.to_out.0"


@given(st.text(max_size=20))
def test_unknown_names_are_refused(name: str) -> None:
    for rename in (diffusers_name, original_name):
        with pytest.raises(InputError):
            rename(f"surplus.{name}")


def test_a_state_that_is_no_network_is_told(make_network) -> None:
    with pytest.raises(InputError, match="no known tensor among 1, first \\['surplus'\\]"):
        to_original_names({"surplus": 1})
    mixed = make_network().state_dict() | {"blocks.0.norm2.weight": 1}
    with pytest.raises(InputError, match=r"blocks\.0\.norm2\.weight"):
        to_diffusers_names(mixed)


@pytest.mark.parametrize("model_type", list(ModelType))
def test_renaming_there_and_back_keeps_every_bit(make_network, model_type: ModelType) -> None:
    state = make_network(model_type).state_dict()
    there = to_diffusers_names(state)
    back = to_original_names(there)
    assert list(back) == list(state) and all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert to_original_names(state) == state and to_diffusers_names(there) == there


def wan_config() -> NetworkConfig:
    return NetworkConfig(
        dim=48,
        ffn_dim=56,
        freq_dim=16,
        text_dim=10,
        text_len=6,
        num_heads=2,
        num_layers=3,
        in_dim=4,
        audio_in_dim=2,
    )


@pytest.fixture
def wan():
    """diffusers' class at the size of ``wan_config``, every parameter random, gains and biases too."""
    from diffusers.models import WanTransformer3DModel

    with torch.random.fork_rng():
        torch.manual_seed(3)  # the class draws its own values from the global generator
        network = WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=24,
            in_channels=4,
            out_channels=4,
            text_dim=10,
            freq_dim=16,
            ffn_dim=56,
            num_layers=3,
        ).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return network


def answers(ours: JavisDiT, theirs) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    video, text = torch.randn(2, 4, 3, 6, 8, generator=generator), torch.randn(2, 6, 10, generator=generator)
    t = torch.tensor([0.913, 0.2])
    with torch.no_grad():
        own = ours.eval()(Latents(video, None), t, text, torch.ones(2, 6)).video
        other = theirs(video, t * 1000, text, return_dict=False)[0]
    return own, other


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
def test_diffusers_folder_gives_diffusers_answers(wan, tmp_path: Path, max_shard_size: str) -> None:
    wan.save_pretrained(tmp_path / "transformer", max_shard_size=max_shard_size)
    assert (len(list((tmp_path / "transformer").glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")
    for path in (tmp_path, tmp_path / "transformer"):
        own, other = answers(load_generator(path, wan_config(), ModelType.T2V), wan)
        assert (own - other).abs().max() <= 1e-5 * other.abs().max()


@pytest.mark.filterwarnings(*QUIET)
def test_the_norms_are_not_swapped_by_luck(wan, tmp_path: Path) -> None:
    """A gain of the norm before cross-attention changes both answers, and alike."""
    with torch.no_grad():
        wan.blocks[1].norm2.weight.mul_(3)
    wan.save_pretrained(tmp_path)
    ours = load_generator(tmp_path, wan_config(), ModelType.T2V)
    own, other = answers(ours, wan)
    torch.testing.assert_close(own, other, rtol=0, atol=1e-5 * other.abs().max().item())
    with torch.no_grad():
        ours.get_parameter("blocks.1.norm3.weight").div_(3)
    assert (answers(ours, wan)[0] - other).abs().max() > 1e-3 * other.abs().max()


@pytest.mark.filterwarnings(*QUIET)
@pytest.mark.parametrize("max_shard_bytes", [10**9, 20_000])
def test_diffusers_loads_our_export(make_network, tmp_path: Path, max_shard_bytes: int) -> None:
    from diffusers.models import WanTransformer3DModel

    config = wan_config()
    joint = make_network(**vars(config))
    save_diffusers(joint, tmp_path / "out", max_shard_bytes)
    theirs, report = WanTransformer3DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    ours = load_generator(tmp_path / "out", config, ModelType.T2V)
    assert all(torch.equal(tensor, joint.state_dict()[name]) for name, tensor in ours.state_dict().items())
    own, other = answers(ours, theirs.eval())
    assert (own - other).abs().max() <= 1e-5 * other.abs().max()


def test_no_diffusers_folder_of_what_the_class_cannot_be(make_network, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="t2a network"):
        save_diffusers(make_network(ModelType.T2A), tmp_path)
    with pytest.raises(InputError, match="qk_norm False"):
        save_diffusers(make_network(qk_norm=False), tmp_path)


@pytest.mark.filterwarnings(*QUIET)
def test_head_counts_that_shapes_cannot_tell_are_compared(wan, tmp_path: Path) -> None:
    wan.save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        load_generator(tmp_path, replace(wan_config(), num_heads=4), ModelType.T2V)
    assert "num_attention_heads 2" in caught.value.found and caught.value.expected == "num_attention_heads 4"


@pytest.mark.parametrize("model_type", list(ModelType))
def test_diffusers_names_with_audio_load_too(make_network, tiny_config, tmp_path: Path, model_type: ModelType) -> None:
    network = make_network(model_type)
    save_file(to_diffusers_names(network.state_dict()), tmp_path / "renamed.safetensors")
    assert "blocks.0.norm2.weight" in load_file(tmp_path / "renamed.safetensors")
    loaded = load_generator(tmp_path / "renamed.safetensors", tiny_config, model_type)
    assert state_hash(loaded) == state_hash(network)


@pytest.mark.golden
def test_the_originals_own_network_goes_through_every_name(golden: Path, tmp_path: Path) -> None:
    config = NetworkConfig.from_original(json.loads((golden / "javis_config.json").read_text()))
    plain = load_network(golden / "javis_policy.safetensors", config, ModelType.T2AV)
    save_file(to_diffusers_names(plain.state_dict()), tmp_path / "renamed.safetensors")
    for path in (golden / "javis_policy.safetensors", tmp_path / "renamed.safetensors"):
        assert state_hash(load_generator(path, config, ModelType.T2AV)) == state_hash(plain)
