"""JavisDiT++ behind the protocol: shifts, work, files and adapter layouts are those of its own modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from avpref.config.base_settings import BaseSections, BaseSettings
from avpref.config.codec_settings import IdentityCodecSettings, JavisCodecSettings
from avpref.config.network_settings import NetworkSettings, SamplingSettings
from avpref.config.training_settings import AdapterSettings, TimestepSettings
from avpref.errors import ConfigError
from avpref.media.geometry import ClipShape
from avpref.models.bases.base_model import GivenWeights
from avpref.models.bases.base_opening import open_base
from avpref.models.checkpoints.lora_files import read_lora
from avpref.models.sampling import EulerSampler
from avpref.trainer.adapter_files import save_adapter
from avpref.trainer.adapters import POLICY, add_adapter

NETWORK = NetworkSettings(
    dim=24, ffn_dim=32, freq_dim=16, text_dim=8, text_len=3, num_heads=2, num_layers=2, in_dim=3, audio_in_dim=1
)
TOY = BaseSections(network=NETWORK, codec=IdentityCodecSettings(audio_bands=8))
RELEASED = BaseSections(network=NETWORK, codec=JavisCodecSettings())
LONG = ClipShape(65, 240, 432, 16, 16000)


def test_shift_of_training_is_derived_from_the_effective_size() -> None:
    base = open_base(TOY)
    law = base.timestep_law(TimestepSettings(loc=0.5), ClipShape(65, 240, 426, 16, 16000))
    assert law.shift == pytest.approx(12.09361, rel=1e-6) and (law.loc, law.spread) == (0.5, 1.0)
    assert base.timestep_law(TimestepSettings(shift=3.0), LONG).shift == 3.0
    with pytest.raises(ConfigError, match="timesteps"):
        base.timestep_law(TimestepSettings(), ClipShape(16, 240, 432, 16, 16000))


def test_shift_of_sampling_is_that_of_the_published_size_with_the_released_codec_only() -> None:
    shifts = []
    for sections in (TOY, RELEASED):
        sampler = open_base(sections).sampler(SamplingSettings(steps=4, guidance=2.0), LONG)
        assert isinstance(sampler, EulerSampler) and sampler.num_passes == 8
        shifts.append(sampler.settings.shift_ratio)
    assert shifts[1] == pytest.approx(2.41872, rel=1e-5) and shifts[0] > shifts[1]
    assert open_base(TOY).sampler(SamplingSettings(steps=4, guidance=1.0), LONG).num_passes == 4


def test_terms_and_precisions_follow_the_parts() -> None:
    assert open_base(TOY).terms.commercial_use and not open_base(TOY).precisions.codec
    assert not open_base(RELEASED).terms.commercial_use and open_base(RELEASED).precisions.codec == "float32"


def test_networks_of_one_seed_are_equal_and_files_read_back(tmp_path: Path) -> None:
    base = open_base(TOY)
    first, same, other = (base.create(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    base.save(tmp_path / "network.safetensors", base.create(1))
    loaded = base.load(tmp_path / "network.safetensors").state_dict()
    assert all(torch.equal(first[name], loaded[name]) for name in first)
    assert {name: value.shape for name, value in base.outline().state_dict().items()} == {
        name: value.shape for name, value in first.items()
    }


@pytest.mark.parametrize("layout", ["peft", "comfyui", "diffusers"])
def test_adapters_are_exported_and_read_back(tmp_path: Path, layout: str) -> None:
    base = open_base(TOY)
    model = add_adapter(base.create(1), AdapterSettings(rank=2, alpha=4), 5)
    save_adapter(model, POLICY, tmp_path / "adapter")
    output = tmp_path / ("out.safetensors" if layout == "comfyui" else "out")
    base.export_adapter(tmp_path / "adapter", output, layout)
    before = read_lora(tmp_path / "adapter").factors
    files = sorted(output.glob("*.safetensors")) if layout == "diffusers" else [output]
    after = {name: pair for file in files for name, pair in read_lora(file).factors.items()}
    assert before.keys() == after.keys()
    for name, factors in before.items():
        assert torch.equal(factors.down, after[name].down) and factors.alpha == after[name].alpha


def test_an_unknown_layout_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="layout kohya"):
        open_base(TOY).export_adapter(tmp_path, tmp_path / "out", "kohya")


def test_networks_are_exported_in_the_originals_layout_and_read_back(tmp_path: Path) -> None:
    base = open_base(TOY)
    network = base.create(1)
    base.export_network(network, tmp_path / "original", "original")
    again = base.convert(GivenWeights(str(tmp_path / "original"), None, torch.float32))
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    base.export_network(network, tmp_path / "diffusers", "diffusers")
    assert (tmp_path / "diffusers" / "config.json").exists()
    with pytest.raises(ConfigError, match="layout gguf"):
        base.export_network(network, tmp_path / "other", "gguf")


def test_the_section_network_is_needed_and_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="network is missing"):
        open_base(BaseSections())
    with pytest.raises(ConfigError, match="scale"):
        open_base(BaseSections(network=NETWORK, base=BaseSettings(settings={"scale": 2})))
