"""JavisDiT v0.1 as a base model, tiny: loading, sampling, known latents, work and memory."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from avpref.config.base_settings import BaseSections, BaseSettings
from avpref.config.network_settings import SamplingSettings
from avpref.config.training_settings import AdapterSettings, TimestepSettings
from avpref.errors import ConfigError, InputError
from avpref.media.geometry import ClipShape
from avpref.models.bases.base_model import GivenWeights
from avpref.models.bases.base_opening import open_base
from avpref.models.conditioning import (
    Conditioning,
    LatentTimes,
    audio_to_video,
    extend,
    image_and_audio_to_video,
    image_to_av,
    video_to_audio,
)
from avpref.models.dual_stream.dual_config import PriorContext
from avpref.models.dual_stream.dual_network import DualStreamNetwork
from avpref.models.flow import Latents, LatentShapes
from avpref.models.javisdit_v01.v01_base import V01Base
from avpref.models.javisdit_v01.v01_settings import V01Settings
from avpref.models.sampling import draw_noise
from avpref.models.text import TextBatch
from avpref.trainer.memory_plan import MemoryRequest, plan_memory

SHAPE = ClipShape(num_frames=17, height_px=32, width_px=40, fps_hz=24.0, sample_rate_hz=16000)
SHAPES = LatentShapes((4, 5, 4, 5), (8, 24, 16))
TEXTS = ("a dog barks", "rain on a roof", "")


def opened(base: V01Base, weights: Path) -> DualStreamNetwork:
    return base.convert(GivenWeights(str(weights / "generator"), None, torch.float32)).eval()


@pytest.fixture
def network(base: V01Base, weights: Path) -> DualStreamNetwork:
    return opened(base, weights)


@pytest.fixture
def text(base: V01Base, tmp_path: Path) -> TextBatch:
    return base.text_encoder(tmp_path).encode(TEXTS)


def rows_of(text: TextBatch, rows: slice) -> TextBatch:
    return TextBatch(*(part[rows] for part in text))


def tracks(latents: Latents) -> tuple[Tensor, Tensor]:
    assert latents.video is not None and latents.audio is not None
    return latents.video, latents.audio


def same(first: Latents, second: Latents, tolerance: float = 1e-5) -> None:
    for one, other in zip(tracks(first), tracks(second), strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_a_network_that_is_saved_comes_back_and_does_not_train_its_rotation(
    base: V01Base, network: DualStreamNetwork, tmp_path: Path
) -> None:
    base.save(tmp_path / "own.safetensors", network)
    loaded = base.load(tmp_path / "own.safetensors")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert [name for name, parameter in loaded.named_parameters() if not parameter.requires_grad] == ["rope.freqs"]
    other = V01Base(base.settings.model_copy(update={"network": replace(base.config, fps_hz=16.0)}))
    with pytest.raises(InputError, match="another base model or version"):
        other.load(tmp_path / "own.safetensors")


def test_weights_are_read_strictly(base: V01Base, weights: Path, tmp_path: Path) -> None:
    tensors = load_file(weights / "generator" / "model.safetensors")
    name = "audio_st_prior_blocks.1.mlp.fc1.weight"
    lacking = {key: value for key, value in tensors.items() if key != name}
    changes: tuple[tuple[dict[str, Tensor], str], ...] = (
        (lacking, "1 missing"),
        ({**tensors, "onset_head.weight": torch.zeros(3)}, "1 unexpected"),
        ({**tensors, name: torch.zeros(3, 3)}, "1 of another shape"),
    )
    for number, (changed, words) in enumerate(changes):
        path = tmp_path / f"{number}.safetensors"
        save_file(changed, path)
        with pytest.raises(InputError, match=words):
            base.convert(GivenWeights(str(path), None, torch.float32))


def test_new_networks_depend_on_their_seed_alone(base: V01Base) -> None:
    first, again, other = (base.create(seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["x_embedder.proj.weight"], other["x_embedder.proj.weight"])
    assert not first["temporal_blocks.0.mlp.fc2.weight"].any() and first["spatial_blocks.0.mlp.fc2.weight"].any()


@pytest.mark.parametrize("context", list(PriorContext))
def test_a_clip_does_not_depend_on_the_others_of_its_batch(
    base: V01Base, weights: Path, text: TextBatch, context: PriorContext
) -> None:
    config = replace(base.config, prior_context=context)
    network = opened(V01Base(base.settings.model_copy(update={"network": config})), weights)
    sampler = base.sampler(SamplingSettings(steps=2, guidance=3.0), SHAPE)
    negative, noise = rows_of(text, slice(2, 3)), draw_noise(SHAPES, [1, 2])
    together = sampler.sample(network, noise, rows_of(text, slice(0, 2)), negative)
    for row in (0, 1):
        part = slice(row, row + 1)
        alone = sampler.sample(network, Latents(*(t[part] for t in tracks(noise))), rows_of(text, part), negative)
        same(Latents(*(t[part] for t in tracks(together))), alone, 1e-4)


@torch.no_grad()
def test_guidance_is_the_released_call_with_the_rows_of_one_clip(
    base: V01Base, network: DualStreamNetwork, text: TextBatch
) -> None:
    """With text and without in one batch, whose rows see the priors of both; the null text has the length of the prompt."""
    x, t = draw_noise(SHAPES, [5, 5]), torch.tensor([0.4, 0.4])
    pair = TextBatch(*(part[[0, 2]] for part in text))
    inputs = network._inputs(x, *pair, is_paired=False)
    assert not inputs.text_mask[0].all() and inputs.text_mask[1].all()
    null_text, null_spatial, null_temporal = network.null_inputs(1)
    torch.testing.assert_close(inputs.text[1:], null_text)
    torch.testing.assert_close(inputs.spatial_prior[1:], null_spatial)
    torch.testing.assert_close(inputs.temporal_prior[1:], null_temporal)
    released = replace(inputs, text_mask=inputs.text_mask[:1], own_priors=False)
    same(network(x, t, *pair, is_paired=True), network.velocity(x, t, released), 1e-4)
    apart = network(x, t, *pair)
    assert not torch.allclose(tracks(apart)[0], tracks(network(x, t, *pair, is_paired=True))[0], atol=1e-3)


def test_without_guidance_one_row_per_clip_is_computed(
    base: V01Base, network: DualStreamNetwork, text: TextBatch
) -> None:
    calls: list[int] = []

    def counted(latents: Latents, *inputs: Any, **keywords: Any) -> Latents:
        calls.append(len(tracks(latents)[0]))
        return network(latents, *inputs, **keywords)

    for guidance in (1.0, 7.0):
        sampler = base.sampler(SamplingSettings(steps=3, guidance=guidance), SHAPE)
        calls.clear()
        sampler.sample(counted, draw_noise(SHAPES, [1]), rows_of(text, slice(0, 1)), rows_of(text, slice(2, 3)))
        assert sum(calls) == sampler.num_passes == (3 if guidance == 1 else 6)


def conditions(known: Latents) -> dict[str, Conditioning]:
    """Every mode that the specification names, with ``known`` latents of one clip."""
    video, audio = tracks(known)
    start = Latents(video[:, :, :2], audio[:, :, :8])
    return {
        "image to audio and video": image_to_av(video[:, :, :1], SHAPES),
        "audio to video": audio_to_video(audio),
        "video to audio": video_to_audio(video),
        "image and audio to video": image_and_audio_to_video(video[:, :, :1], audio, SHAPES),
        "extension of both": extend(start, SHAPES),
        "extension of the video": extend(Latents(start.video, None), SHAPES),
        "extension of the audio": extend(Latents(None, start.audio), SHAPES),
    }


@pytest.mark.parametrize("mode", list(conditions(draw_noise(SHAPES, [0]))))
def test_known_latents_come_out_unchanged_and_change_the_rest(
    base: V01Base, network: DualStreamNetwork, text: TextBatch, mode: str
) -> None:
    known = draw_noise(SHAPES, [11])
    conditioning = conditions(known)[mode]
    sampler = base.sampler(SamplingSettings(steps=2, guidance=2.0), SHAPE)
    arguments = draw_noise(SHAPES, [12]), rows_of(text, slice(0, 1)), rows_of(text, slice(2, 3))
    free = sampler.sample(network, *arguments)
    sampled = sampler.sample(network, *arguments, conditioning=conditioning)
    frames = (conditioning.video, conditioning.audio)
    for given, wanted, result, other in zip(frames, tracks(known), tracks(sampled), tracks(free), strict=True):
        mask = torch.zeros(result.shape[2], dtype=torch.bool) if given is None else given.mask
        assert torch.equal(result[:, :, mask], wanted[:, :, mask])
        if not mask.all():
            assert not torch.allclose(result[:, :, ~mask], other[:, :, ~mask], atol=1e-3)


@torch.no_grad()
def test_times_of_latents_are_masks_of_the_released_network(network: DualStreamNetwork, text: TextBatch) -> None:
    x, pair = draw_noise(SHAPES, [1, 2]), rows_of(text, slice(0, 2))
    t = torch.tensor([0.7, 0.2])
    video, audio = torch.ones(2, 5, dtype=torch.bool), torch.ones(2, 24, dtype=torch.bool)
    video[0, :2], audio[1, 8:] = False, False
    times = LatentTimes(t[:, None] * video, t[:, None] * audio)
    masked = replace(network._inputs(x, *pair, is_paired=False), video_mask=video, audio_mask=audio)
    same(network(x, times, *pair), network.velocity(x, t, masked))
    whole = LatentTimes(t[:, None].expand(2, 5), t[:, None].expand(2, 24))
    same(network(x, whole, *pair), network(x, t, *pair))
    with pytest.raises(ValueError, match="one time per row"):
        network(x, LatentTimes(times.video, 0.5 * t[:, None].expand(2, 24)), *pair)
    with pytest.raises(ValueError, match="times of audio latents"):
        network(x, LatentTimes(times.video, times.video), *pair)


@torch.no_grad()
@pytest.mark.parametrize("injection", ["cross_attn", "modulate", "addition"])
def test_operations_are_those_that_torch_counts(base: V01Base, text: TextBatch, injection: str) -> None:
    settings = V01Settings(**{**base.settings.model_dump(), "network": {**vars(base.config), "injection": injection}})
    own = V01Base(settings)
    network, x = own.create(0).eval(), draw_noise(SHAPES, [1])
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network(x, torch.tensor([0.5]), *rows_of(text, slice(0, 1)))
    blocks = {
        name: sum(flop.values()) for name, flop in counter.get_flop_counts().items() if re.search(r"blocks\.\d+$", name)
    }
    assert own.latent_work(SHAPES).forward_flop == pytest.approx(sum(blocks.values()), rel=1e-6)


def test_shifts_are_the_released_ones() -> None:
    base = V01Base(V01Settings())
    for frames, height, width, ratio in ((102, 240, 424, 3.421875), (51, 240, 424, 2.421875), (51, 720, 1280, 7.25)):
        shape = ClipShape(frames, height, width, 24.0, 16000)
        sampler = base.sampler(SamplingSettings(steps=30, guidance=7.0), shape)
        assert sampler.settings.shift_ratio == ratio
        assert base.timestep_law(TimestepSettings(scale=1.0), shape).shift == ratio
    with pytest.raises(ConfigError, match="windows of 17 frames"):
        base.timestep_law(TimestepSettings(), ClipShape(16, 240, 424, 24.0, 16000))


def test_the_adapter_of_the_release_is_counted_without_memory() -> None:
    sections = BaseSections(base=BaseSettings(model="javisdit-v01"))
    base = open_base(sections)
    assert isinstance(base, V01Base)
    targets = base.outline().adapter_targets()
    assert targets.num_layers == 28 * 50
    shapes = base.codec(ClipShape(51, 144, 256, 24.0, 16000)).latent_shapes()
    request = MemoryRequest(sections, AdapterSettings(rank=4, alpha=4.0), "bfloat16", shapes, 2, "full")
    memory = plan_memory(request)
    parameters = 3_719_730_948
    assert memory.weights == 2 * parameters
    linear = [
        (module.in_features, module.out_features)
        for block in base.outline().repeated_blocks()
        for module in block.modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert memory.trained == 4 * 4 * sum(inputs + outputs for inputs, outputs in linear)
    assert memory.block > 0 and memory.activations > 0
