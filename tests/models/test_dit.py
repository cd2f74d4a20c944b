"""The network: shapes, names, what it may and may not touch, gradients."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from present import present

from avpref.config.network_settings import NetworkSettings
from avpref.models.bases.velocity_network import compile_blocks
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import Latents
from avpref.models.positions import AudioPositions

FULL_SIZE = NetworkConfig(
    dim=1536,
    ffn_dim=8960,
    freq_dim=256,
    text_dim=4096,
    text_len=512,
    num_heads=12,
    num_layers=30,
    in_dim=16,
    audio_in_dim=8,
)


def run(network: JavisDiT, inputs, **changes) -> Latents:
    frames = None if network.model_type.has_video else 3
    return network(inputs.latents, inputs.t, inputs.text, inputs.mask, num_video_latents=frames, **changes)


def audio_of(velocity: Latents) -> torch.Tensor:
    return present(velocity.audio)


def loss_of(velocity: Latents) -> torch.Tensor:
    return torch.stack([part.square().mean() for part in velocity if part is not None]).sum()


@pytest.mark.parametrize(
    ("model_type", "tensors", "values"), [(ModelType.T2V, 825, 1_418_996_800), (ModelType.T2AV, 982, 2_252_388_960)]
)
def test_full_size_has_the_released_counts(model_type: ModelType, tensors: int, values: int) -> None:
    with torch.device("meta"):
        state = JavisDiT(FULL_SIZE, model_type).state_dict()
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == values


def test_builds_have_the_names_of_their_modalities(make_network) -> None:
    both, video, audio = (
        set(make_network(kind).state_dict()) for kind in (ModelType.T2AV, ModelType.T2V, ModelType.T2A)
    )
    assert video == {name for name in both if "audio_" not in name}
    video_only = {name for name in both if name.startswith(("patch_embedding.", "head.")) or ".ffn." in name}
    assert audio == both - video_only


def test_shared_variant_has_one_feed_forward(make_network) -> None:
    names = set(make_network(dual_ffn=False).state_dict())
    assert not [name for name in names if "audio_ffn" in name or "audio_modulation" in name or "audio_time" in name]
    assert "audio_patch_embedding.weight" in names and "audio_head.head.weight" in names


@pytest.mark.parametrize("dual_ffn", [True, False])
@pytest.mark.parametrize("model_type", list(ModelType))
def test_velocity_has_the_shapes_of_its_input(make_network, make_inputs, model_type: ModelType, dual_ffn: bool) -> None:
    inputs = make_inputs(model_type)
    for latent, actual in zip(inputs.latents, run(make_network(model_type, dual_ffn=dual_ffn), inputs), strict=True):
        assert (latent is None) == (actual is None)
        if latent is not None:
            assert actual is not None and actual.shape == latent.shape and actual.dtype == torch.float32


def test_inputs_are_not_changed(make_network, make_inputs) -> None:
    inputs, untouched = make_inputs(), make_inputs()
    run(make_network(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs.latents, untouched.latents, strict=True))
    assert all(torch.equal(getattr(inputs, name), getattr(untouched, name)) for name in ("t", "text", "mask"))


def test_a_row_is_the_same_alone_and_in_a_batch(make_network, make_inputs) -> None:
    network, inputs = make_network(), make_inputs(rows=4)
    together = run(network, inputs)
    for row in range(4):
        part = slice(row, row + 1)
        alone = network(
            Latents(*(x[part] for x in inputs.latents)), inputs.t[part], inputs.text[part], inputs.mask[part]
        )
        for whole, single in zip(together, alone, strict=True):
            torch.testing.assert_close(present(whole)[part], single, rtol=1e-5, atol=1e-5)


def test_masked_states_count_as_zeros_and_are_still_attended(make_network, make_inputs) -> None:
    network, inputs = make_network(), make_inputs()
    zeroed = replace(inputs, text=inputs.text * inputs.mask[..., None], mask=torch.ones_like(inputs.mask))
    for masked, zero in zip(run(network, inputs), run(network, zeroed), strict=True):
        torch.testing.assert_close(masked, zero)


@pytest.mark.parametrize("scheme", list(AudioPositions))
def test_position_schemes_need_no_other_weights(make_network, make_inputs, scheme: AudioPositions) -> None:
    reference, other = make_network(), make_network(audio_pe_type=scheme)
    other.load_state_dict(reference.state_dict())
    is_same = torch.equal(audio_of(run(reference, make_inputs())), audio_of(run(other, make_inputs())))
    assert is_same == (reference.config.audio_pe_type is scheme)


def test_audio_only_build_uses_the_length_of_the_video(make_network, make_inputs) -> None:
    network, inputs = make_network(ModelType.T2A), make_inputs(ModelType.T2A)
    short, long = (
        network(inputs.latents, inputs.t, inputs.text, inputs.mask, num_video_latents=n).audio for n in (3, 8)
    )
    assert not torch.allclose(short, long)


def test_norms_that_are_switched_off_leave_no_tensors(make_network, make_inputs) -> None:
    network = make_network(qk_norm=False, cross_attn_norm=False)
    assert not [name for name in network.state_dict() if "norm" in name]
    assert present(run(network, make_inputs()).video).isfinite().all()


def test_bfloat16_weights_stay_close_and_answer_in_float32(make_network, make_inputs) -> None:
    exact = run(make_network(), make_inputs())
    for wanted, actual in zip(exact, run(make_network().bfloat16(), make_inputs()), strict=True):
        assert actual is not None and wanted is not None and actual.dtype == torch.float32
        assert (actual - wanted).norm() < 0.05 * wanted.norm()


def test_time_layers_and_heads_ignore_autocast(make_network, make_inputs) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        video = present(run(make_network(), make_inputs()).video)
    assert video.dtype == torch.float32 and video.isfinite().all()


@pytest.mark.parametrize("dual_ffn", [True, False])
@pytest.mark.parametrize("model_type", list(ModelType))
def test_gradient_reaches_every_parameter(make_network, make_inputs, model_type: ModelType, dual_ffn: bool) -> None:
    network = make_network(model_type, dual_ffn=dual_ffn)
    loss_of(run(network, make_inputs(model_type))).backward()
    idle = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_checkpointing_changes_no_gradient(make_network, make_inputs) -> None:
    plain, saving = make_network(), make_network()
    saving.activation_checkpointing = True
    for network in (plain, saving):
        loss_of(run(network, make_inputs())).backward()
    for wanted, actual in zip(plain.parameters(), saving.parameters(), strict=True):
        assert torch.equal(wanted.grad, actual.grad)


def test_sampling_first_does_not_break_training(make_network, make_inputs) -> None:
    network, inputs = make_network(), make_inputs()
    with torch.inference_mode():
        run(network, inputs)
    loss_of(run(network, inputs)).backward()


def test_time_is_not_rounded_to_the_dtype_of_the_weights(make_network, make_inputs) -> None:
    network, inputs = make_network().bfloat16(), make_inputs()
    assert torch.tensor(700.0).bfloat16() == torch.tensor(700.5).bfloat16()
    early, late = (audio_of(run(network, replace(inputs, t=torch.full((3,), t)))) for t in (0.7, 0.7005))
    assert not torch.equal(early, late)


@pytest.mark.parametrize(
    ("model_type", "latents", "message"),
    [
        (ModelType.T2AV, Latents(torch.zeros(1, 3, 3, 4, 6), None), "needs audio latents"),
        (ModelType.T2V, Latents(torch.zeros(1, 3, 3, 4, 6), torch.zeros(1, 2, 8, 4)), "has no audio"),
        (ModelType.T2V, Latents(torch.zeros(1, 3, 3, 5, 6), None), r"size \(3, 5, 6\)"),
        (ModelType.T2A, Latents(None, torch.zeros(1, 2, 8, 4)), "num_video_latents"),
    ],
)
def test_latents_that_do_not_fit_are_refused(
    make_network, model_type: ModelType, latents: Latents, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_network(model_type)(latents, torch.zeros(1), torch.zeros(1, 6, 10), torch.ones(1, 6))


def test_text_of_another_length_is_refused(make_network, make_inputs) -> None:
    inputs = make_inputs()
    with pytest.raises(ValueError, match="padded to 6 positions, found 5"):
        run(make_network(), replace(inputs, text=inputs.text[:, :5], mask=inputs.mask[:, :5]))


def test_config_from_settings_and_json(tiny_config: NetworkConfig) -> None:
    values = json.loads(tiny_config.to_json())
    assert NetworkConfig.from_original(values | {"model_type": "t2av", "seed": 3, "out_dim": 3}) == tiny_config
    with pytest.raises(ValueError, match="out_dim = in_dim, found 4 and 3"):
        NetworkConfig.from_original(values | {"out_dim": 4})
    settings = NetworkSettings(**{name: values[name] for name in NetworkSettings.model_fields if name in values})
    assert NetworkConfig.from_settings(settings) == tiny_config


def test_config_refuses_sizes_that_do_not_divide(tiny_config: NetworkConfig) -> None:
    with pytest.raises(ValueError, match="num_heads"):
        replace(tiny_config, num_heads=5)
    with pytest.raises(ValueError, match="freq_dim"):
        replace(tiny_config, freq_dim=15)


@pytest.mark.slow
def test_compiled_blocks_agree_and_keep_their_names(make_network, make_inputs) -> None:
    plain, compiled = make_network(), make_network()
    compile_blocks(compiled)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    for network in (plain, compiled):
        loss_of(run(network, make_inputs())).backward()
    for wanted, actual in zip(run(plain, make_inputs()), run(compiled, make_inputs()), strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-5)
    for wanted, actual in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, wanted.grad, rtol=1e-3, atol=1e-5)
