"""Samples equal those of diffusers' pipelines for the same tiny random weights, noise and settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny_ltx import (
    tiny_audio_vae,
    tiny_connectors,
    tiny_text_encoder,
    tiny_tokenizer,
    tiny_transformer,
    tiny_video_vae,
    tiny_vocoder,
)
from torch import Tensor

from avpref.models.conditioning import image_to_av
from avpref.models.flow import Latents, LatentShapes
from avpref.models.ltx2.ltx_components import video_text_dim
from avpref.models.ltx2.ltx_grid import pack_audio, unpack_audio
from avpref.models.ltx2.ltx_guidance import GuidanceScales, LtxGuidance
from avpref.models.ltx2.ltx_network import LtxConvention, LtxNetwork
from avpref.models.ltx2.ltx_sampler import noise_levels, sample_ltx
from avpref.models.ltx2.ltx_versions import FULL_SCHEDULE, LtxVersion
from avpref.models.sampling import draw_noise
from avpref.models.text import TextBatch

SHAPES = LatentShapes((128, 3, 2, 3), (8, 18, 16))
"""17 frames of 64 x 96 pixels."""
TOLERANCE = 1e-5
STEPS = 4
SEEDS = (3, 2**40 + 7)
TEXT_LENGTH = 24
ALL = GuidanceScales(3.0, 1.0, 3.0, 0.7)
GUIDANCES = {
    "all": LtxGuidance(ALL, GuidanceScales(7.0, 1.0, 3.0, 0.7), (1,)),
    "text": LtxGuidance(GuidanceScales(4.0, 0.0, 1.0, 0.0), GuidanceScales(2.0, 0.0, 1.0, 0.0), ()),
    "perturbed": LtxGuidance(GuidanceScales(1.0, 1.5, 1.0, 0.5), GuidanceScales(1.0, 0.5, 1.0, 0.3), (0, 1)),
    "isolated": LtxGuidance(GuidanceScales(1.0, 0.0, 2.0, 0.7), GuidanceScales(1.0, 0.0, 4.0, 0.2), ()),
}


@dataclass(frozen=True)
class Pair:
    """One version as diffusers' pipelines and as the product's network."""

    version: LtxVersion
    parts: dict[str, Any]
    network: LtxNetwork
    text: TextBatch
    negative: TextBatch
    hidden: tuple[Tensor, Tensor, Tensor, Tensor]


@pytest.fixture(scope="module", params=list(LtxVersion), ids=str)
def pair(request: pytest.FixtureRequest) -> Pair:
    version: LtxVersion = request.param
    return make_pair(version)


def make_pair(version: LtxVersion) -> Pair:
    from diffusers import FlowMatchEulerDiscreteScheduler

    transformer, connectors = tiny_transformer(version), tiny_connectors(version)
    parts = {
        "scheduler": FlowMatchEulerDiscreteScheduler.from_config(dict(FULL_SCHEDULE)),
        "vae": tiny_video_vae(),
        "audio_vae": tiny_audio_vae(),
        "text_encoder": tiny_text_encoder(version),
        "tokenizer": tiny_tokenizer(),
        "connectors": connectors,
        "transformer": transformer,
        "vocoder": tiny_vocoder(version),
    }
    generator = torch.Generator().manual_seed(11)
    hidden = [torch.randn(len(SEEDS), TEXT_LENGTH, 16 * 3, generator=generator) for _ in range(2)]
    masks = [(torch.arange(TEXT_LENGTH) >= 24 - torch.tensor([5, 17])[:, None]).long() for _ in range(2)]
    texts = [states_of(connectors, *rows) for rows in zip(hidden, masks, strict=True)]
    convention = LtxConvention.of(version, "diffusers")
    network = LtxNetwork(transformer, video_text_dim(transformer.config), convention)
    return Pair(version, parts, network, texts[0], texts[1], (hidden[0], masks[0], hidden[1], masks[1]))


@torch.no_grad()
def states_of(connectors: Any, hidden: Tensor, mask: Tensor) -> TextBatch:
    video, audio, joint_mask = connectors(hidden, mask, padding_side="left")
    return TextBatch(torch.cat([video, audio], dim=-1), joint_mask.float())


def arguments(pair: Pair, guidance: LtxGuidance) -> dict[str, Any]:
    """Arguments of diffusers' pipelines for the same sample."""
    video, audio = guidance.video, guidance.audio
    return {
        "height": 64,
        "width": 96,
        "num_frames": 17,
        "frame_rate": 24.0,
        "num_inference_steps": STEPS,
        "guidance_scale": video.text,
        "stg_scale": video.perturbation,
        "modality_scale": video.modality,
        "guidance_rescale": video.rescale,
        "audio_guidance_scale": audio.text,
        "audio_stg_scale": audio.perturbation,
        "audio_modality_scale": audio.modality,
        "audio_guidance_rescale": audio.rescale,
        "spatio_temporal_guidance_blocks": list(guidance.perturbed_blocks),
        "prompt_embeds": pair.hidden[0],
        "prompt_attention_mask": pair.hidden[1],
        "negative_prompt_embeds": pair.hidden[2],
        "negative_prompt_attention_mask": pair.hidden[3],
        "use_cross_timestep": pair.version.traits.uses_cross_timestep,
        "generator": [torch.Generator().manual_seed(seed) for seed in SEEDS],
        "output_type": "latent",
        "return_dict": False,
    }


