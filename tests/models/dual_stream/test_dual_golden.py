"""Numeric parity with the original dual-stream network, its loss, sampler, masks and time shift."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from dual_stream_vectors import V01, config_from
from torch import Tensor, nn

from avpref.models.dual_stream import dual_network
from avpref.models.dual_stream.dual_config import DualStreamConfig
from avpref.models.dual_stream.dual_flow import flow_errors
from avpref.models.dual_stream.dual_inputs import DualStreamInputs, PriorStates, TextLayout
from avpref.models.dual_stream.dual_loading import load_dual_stream
from avpref.models.dual_stream.dual_sampling import DualSampling, duration_shift, sample_dual, shifted_times
from avpref.models.dual_stream.temporal_masks import audio_mask
from avpref.models.flow import Latents, interpolate
from avpref.models.javisdit_v01.v01_base import V01Sampler
from avpref.models.sampling import SamplerSettings
from avpref.models.text import TextBatch

pytestmark = pytest.mark.golden
TOLERANCE = 3e-4


def tracks(latents: Latents) -> tuple[Tensor, Tensor]:
    assert latents.video is not None and latents.audio is not None
    return latents.video, latents.audio


def close(actual: Tensor | None, wanted: Tensor, tolerance: float = TOLERANCE) -> None:
    assert actual is not None
    assert actual.shape == wanted.shape
    assert (actual - wanted).abs().max().item() <= tolerance


def same(latents: Latents, v01: V01, name: str, tolerance: float = TOLERANCE) -> None:
    close(latents.video, v01.io[f"{name}.video"], tolerance)
    close(latents.audio, v01.io[f"{name}.audio"], tolerance)


def test_names_shapes_and_order(v01: V01) -> None:
    entries = v01.document("network_names.json")["network"]
    state = v01.network().state_dict()
    assert [(name, list(tensor.shape)) for name, tensor in state.items()] == [(e["name"], e["shape"]) for e in entries]


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_released_network_mixes_the_priors_of_a_batch(v01: V01, masked: bool) -> None:
    inputs = v01.inputs(**v01.masks()) if masked else v01.inputs()
    same(v01.network().predict(v01.latents(), v01.io["in.t"], inputs), v01, "out.masked" if masked else "out.batch")


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_a_row_may_see_its_own_priors_alone(v01: V01, masked: bool) -> None:
    inputs = v01.inputs(**v01.masks()) if masked else v01.inputs()
    network = v01.network(prior_context="row")
    same(network.predict(v01.latents(), v01.io["in.t"], inputs), v01, "out.rows_masked" if masked else "out.rows")


@torch.no_grad()
@pytest.mark.parametrize("injection", ["modulate", "addition"])
def test_variants_of_injection(v01: V01, injection: str) -> None:
    same(v01.network(injection).predict(v01.latents(), v01.io["in.t"], v01.inputs()), v01, f"out.{injection}")


@torch.no_grad()
def test_the_network_of_audio_alone(v01: V01) -> None:
    config = config_from(DualStreamConfig, v01.config["network"], has_video=False)
    missing = tuple(f"{name}." for name in v01.config["measured"]["audio_only_missing"])
    weights = {name: tensor for name, tensor in v01.weights().items() if not name.startswith(missing)}
    assert len(weights) == v01.config["measured"]["audio_only_keys"]
    network = load_dual_stream(weights, config, "audio").eval()
    out = network.predict(v01.latents(), v01.io["in.t"], v01.inputs())
    assert out.video is None
    close(out.audio, v01.io["out.audio_only.audio"])


@torch.no_grad()
def test_every_part_of_the_first_depth(v01: V01) -> None:
    network = v01.network()
    parts: dict[str, Any] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _module, _inputs, out: parts.__setitem__(name, out))

    keep("t_emb", network.t_embedder)
    keep("fps_emb", network.fps_embedder)
    keep("prior_emb", network.st_prior_embedder)
    keep("t_mlp", network.t_block)
    keep("t_st_mlp", network.st_t_block)
    blocks = {"video_spatial": network.spatial_blocks, "video_temporal": network.temporal_blocks}
    blocks |= {"audio_spatial": network.audio_spatial_blocks, "audio_temporal": network.audio_temporal_blocks}
    blocks |= {"video_prior": network.video_st_prior_blocks, "audio_prior": network.audio_st_prior_blocks}
    for name, list_of_blocks in blocks.items():
        keep(f"b0.{name}", list_of_blocks[0])
    keep("b0.cross", network.va_cross_blocks[0])
    network.predict(v01.latents(), v01.io["in.t"], v01.inputs())
    video, audio = parts.pop("b0.cross")
    parts |= {"b0.cross.video": video, "b0.cross.audio": audio}
    for name, value in parts.items():
        wanted = v01.io[f"mid.{name}"]
        close(value.reshape(wanted.shape), wanted)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss(v01: V01, masked: bool) -> None:
    name = "masked" if masked else "plain"
    t, data = v01.io["in.t"] / 1000, v01.latents()
    noise = Latents(v01.io["flow.noise.video"], v01.io["flow.noise.audio"])
    x = Latents(*(interpolate(x0, x1, t) for x0, x1 in zip(tracks(data), tracks(noise), strict=True)))
    masks = v01.masks() if masked else {}
    inputs = v01.inputs(**masks)
    if masked:
        mixed = zip(tracks(x), tracks(data), masks.values(), strict=True)
        x = Latents(*(torch.where(_wide(mask, now), now, known) for now, known, mask in mixed))
    errors = flow_errors(v01.network().velocity(x, t, inputs), data, noise, **masks)
    close(errors.total, v01.io[f"flow.{name}.loss"], 1e-4)
    close(errors.video.mean(), v01.io[f"flow.{name}.loss_video"].reshape(()), 1e-4)
    close(errors.audio.mean(), v01.io[f"flow.{name}.loss_audio"].reshape(()), 1e-4)


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.view(len(mask), 1, -1, *[1] * (like.ndim - 3))


def sampling_inputs(v01: V01) -> DualStreamInputs:
    inputs, rows = v01.inputs(), len(v01.io["sample.z.video"])
    return replace(
        inputs,
        text=v01.io["sample.y"].reshape(rows, *v01.io["sample.y"].shape[-2:]),
        text_mask=v01.io["sample.mask"],
        spatial_prior=v01.io["sample.spatial_prior"],
        temporal_prior=v01.io["sample.temporal_prior"],
        fps=inputs.fps[:1],
    )


@pytest.mark.parametrize("is_joint", [True, False])
def test_the_sampler(v01: V01, is_joint: bool) -> None:
    data, settings = v01.config["data"], v01.config["sample"]
    ratio = duration_shift(data["height"], data["width"], data["num_frames"]).item()
    steps = DualSampling(settings["steps"], settings["cfg_scale"], ratio, is_joint)
    kept: list[Latents] = []
    noise = Latents(v01.io["sample.z.video"], v01.io["sample.z.audio"])
    end = sample_dual(v01.network(), noise, sampling_inputs(v01), steps, lambda _, x: kept.append(x))
    name = "sample.joint" if is_joint else "sample.separate"
    same(kept[0], v01, f"{name}.step1", 2e-4)
    same(end, v01, name, 1e-3)


@pytest.mark.parametrize("context", ["batch", "row"])
def test_the_sampler_of_the_loop(v01: V01, context: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network called as the loop calls it, with one tensor of states per text and an empty negative text."""
    data, settings, inputs = v01.config["data"], v01.config["sample"], sampling_inputs(v01)
    monkeypatch.setattr(dual_network, "picture_size_px", lambda rows, columns: inputs.size_px)
    network = v01.network(prior_context=context)
    layout = TextLayout.of(network.config)
    tokens = torch.cat([inputs.spatial_prior, inputs.temporal_prior], dim=1)
    states = layout.packed(inputs.text, PriorStates(torch.zeros_like(tokens), torch.zeros_like(tokens), tokens))
    mask = torch.cat([torch.ones(len(states), layout.num_prior_rows), inputs.text_mask.float()], dim=1)
    negative = TextBatch(torch.zeros_like(states), torch.zeros_like(mask))
    ratio = duration_shift(data["height"], data["width"], data["num_frames"]).item()
    sampler = V01Sampler(SamplerSettings(settings["steps"], settings["cfg_scale"], ratio))
    noise = Latents(v01.io["sample.z.video"], v01.io["sample.z.audio"])
    end = sampler.sample(network, noise, TextBatch(states, mask), negative)
    same(end, v01, "sample.joint" if context == "batch" else "sample.separate", 1e-3)


@torch.no_grad()
def test_the_null_states_are_those_of_the_weights(v01: V01) -> None:
    text, spatial, temporal = v01.network().null_inputs(1)
    close(text[0], v01.io["null.y"].reshape(text[0].shape), 0)
    close(torch.cat([spatial, temporal], dim=1)[0], v01.io["null.prior"].reshape(-1, spatial.shape[-1]), 0)


def test_audio_masks_follow_video_masks(v01: V01) -> None:
    names = v01.config["measured"]["mask_names"]
    for name, video, audio in zip(names, v01.io["masks.video"].bool(), v01.io["masks.audio"].bool(), strict=True):
        assert torch.equal(audio_mask(name, video, audio.shape[-1]), audio), name


def test_the_time_shift_with_each_dtype(v01: V01) -> None:
    for row in v01.document("timestep_shift.json"):
        dtype = getattr(torch, row["meta_dtype"])
        ratio = duration_shift(row["height"], row["width"], row["num_frames"], dtype)
        close(shifted_times(torch.tensor(row["t"]), ratio), torch.tensor(row["out"]), 1e-3)
