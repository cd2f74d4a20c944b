"""Initial weights, and the audio branch that starts from a video network."""

from __future__ import annotations

import pytest
import torch
from network_states import state_hash

from avpref.errors import InputError
from avpref.models.blocks import Block
from avpref.models.dit import ModelType
from avpref.models.initialisation import create_network, initialise, with_audio_started


def test_values_depend_only_on_the_generator(make_network, tiny_config) -> None:
    created = create_network(tiny_config, ModelType.T2AV, torch.Generator().manual_seed(3))
    other = make_network()
    initialise(other, torch.Generator().manual_seed(3))
    assert state_hash(other) == state_hash(created)
    initialise(other, torch.Generator().manual_seed(4))
    assert state_hash(other) != state_hash(created)


def test_the_global_generator_is_left_alone(tiny_config) -> None:
    before = torch.get_rng_state()
    create_network(tiny_config, ModelType.T2AV, torch.Generator().manual_seed(3))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_network_answers_zero(tiny_config, make_inputs) -> None:
    network, inputs = create_network(tiny_config, ModelType.T2AV, torch.Generator().manual_seed(3)), make_inputs()
    assert not any(part.any() for part in network(inputs.latents, inputs.t, inputs.text, inputs.mask))


def test_values_have_the_intended_spread(tiny_config) -> None:
    network = create_network(tiny_config, ModelType.T2AV, torch.Generator().manual_seed(3))
    block = network.blocks[0]
    assert isinstance(block, Block)
    assert block.modulation.std().item() == pytest.approx(24**-0.5, rel=0.3)
    bound = (6 / (24 + 24)) ** 0.5
    assert 0.9 * bound < block.self_attn.q.weight.abs().max().item() <= bound
    assert not block.self_attn.q.bias.any()
    assert (block.get_parameter("norm3.weight") == 1).all()
    assert (block.get_parameter("self_attn.norm_q.weight") == 1).all()


def test_audio_branch_starts_as_a_copy_of_the_video_branch(make_network) -> None:
    video, audio = make_network(ModelType.T2V).state_dict(), make_network(ModelType.T2A)
    after = with_audio_started(audio, video, torch.Generator().manual_seed(3))
    assert after.keys() == audio.state_dict().keys()
    assert torch.equal(after["blocks.1.audio_ffn.2.weight"], video["blocks.1.ffn.2.weight"])
    assert torch.equal(after["blocks.0.audio_modulation.param"], video["blocks.0.modulation"][:, 3:6])
    assert torch.equal(after["audio_time_projection.1.weight"], video["time_projection.1.weight"][3 * 24 :])
    assert torch.equal(after["audio_time_projection.1.bias"], video["time_projection.1.bias"][3 * 24 :])
    assert torch.equal(after["blocks.0.self_attn.q.weight"], video["blocks.0.self_attn.q.weight"])


def test_an_incomplete_video_state_is_refused(make_network) -> None:
    video = make_network(ModelType.T2V).state_dict()
    del video["blocks.1.ffn.0.bias"]
    with pytest.raises(InputError, match=r"blocks\.1\.ffn\.0\.bias"):
        with_audio_started(make_network(ModelType.T2A), video, torch.Generator())
