"""Parts of the SFT of JavisDiT v0.1: the audio stream from a video network, stage 1, dropped conditions, new priors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avpref.errors import InputError
from avpref.models.dual_stream.dual_config import DualStreamConfig
from avpref.models.dual_stream.dual_inputs import PriorStates, TextLayout
from avpref.models.dual_stream.dual_network import DualStreamNetwork
from avpref.models.flow import Latents
from avpref.models.javisdit_v01.v01_training import (
    AUDIO_OF_VIDEO,
    VIDEO_MODULES,
    audio_network,
    freeze_for_joint,
    is_video_network,
    redrawn_priors,
    start_from_video,
)

SMALL = DualStreamConfig(
    depth=1,
    hidden_size=16,
    num_heads=2,
    caption_channels=6,
    model_max_length=5,
    spatial_prior_len=3,
    temporal_prior_len=2,
    st_prior_channel=4,
)
LAYOUT = TextLayout.of(SMALL)


def made(seed: int) -> DualStreamNetwork:
    """A network in which no trained part is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = DualStreamNetwork(SMALL)
        for parameter in network.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    return network


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text_of(rows: int) -> tuple[Tensor, Tensor]:
    priors = PriorStates(*(drawn(rows, LAYOUT.num_priors, LAYOUT.prior_channels, seed=seed) for seed in range(3)))
    states = LAYOUT.packed(drawn(rows, 5, 6, seed=4), priors)
    return states, torch.ones(states.shape[:2])


@pytest.fixture
def video_file(tmp_path: Path) -> Path:
    """The video stream of another network under its own names, as Open-Sora's file has it."""
    tensors = {
        name: tensor.contiguous()
        for name, tensor in made(2).state_dict().items()
        if name.split(".")[0] in VIDEO_MODULES and not name.endswith("y_embedding")
    }
    path = tmp_path / "video.safetensors"
    save_file(tensors, path)
    return path


def test_the_audio_stream_starts_from_the_video_stream(video_file: Path) -> None:
    network, before, video = made(1), made(1).state_dict(), made(2).state_dict()
    assert is_video_network(video_file)
    start_from_video(network, video_file)
    after = network.state_dict()
    assert torch.equal(after["spatial_blocks.0.attn.qkv.weight"], video["spatial_blocks.0.attn.qkv.weight"])
    for audio, source in AUDIO_OF_VIDEO.items():
        for name, tensor in network.get_submodule(source).state_dict().items():
            assert torch.equal(after[f"{audio}.{name}"], tensor), name
    for name in ("ax_embedder.proj.weight", "audio_final_layer.linear.weight", "va_cross_blocks.0.gamma_m1"):
        assert torch.equal(after[name], before[name])


def test_a_video_network_of_other_sizes_is_refused(video_file: Path, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in made(2).state_dict().items() if name.split(".")[0] in VIDEO_MODULES}
    tensors["t_block.1.bias"] = torch.zeros(7)
    tensors["surplus"] = torch.zeros(1)
    del tensors["final_layer.linear.bias"]
    path = tmp_path / "other.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with pytest.raises(InputError) as caught:
        start_from_video(made(1), path)
    for part in ("1 missing (final_layer.linear.bias)", "1 surplus (surplus)", "t_block.1.bias [7] instead of [96]"):
        assert part in str(caught.value)


def test_stage_1_trains_the_audio_stream_in_a_network_of_its_own() -> None:
    network = made(1)
    alone = audio_network(network)
    trained = {name.split(".")[0] for name, parameter in alone.named_parameters() if parameter.requires_grad}
    assert trained == {*AUDIO_OF_VIDEO, "ax_embedder", "audio_final_layer"}
    assert not hasattr(alone, "va_cross_blocks")
    parameter = alone.get_parameter("ax_embedder.proj.weight")
    assert parameter.data_ptr() != network.get_parameter("ax_embedder.proj.weight").data_ptr()
    text, mask = text_of(2)
    velocity = alone(Latents(None, drawn(2, 8, 8, 4)), torch.tensor([0.2, 0.7]), text, mask)
    assert velocity.video is None and velocity.audio is not None and velocity.audio.shape == (2, 8, 8, 4)


def test_stage_3_trains_the_injection_of_priors_and_the_bridges() -> None:
    network = made(1)
    freeze_for_joint(network)
    trained = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.requires_grad}
    assert trained == {
        *("st_t_block", "st_prior_embedder", "video_st_prior_blocks", "audio_st_prior_blocks", "va_cross_blocks")
    }


@torch.no_grad()
def test_each_condition_is_dropped_by_itself() -> None:
    """A dropped condition no longer matters, the others do; all three dropped is the network without text."""
    network = made(3).eval()
    latents, t = Latents(drawn(2, 4, 3, 4, 4), drawn(2, 8, 8, 4)), torch.tensor([0.3, 0.6])
    text, mask = text_of(2)
    other = LAYOUT.packed(drawn(2, 5, 6, seed=9), LAYOUT.priors(text))

    def velocity(states: Tensor, *dropped: bool) -> Latents:
        return network(latents, t, states, mask, dropped=torch.tensor([dropped] * 2))

    assert_equal(velocity(text, False, False, False), network(latents, t, text, mask))
    assert_equal(velocity(text, True, True, False), velocity(other, True, True, False))
    for kept in ((False, True, False), (True, False, False)):
        assert not equal(velocity(text, *kept), velocity(other, *kept))
    redrawn = redrawn_priors(LAYOUT, text, [1, 2])
    assert_equal(velocity(text, False, False, True), velocity(redrawn, False, False, True))
    assert not equal(velocity(text, True, True, False), velocity(redrawn, True, True, False))
    assert_equal(velocity(text, True, True, True), network(latents, t, torch.zeros_like(text), torch.zeros_like(mask)))


def equal(first: Latents, second: Latents) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a is not None and b is not None and torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def assert_equal(first: Latents, second: Latents) -> None:
    assert equal(first, second)


def test_priors_are_drawn_anew_for_each_row_by_its_seed() -> None:
    text, _ = text_of(2)
    first, again, swapped = (redrawn_priors(LAYOUT, text, seeds) for seeds in ([5, 6], [5, 6], [6, 5]))
    assert torch.equal(first, again)
    assert torch.equal(LAYOUT.tokens(first), LAYOUT.tokens(text))
    priors, before = LAYOUT.priors(first), LAYOUT.priors(text)
    assert torch.equal(priors.mean, before.mean) and not torch.equal(priors.tokens, before.tokens)
    noise = torch.randn(LAYOUT.num_priors, LAYOUT.prior_channels, generator=torch.Generator().manual_seed(5))
    expected = before.mean[0] + (0.5 * before.log_variance[0]).exp() * noise
    assert torch.allclose(priors.tokens[0], expected, atol=1e-6)
    assert not torch.equal(LAYOUT.priors(swapped).tokens[0], priors.tokens[0])
