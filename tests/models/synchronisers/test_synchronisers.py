"""The synchronisers of table 3 in the network: positions, added layers, their start, and what each of them changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from present import present
from torch import Tensor

from avpref.models.audio_branch import audio_only_network
from avpref.models.bases.velocity_network import compile_blocks
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import Latents
from avpref.models.initialisation import create_network, with_synchroniser
from avpref.models.positions import AudioPositions, TokenGrid, audio_positions
from avpref.models.synchronisers.added_attention import SynchroniserInputs, same_time
from avpref.models.synchronisers.synchroniser import PriorSizes, Synchroniser, is_added

PRIOR = PriorSizes(spatial_tokens=3, temporal_tokens=2, channels=7)
ADDING = [kind for kind in Synchroniser if kind.adds_layers]


def changes_of(kind: Synchroniser) -> dict[str, Any]:
    return {"synchroniser": kind, "prior": PRIOR if kind.has_priors else None}


def text_for(network: JavisDiT, inputs, priors: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The text of ``inputs``, behind ``priors`` [B, K, text_dim] or drawn ones where the network has them."""
    num = network.config.num_states - network.config.text_len
    if not num:
        return inputs.text, inputs.mask
    if priors is None:
        priors = torch.randn(len(inputs.text), num, inputs.text.shape[2], generator=torch.Generator().manual_seed(3))
    ones = torch.ones(len(inputs.text), num)
    return torch.cat([priors, inputs.text], dim=1), torch.cat([ones, inputs.mask], dim=1)


def run(network: JavisDiT, inputs, priors: Tensor | None = None) -> Latents:
    return network(inputs.latents, inputs.t, *text_for(network, inputs, priors))


def loss_of(velocity: Latents) -> Tensor:
    return torch.stack([part.square().mean() for part in velocity if part is not None]).sum()


def equal(first: Latents, second: Latents) -> bool:
    return all(torch.equal(present(a), present(b)) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", list(Synchroniser))
def test_shapes_and_gradients(make_network, make_inputs, kind: Synchroniser) -> None:
    network, inputs = make_network(**changes_of(kind)), make_inputs()
    velocity = run(network, inputs)
    for latent, actual in zip(inputs.latents, velocity, strict=True):
        assert present(actual).shape == latent.shape and present(actual).dtype == torch.float32
    loss_of(velocity).backward()
    idle = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []
    assert any(map(is_added, network.state_dict())) == kind.adds_layers


@pytest.mark.parametrize("kind", ADDING)
def test_added_layers_start_as_identity(make_network, make_inputs, kind: Synchroniser) -> None:
    plain = make_network(synchroniser=kind.without_layers)
    config = replace(plain.config, **changes_of(kind))
    started = with_synchroniser(plain, config, torch.Generator().manual_seed(1))
    inputs = make_inputs()
    for wanted, actual in zip(run(plain, inputs), run(started, inputs), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=0, atol=0)
    loss_of(run(started, inputs)).backward()
    outputs = [weight for name, weight in started.named_parameters() if is_added(name) and name.endswith(".o.weight")]
    assert len(outputs) == 2 * config.num_layers and all(present(weight.grad).any() for weight in outputs)


@pytest.mark.parametrize("kind", ADDING)
def test_other_tensors_start_equal_whatever_the_synchroniser(tiny_config: NetworkConfig, kind: Synchroniser) -> None:
    config = replace(tiny_config, **changes_of(kind))
    plain, added = (
        create_network(own, ModelType.T2AV, torch.Generator().manual_seed(4)).state_dict()
        for own in (tiny_config, config)
    )
    assert plain.keys() == {name for name in added if not is_added(name)}
    assert all(torch.equal(tensor, added[name]) for name, tensor in plain.items())


def test_both_added_layers_have_eight_square_matrices_per_block(full_size) -> None:
    plain = full_size()
    config = replace(plain.config, synchroniser=Synchroniser.FRAME_ATTENTION)
    with torch.device("meta"):
        frames = JavisDiT(config)
        priors = JavisDiT(replace(config, synchroniser=Synchroniser.ST_PRIOR, prior=PriorSizes()))
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in (plain, frames, priors)]
    dim, depth = config.dim, config.num_layers
    assert sizes[1] - sizes[0] == depth * (8 * dim**2 + 12 * dim + 2 * dim)
    assert sizes[1] - sizes[0] == 566_876_160
    assert (
        sizes[2] - sizes[0] == depth * (8 * dim**2 + 12 * dim + 4 * dim) + 128 * dim + dim**2 + 2 * dim == 569_527_296
    )


def test_audio_positions_follow_the_video_with_ta_rope_and_not_with_none(tiny_config: NetworkConfig) -> None:
    short, long = TokenGrid(3, 2, 3, 6, 2), TokenGrid(9, 2, 3, 6, 2)
    for kind in Synchroniser:
        scheme = replace(tiny_config, **changes_of(kind)).positions
        follows = not torch.equal(audio_positions(short, scheme), audio_positions(long, scheme))
        assert follows == kind.aligns_positions
        assert (scheme is AudioPositions.INTERLEAVE_OFFSET) == kind.aligns_positions


