"""The dual-stream network without vectors: sizes of the release, strict loading, masks, training stages, sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avpref.errors import InputError
from avpref.models.dual_stream.dual_config import DualStreamConfig, PriorContext
from avpref.models.dual_stream.dual_flow import flow_errors
from avpref.models.dual_stream.dual_inputs import DualStreamInputs
from avpref.models.dual_stream.dual_loading import load_dual_stream, read_dual_stream
from avpref.models.dual_stream.dual_network import DualStreamNetwork
from avpref.models.dual_stream.dual_sampling import DualSampling, sample_dual
from avpref.models.dual_stream.dual_stages import DualStage, freeze_for
from avpref.models.dual_stream.opensora_vae import num_latent_frames
from avpref.models.dual_stream.synchrony_prior import PriorConfig, SynchronyPrior, kl_divergence
from avpref.models.dual_stream.temporal_masks import IDENTITY, TRAINING_MIXTURE, draw_masks, draw_name, video_mask
from avpref.models.dual_stream.temporal_vae import TemporalVae, TemporalVaeConfig
from avpref.models.flow import Latents

SMALL = DualStreamConfig(
    depth=1,
    hidden_size=16,
    num_heads=2,
    caption_channels=6,
    model_max_length=5,
    spatial_prior_len=3,
    temporal_prior_len=2,
    st_prior_channel=4,
    prior_context=PriorContext.ROW,
)


@pytest.fixture
def network() -> Iterator[DualStreamNetwork]:
    """A small network in which no part is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        made = DualStreamNetwork(SMALL)
        for parameter in made.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        yield made.eval()


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(rows: int, **more: Any) -> DualStreamInputs:
    mask = torch.ones(rows, 5, dtype=torch.long)
    mask[0, 3:] = 0
    text, spatial, temporal = normal(rows, 5, 6), normal(rows, 3, 4, seed=1), normal(rows, 2, 4, seed=2)
    return DualStreamInputs(text, mask, spatial, temporal, torch.full((rows,), 24.0), (48.0, 64.0), **more)


def latents_of(rows: int, seed: int = 3) -> Latents:
    return Latents(normal(rows, 4, 3, 4, 5, seed=seed), normal(rows, 8, 8, 3, seed=seed + 1))


def tracks(latents: Latents) -> tuple[Tensor, Tensor]:
    assert latents.video is not None and latents.audio is not None
    return latents.video, latents.audio


def elements(module: torch.nn.Module) -> tuple[int, int]:
    return len(module.state_dict()), sum(parameter.numel() for parameter in module.parameters())


def test_sizes_of_the_release() -> None:
    with torch.device("meta"):
        assert elements(DualStreamNetwork(DualStreamConfig())) == (3286, 3_719_730_948)
        assert elements(DualStreamNetwork(DualStreamConfig(has_video=False))) == (983, 1_213_806_084)
        assert elements(SynchronyPrior(PriorConfig())) == (130, 30_116_608)
        assert elements(SynchronyPrior(PriorConfig(encode_va=True))) == (175, 30_650_945)
        assert elements(TemporalVae(TemporalVaeConfig())) == (267, 309_687_144)


def test_what_each_stage_of_the_release_trains() -> None:
    with torch.device("meta"):
        network = DualStreamNetwork(DualStreamConfig())
        audio = DualStreamNetwork(DualStreamConfig(has_video=False))
    assert sum(value.numel() for value in freeze_for(audio, DualStage.AUDIO)) == 1_196_481_088
    assert sum(value.numel() for value in freeze_for(network, DualStage.JOINT)) == 1_315_605_888
    assert sum(value.numel() for value in network.parameters() if value.requires_grad) == 1_315_605_888
    with pytest.raises(ValueError, match="without video"):
        freeze_for(audio, DualStage.JOINT)


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others_unless_priors_are_mixed(network: DualStreamNetwork) -> None:
    x, t, inputs = latents_of(3), torch.tensor([0.9, 0.5, 0.1]), inputs_of(3)
    together = network.velocity(x, t, inputs)
    parts: dict[str, Any] = {
        name: value[2:] if isinstance(value, Tensor) else value for name, value in vars(inputs).items()
    }
    last = DualStreamInputs(**parts)
    alone = network.velocity(Latents(*(track[2:] for track in x if track is not None)), t[2:], last)
    for one, other in zip(tracks(together), alone, strict=True):
        torch.testing.assert_close(one[2:], other, atol=1e-5, rtol=1e-4)
    mixed = DualStreamNetwork(replace(SMALL, prior_context=PriorContext.BATCH))
    mixed.load_state_dict(network.state_dict())
    assert not torch.allclose(tracks(mixed.velocity(x, t, inputs))[1], tracks(together)[1], atol=1e-3)


@torch.no_grad()
def test_padding_of_a_text_has_no_effect(network: DualStreamNetwork) -> None:
    x, t, inputs = latents_of(1), torch.tensor([0.7]), inputs_of(1)
    text = inputs.text.clone()
    text[0, 3:] = 100.0
    changed = network.velocity(x, t, replace(inputs, text=text))
    for one, other in zip(network.velocity(x, t, inputs), changed, strict=True):
        torch.testing.assert_close(one, other)


