"""Adapters on the 28 targets: files of both layouts load in diffusers' pipeline and give equal outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_ltx import AUDIO, HIDDEN, VIDEO, tiny_transformer
from torch import Tensor

from avpref.errors import InputError
from avpref.models.flow import Latents
from avpref.models.ltx2.ltx_components import video_text_dim
from avpref.models.ltx2.ltx_estimate import TokenCounts, adapter_count, forward_operations, parameter_count
from avpref.models.ltx2.ltx_lora import TARGETS, LoraLayout, read_ltx_lora, save_ltx_lora
from avpref.models.ltx2.ltx_network import LtxConvention, LtxNetwork
from avpref.models.ltx2.ltx_versions import LtxVersion
from avpref.trainer.adapter_files import save_adapter

RANK, ALPHA = 3, 5


class Inputs(NamedTuple):
    latents: Latents
    t: Tensor
    text: Tensor
    mask: Tensor


def inputs(version: LtxVersion) -> Inputs:
    generator = torch.Generator().manual_seed(4)
    width = 2 * HIDDEN if version is LtxVersion.V2_0 else VIDEO + AUDIO
    latents = Latents(torch.randn(2, 128, 2, 2, 2, generator=generator), torch.randn(2, 8, 7, 16, generator=generator))
    text = torch.randn(2, 16, width, generator=generator)
    return Inputs(latents, torch.tensor([0.3, 0.9]), text, torch.ones(2, 16))


def wrapped(transformer: Any, version: LtxVersion, name: str = "diffusers") -> LtxNetwork:
    convention = LtxConvention.of(version, "lightricks" if name == "lightricks" else "diffusers")
    return LtxNetwork(transformer, video_text_dim(transformer.config), convention).eval()


def adapted(version: LtxVersion) -> PeftModel:
    """The tiny network with an adapter whose both factors are random."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS))
    torch.manual_seed(2)
    model = get_peft_model(wrapped(tiny_transformer(version), version), config, adapter_name="policy")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@torch.no_grad()
def outputs(network: Any, version: LtxVersion) -> tuple[Tensor, Tensor]:
    velocity = network(*inputs(version))
    return velocity.video, velocity.audio


@pytest.mark.parametrize(
    "version", [LtxVersion.V2_3, *(pytest.param(v, marks=pytest.mark.slow) for v in LtxVersion if v != "2.3")]
)
@pytest.mark.parametrize("layout", list(LoraLayout))
def test_an_exported_adapter_loads_in_the_pipeline(version: LtxVersion, layout: LoraLayout, tmp_path: Path) -> None:
    from diffusers import LTX2Pipeline

    model = adapted(version)
    save_adapter(model, "policy", tmp_path / "adapter")
    lora = read_ltx_lora(tmp_path / "adapter")
    assert len(lora.factors) == 2 * len(TARGETS)
    file = tmp_path / "export" / "adapter.safetensors"
    save_ltx_lora(lora, file, layout)
    assert all(name.startswith(f"{layout.prefix}transformer_blocks.") for name in load_file(file))
    pipeline: Any = LTX2Pipeline(
        transformer=tiny_transformer(version),
        **dict.fromkeys(("scheduler", "vae", "audio_vae", "vocoder", "connectors"))
        | dict.fromkeys(("text_encoder", "tokenizer")),
    )
    before = outputs(wrapped(pipeline.transformer, version), version)
    pipeline.load_lora_weights(file)
    loaded = outputs(wrapped(pipeline.transformer, version), version)
    for ours, theirs, base in zip(outputs(model, version), loaded, before, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        assert (ours - base).abs().max() > 1e-2
    again = read_ltx_lora(file)
    assert again.factors.keys() == lora.factors.keys()
    again.require_fit(tiny_transformer(version))


def test_equal_adapters_give_equal_bytes(tmp_path: Path) -> None:
    files = []
    for name in ("first", "second"):
        save_adapter(adapted(LtxVersion.V2_3), "policy", tmp_path / name)
        files.append(tmp_path / f"{name}.safetensors")
        save_ltx_lora(read_ltx_lora(tmp_path / name), files[-1], LoraLayout.DIFFUSERS)
    assert files[0].read_bytes() == files[1].read_bytes()


def test_an_adapter_of_the_other_base_is_refused(tmp_path: Path) -> None:
    names = [f"diffusion_model.blocks.0.self_attn.q.lora_{side}.weight" for side in "AB"]
    save_file({name: torch.zeros(2, 2) for name in names}, tmp_path / "javis.safetensors")
    with pytest.raises(InputError) as error:
        read_ltx_lora(tmp_path / "javis.safetensors")
    assert "blocks.0.self_attn.q" in error.value.found
    assert "an adapter of LTX-2" in error.value.expected


@pytest.mark.slow
def test_the_targets_of_the_published_network() -> None:
    """9,633,792 r values with feed-forward layers, and 44 GB in bfloat16: the figures that trainers of this base publish."""
    from diffusers import LTX2VideoTransformer3DModel

    assert len(TARGETS) == 28
    config = LtxVersion.V2_3.traits.config
    with torch.device("meta"):
        network = wrapped(
            LTX2VideoTransformer3DModel(rope_type="split", perturbed_attn=True, **config), LtxVersion.V2_3
        )
    assert adapter_count(network, 32) == 9_633_792 * 32
    assert len(network.blocks) * len(TARGETS) == 1344
    assert 18e9 < parameter_count(network) < 23e9
    tokens = TokenCounts(6144, 126, 1024)
    rough = (
        2
        * 6144
        * sum(
            layer.weight.numel()
            for name, layer in network.blocks[0].named_modules()
            if isinstance(layer, torch.nn.Linear) and name.startswith(("attn1", "ff"))
        )
    )
    assert 1 < forward_operations(network, tokens) / (48 * rough) < 2


@pytest.mark.parametrize("version", list(LtxVersion))
def test_the_first_latent_frame_is_marked_by_one_convention(version: LtxVersion) -> None:
    """Lightricks' convention differs for 2.5 alone, and only through the embedding of the first frame's tokens."""
    transformer = tiny_transformer(version)
    plain, marked = (outputs(wrapped(transformer, version, name), version) for name in ("diffusers", "lightricks"))
    differs = not torch.equal(plain[0], marked[0])
    assert differs == (version is LtxVersion.V2_5)
    if differs:
        with torch.no_grad():
            transformer.keyframes_abs_pos_embedding.zero_()
        assert torch.equal(
            outputs(wrapped(transformer, version, "lightricks"), version)[0],
            outputs(wrapped(transformer, version), version)[0],
        )


def test_gradients_reach_every_factor() -> None:
    model = adapted(LtxVersion.V2_3)
    batch = inputs(LtxVersion.V2_3)
    velocity = model(*batch)
    (velocity.video.square().mean() + velocity.audio.square().mean()).backward()
    factors = [(name, parameter) for name, parameter in model.named_parameters() if "lora_" in name]
    assert len(factors) == 2 * 2 * len(TARGETS)
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for _, parameter in factors)