def denormalised(pair: Pair, latents: Latents) -> tuple[Tensor, Tensor]:
    """Latents as the pipelines return them."""
    assert latents.video is not None and latents.audio is not None
    vae, audio_vae = pair.parts["vae"], pair.parts["audio_vae"]
    mean, std = vae.latents_mean.view(1, -1, 1, 1, 1), vae.latents_std.view(1, -1, 1, 1, 1)
    packed = pack_audio(latents.audio) * audio_vae.latents_std + audio_vae.latents_mean
    return latents.video * std / vae.config.scaling_factor + mean, unpack_audio(packed, 16)


@pytest.mark.parametrize(
    "name", ["all", *(pytest.param(name, marks=pytest.mark.slow) for name in GUIDANCES if name != "all")]
)
def test_latents_equal_the_pipeline(pair: Pair, name: str) -> None:
    from diffusers import LTX2Pipeline

    guidance = GUIDANCES[name]
    pipeline: Any = LTX2Pipeline(**pair.parts)
    pipeline.set_progress_bar_config(disable=True)
    video, audio = pipeline(**arguments(pair, guidance))
    levels = noise_levels(STEPS, 18)
    sampled = sample_ltx(pair.network, draw_noise(SHAPES, SEEDS), pair.text, pair.negative, guidance, levels)
    ours = denormalised(pair, sampled)
    torch.testing.assert_close(ours[0], video, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(ours[1], audio, rtol=0, atol=TOLERANCE)
    assert video.std() > 0.1 and audio.std() > 0.1


def test_a_known_first_frame_equals_the_image_pipeline(pair: Pair) -> None:
    from diffusers import LTX2ImageToVideoPipeline

    guidance = GUIDANCES["all"]
    pipeline: Any = LTX2ImageToVideoPipeline(**pair.parts)
    pipeline.set_progress_bar_config(disable=True)
    noise = draw_noise(SHAPES, SEEDS)
    assert noise.video is not None
    image = torch.randn(2, 128, 1, 2, 3, generator=torch.Generator().manual_seed(1))
    start = torch.cat([image, noise.video[:, :, 1:]], dim=2)
    vae, given = pair.parts["vae"], denormalised(pair, Latents(start, noise.audio))[0]
    extra = {"latents": given, "audio_latents": None}
    values = arguments(pair, guidance) | extra
    values["generator"] = audio_generators()
    video, audio = pipeline(image=torch.zeros(2, 3, 64, 96), image_crf=0, **values)
    start = pipeline._normalize_latents(given, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
    image = start[:, :, :1]
    conditioning = image_to_av(image, SHAPES)
    noise = Latents(start, pipeline_audio_noise())
    levels = noise_levels(STEPS, 18)
    sampled = sample_ltx(pair.network, noise, pair.text, pair.negative, guidance, levels, conditioning=conditioning)
    ours = denormalised(pair, sampled)
    torch.testing.assert_close(ours[0], video, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(ours[1], audio, rtol=0, atol=TOLERANCE)
    assert sampled.video is not None
    assert torch.equal(sampled.video[:, :, :1], image)


def audio_generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in SEEDS]


def pipeline_audio_noise() -> Tensor:
    """The audio noise that the image pipeline draws after the (unused) noise of its given video latents."""
    rows = []
    for generator in audio_generators():
        torch.randn(1, 128, 3, 2, 3, generator=generator)
        rows.append(torch.randn(1, 8, 18, 16, generator=generator))
    return torch.cat(rows)