@torch.no_grad()
def test_masks_that_ask_for_everything_change_nothing(network: DualStreamNetwork) -> None:
    x, t = latents_of(2), torch.tensor([0.7, 0.2])
    masks = {"video_mask": torch.ones(2, 3, dtype=torch.bool), "audio_mask": torch.ones(2, 8, dtype=torch.bool)}
    for one, other in zip(
        network.velocity(x, t, inputs_of(2)), network.velocity(x, t, inputs_of(2, **masks)), strict=True
    ):
        torch.testing.assert_close(one, other)
    masks["video_mask"] = torch.tensor([[False, True, True]] * 2)
    free, masked = (network.velocity(x, t, inputs) for inputs in (inputs_of(2), inputs_of(2, **masks)))
    assert not torch.allclose(tracks(free)[0], tracks(masked)[0], atol=1e-3)


def test_a_modality_that_is_known_has_a_constant_error(network: DualStreamNetwork) -> None:
    data, noise = latents_of(2), latents_of(2, seed=9)
    masks = torch.zeros(2, 3, dtype=torch.bool), torch.ones(2, 8, dtype=torch.bool)
    errors = flow_errors(data, data, noise, *masks)
    assert errors.video.tolist() == [1.0, 1.0]
    torch.testing.assert_close(errors.audio, flow_errors(data, data, noise).audio)
    torch.testing.assert_close(errors.total, errors.video + errors.audio)


def test_loading_is_strict(network: DualStreamNetwork, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    loaded = read_dual_stream(tmp_path, SMALL)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in state.items())
    name = "va_cross_blocks.0.gamma_m1"
    lacking = {key: value for key, value in state.items() if key != name}
    for tensors, reason in (
        (lacking, name),
        ({**state, "onset.weight": torch.zeros(1)}, "onset.weight"),
        ({**state, name: torch.zeros(7)}, name),
        ({**state, "rope.freqs": state["rope.freqs"] * 1.1}, "rope.freqs differs"),
    ):
        with pytest.raises(InputError, match=reason):
            load_dual_stream(tensors, SMALL, "a file")
    assert load_dual_stream({**state, "rope.freqs": state["rope.freqs"].bfloat16()}, SMALL, "bf16")


def test_without_guidance_the_sampler_takes_the_prompts_alone(network: DualStreamNetwork) -> None:
    noise, inputs, seen = latents_of(2), inputs_of(2), []
    end = sample_dual(network, noise, inputs, DualSampling(steps=3, guidance=1.0), lambda step, _: seen.append(step))
    assert seen == [1, 2, 3] and end.video is not None and noise.video is not None
    assert end.video.shape == noise.video.shape
    separate = DualSampling(steps=3, guidance=4.0, is_joint=False)
    guided = sample_dual(network, noise, inputs, separate)
    joint = sample_dual(network, noise, inputs, replace(separate, is_joint=True))
    for one, other in zip(guided, joint, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert guided.audio is not None and end.audio is not None
    assert not torch.allclose(guided.audio, end.audio, atol=1e-2)


@pytest.mark.parametrize("name", [IDENTITY, *TRAINING_MIXTURE])
@pytest.mark.parametrize("num", [1, 5, 30])
def test_masks_give_what_their_names_say(name: str, num: int) -> None:
    for seed in range(20):
        mask = video_mask(name, num, torch.Generator().manual_seed(seed))
        known = num - int(mask.sum())
        match name.split("_")[0]:
            case "identity" | "audio":
                assert known == 0
            case "video":
                assert known == num
            case "image" | "quarter" if num > 4:
                most = 1 if name.startswith("image") else num // 4
                assert 1 <= known <= most * (2 if name.endswith("head_tail") else 1)
                assert mask[0] == ("head" not in name or "random" in name) or name.endswith("random")


def test_the_mixture_of_masks_has_the_released_shares() -> None:
    generator = torch.Generator().manual_seed(1)
    names = [draw_name(generator) for _ in range(4000)]
    for name, share in TRAINING_MIXTURE.items():
        assert abs(names.count(name) / len(names) - share) < 4 * (share / len(names)) ** 0.5
    masks = draw_masks(30, 112, generator)
    assert masks.video.shape == (30,) and masks.audio.shape == (112,)


def test_the_divergence_of_a_standard_normal_is_zero() -> None:
    estimator = SynchronyPrior(
        PriorConfig(text_emb_dim=6, hidden_size=8, out_dim=4, nhead=2, num_encoder_layers=1, num_decoder_layers=1)
    )
    priors = estimator(normal(2, 7, 6))
    zero = torch.zeros_like(priors.mean)
    assert kl_divergence(priors._replace(mean=zero, log_variance=zero)).tolist() == [0.0, 0.0]
    assert (kl_divergence(priors) > 0).all()
    torch.testing.assert_close(torch.cat([priors.spatial, priors.temporal], dim=1), priors.mean)
    plain = SynchronyPrior(PriorConfig(6, 3, 2, 8, 4, 2, 1, 1, apply_sampling=False))
    assert plain(normal(2, 7, 6)).log_variance is None
    with pytest.raises(ValueError, match="takes no noise"):
        plain(normal(2, 7, 6), normal(2, 5, 4))


def test_latent_frames_of_any_length() -> None:
    assert [num_latent_frames(num) for num in (1, 4, 5, 17, 18, 34, 35)] == [1, 1, 2, 5, 6, 10, 11]