@pytest.mark.parametrize("kind", list(Synchroniser))
def test_position_scheme_changes_the_output_only_where_positions_are_aligned(
    make_network, make_inputs, kind: Synchroniser
) -> None:
    network, inputs = make_network(**changes_of(kind)), make_inputs()
    other = make_network(**changes_of(kind), audio_pe_type=AudioPositions.INTERLEAVE)
    assert equal(run(network, inputs), run(other, inputs)) != kind.aligns_positions


def test_frame_attention_reads_tokens_of_the_same_time_only(make_network, make_inputs) -> None:
    network, inputs = make_network(synchroniser=Synchroniser.FRAME_ATTENTION), make_inputs()
    grid = network.token_grid(inputs.latents)
    mask = same_time(grid, torch.device("cpu"))
    layer = network.blocks[0].synchroniser
    x = torch.randn(2, grid.num_video + grid.num_audio, network.config.dim)
    changed = x.clone()
    changed[:, -grid.audio_rows :] += 1  # the last audio step
    before, after = (layer(tokens, SynchroniserInputs(grid.num_video, same_time=mask)) for tokens in (x, changed))
    moved = ((before - after).abs().amax(dim=(0, 2)) > 0)[: grid.num_video].view(grid.video_frames, -1)
    assert moved[-1].all() and not moved[:-1].any()


@pytest.mark.parametrize(("frames", "steps"), [(3, 6), (3, 7), (5, 3), (17, 52), (1, 4), (4, 1)])
def test_every_token_has_a_partner_of_its_time(frames: int, steps: int) -> None:
    mask = same_time(TokenGrid(frames, 2, 3, steps, 2), torch.device("cpu"))
    assert mask.shape == (frames * 6, steps * 2)
    assert mask.any(dim=0).all() and mask.any(dim=1).all()
    of_steps = mask[::6, ::2]
    for frame in range(frames):
        for step in range(steps):
            overlap = min((frame + 1) / frames, (step + 1) / steps) - max(frame / frames, step / steps)
            assert bool(of_steps[frame, step]) == (overlap > 1e-9)


@pytest.mark.parametrize("kind", [Synchroniser.ST_PRIOR, Synchroniser.TA_ROPE_ST_PRIOR])
def test_priors_change_the_output_of_their_own_row(make_network, make_inputs, kind: Synchroniser) -> None:
    network, inputs = make_network(**changes_of(kind)), make_inputs()
    priors = torch.randn(3, PRIOR.num_tokens, 10)
    for token in (0, PRIOR.num_tokens - 1):
        changed = priors.clone()
        changed[1, token] += 1
        for before, after in zip(run(network, inputs, priors), run(network, inputs, changed), strict=True):
            differs = (present(before) - present(after)).flatten(1).abs().amax(dim=1)
            assert differs[1] > 0 and differs[0] == 0 and differs[2] == 0
    unread = priors.clone()
    unread[:, :, PRIOR.channels :] += 1
    assert equal(run(network, inputs, priors), run(network, inputs, unread))


@pytest.mark.parametrize("kind", ADDING)
def test_networks_of_one_modality_have_no_added_layers(make_network, make_inputs, kind: Synchroniser) -> None:
    inputs = make_inputs(ModelType.T2A)
    network = make_network(**changes_of(kind))
    audio = audio_only_network(network)
    assert not any(map(is_added, audio.state_dict()))
    velocity = audio(inputs.latents, inputs.t, *text_for(network, inputs), num_video_latents=3)
    assert present(velocity.audio).isfinite().all()
    assert not any(map(is_added, make_network(ModelType.T2V, **changes_of(kind)).state_dict()))


@pytest.mark.parametrize("kind", ADDING)
def test_checkpointing_changes_no_gradient(make_network, make_inputs, kind: Synchroniser) -> None:
    plain, saving = make_network(**changes_of(kind)), make_network(**changes_of(kind))
    saving.activation_checkpointing = True
    for network in (plain, saving):
        loss_of(run(network, make_inputs())).backward()
    for wanted, actual in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(wanted.grad, actual.grad)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Synchroniser.ST_PRIOR, Synchroniser.FRAME_ATTENTION])
def test_compiled_blocks_agree(make_network, make_inputs, kind: Synchroniser) -> None:
    plain, compiled = make_network(**changes_of(kind)), make_network(**changes_of(kind))
    compile_blocks(compiled)
    for wanted, actual in zip(run(plain, make_inputs()), run(compiled, make_inputs()), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synchroniser": Synchroniser.ST_PRIOR}, "synchroniser st_prior with prior None"),
        ({"prior": PRIOR}, "synchroniser ta_rope with prior"),
        ({"synchroniser": Synchroniser.ST_PRIOR, "prior": PriorSizes(2, 2, 11)}, "channels 11 exceed text_dim 10"),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(
    tiny_config: NetworkConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(tiny_config, **changes)


def test_texts_without_priors_are_refused(make_network, make_inputs) -> None:
    network, inputs = make_network(**changes_of(Synchroniser.ST_PRIOR)), make_inputs()
    with pytest.raises(ValueError, match="padded to 11 positions, found 6"):
        network(inputs.latents, inputs.t, inputs.text, inputs.mask)
