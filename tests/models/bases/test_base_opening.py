"""Base models by reference: what a class declares, the defaults of the protocol, and wrong classes, each one error."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
from outside_modules import write_module

from avpref.config.base_settings import BaseSections, BaseSettings
from avpref.config.codec_settings import Umt5TextSettings
from avpref.config.loading import identity_hash, load_config
from avpref.config.network_settings import NetworkSettings, SamplingSettings
from avpref.config.training_settings import TimestepSettings
from avpref.errors import AvprefError, ConfigError, InputError
from avpref.media.geometry import ClipShape
from avpref.models.bases import base_opening
from avpref.models.bases.base_model import Base, GivenWeights
from avpref.models.bases.base_opening import open_base
from avpref.outside.class_loading import BASE_MODEL

SHAPE = ClipShape(16, 96, 96, 8, 16000)
CONFIGS = Path(__file__).parents[3] / "configs"

SOURCE = """
from dataclasses import dataclass

from torch import nn

from avpref.config.codec_settings import IdentityCodecSettings
from avpref.domain import Terms
from avpref.models.bases.base_model import Base
from avpref.models.bases.velocity_network import AdapterTargets, VelocityNetwork
from avpref.models.codecs.codec import IdentityCodec
from avpref.models.flow import Latents
from avpref.models.text import WordText


class Channels(VelocityNetwork):
    def __init__(self, width):
        super().__init__()
        self.video, self.audio = nn.Linear(3, width), nn.Linear(1, width)
        self.video_out, self.audio_out = nn.Linear(width, 3), nn.Linear(width, 1)

    def forward(self, latents, t, text, text_mask):
        video = self.video_out(self.video(latents.video.movedim(1, -1))).movedim(-1, 1)
        audio = self.audio_out(self.audio(latents.audio.movedim(1, -1))).movedim(-1, 1)
        return Latents(video, audio)

    def adapter_targets(self):
        return AdapterTargets(("video", "audio"), 2)


class Mine(Base):
    @dataclass(frozen=True)
    class Settings:
        width: int = 4
        folder: str = ""

    not_of_results = frozenset({"folder"})
    terms = Terms("MIT", commercial_use=True)

    def __init__(self, settings):
        self.settings = settings

    def build_network(self):
        return Channels(self.settings.width)

    def codec(self, shape, device="cpu"):
        return IdentityCodec(IdentityCodecSettings(video_scale=12), shape)

    def text_encoder(self, cache, device="cpu"):
        return WordText(8, 4)


class NoBase:
    pass
"""


def sections(model: str, **settings: str | int) -> BaseSections:
    return BaseSections(base=BaseSettings(model=model, settings=dict(settings)))


@pytest.fixture
def mine(workplace: Path) -> Base:
    base_opening.open_base.cache_clear()
    write_module(workplace, "wd_base", SOURCE)
    return open_base(sections("wd_base:Mine"))


def refusal(request: BaseSections) -> AvprefError:
    with pytest.raises(AvprefError) as caught:
        open_base(request)
    assert caught.value.found and caught.value.expected and caught.value.fix
    return caught.value


def test_settings_reach_the_class_and_its_version(mine: Base) -> None:
    wider, elsewhere = open_base(sections("wd_base:Mine", width=6)), open_base(sections("wd_base:Mine", folder="/a"))
    assert sum(p.numel() for p in wider.outline().parameters()) > sum(p.numel() for p in mine.outline().parameters())
    assert mine.version == elsewhere.version != wider.version
    assert mine.identity == {"version": mine.version} and mine.terms.licence == "MIT"


def test_defaults_of_the_protocol(mine: Base, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    first, same = mine.create(3), mine.create(3)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    path = tmp_path / "network.safetensors"
    mine.save(path, first, {"source": "a test"})
    loaded = mine.load(path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), loaded.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    converted = mine.convert(GivenWeights(str(path), None, torch.bfloat16))
    assert {parameter.dtype for parameter in converted.parameters()} == {torch.bfloat16}
    assert mine.given_hash(str(path)) and mine.codec_fingerprint(SHAPE) == mine.codec(SHAPE).fingerprint
    assert mine.text_fingerprint() == mine.text_encoder(tmp_path).fingerprint
    work = mine.work(SHAPE)
    assert work.num_tokens == 16 * 8 * 8 + 32 * 8 and work.forward_flop > 0
    assert mine.timestep_law(TimestepSettings(shift=2.0), SHAPE).shift == 2.0
    assert mine.sampler(SamplingSettings(steps=3, guidance=1.0, shift=2.0), SHAPE).num_passes == 3


def test_the_default_law_and_sampler_need_a_shift(mine: Base) -> None:
    with pytest.raises(ConfigError, match=r"timesteps\.shift"):
        mine.timestep_law(TimestepSettings(), SHAPE)
    with pytest.raises(ConfigError, match=r"sampling\.shift"):
        mine.sampler(SamplingSettings(), SHAPE)
    with pytest.raises(ConfigError, match="audio_steps"):
        mine.audio_branch(mine.create(1))
    with pytest.raises(ConfigError, match="lora"):
        mine.convert(GivenWeights("a", Path("b"), torch.float32))


def test_weights_of_another_base_model_are_refused(mine: Base, tmp_path: Path) -> None:
    wider = open_base(sections("wd_base:Mine", width=6))
    wider.save(tmp_path / "network.safetensors", wider.create(1))
    with pytest.raises(InputError, match="another base model"):
        mine.load(tmp_path / "network.safetensors")


def test_wrong_names_and_classes_are_one_error_each(mine: Base) -> None:
    assert "did you mean javisdit" in refusal(sections("javisdt")).found
    assert "no base model" in refusal(sections("wd_base:NoBase")).found
    assert "width" in refusal(sections("wd_base:Mine", wdth=1)).expected
    assert "base.settings" in refusal(sections("wd_base:Mine", width="wide")).fix
    assert "there is no module" in refusal(sections("wd_nowhere:Mine")).found


def test_an_entry_point_is_a_name(mine: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(*references: str) -> None:
        points = [EntryPoint("cells", reference, BASE_MODEL.group) for reference in references]
        monkeypatch.setattr(
            "importlib.metadata.entry_points", lambda group: points if group == BASE_MODEL.group else []
        )

    offered("wd_base:Mine")
    assert open_base(sections("cells", width=5)).version == open_base(sections("wd_base:Mine", width=5)).version
    assert "did you mean cells" in refusal(sections("cels")).found
    offered("wd_base:Mine", "wd_base:NoBase")
    assert "two packages" in refusal(sections("cells", width=7)).found


def test_sections_of_another_base_model_are_refused(mine: Base) -> None:
    network = NetworkSettings(
        dim=8, ffn_dim=8, text_dim=8, text_len=3, num_heads=2, num_layers=2, in_dim=3, audio_in_dim=1
    )
    for extra in ({"network": network}, {"text": Umt5TextSettings()}):
        request = sections("wd_base:Mine").model_copy(update=extra)
        assert next(iter(extra)) in refusal(request).found


def test_the_section_enters_the_run_id_only_where_it_names_another_base_model() -> None:
    plain = load_config(CONFIGS / "tiny.yaml", environment={}).settings
    other = plain.model_copy(update={"base": BaseSettings(model="wd_base:Mine"), "network": None})
    assert plain.base == BaseSettings() and identity_hash(plain) != identity_hash(other)
    tree = plain.model_dump(mode="json")
    assert tree.pop("base") == {"model": "javisdit", "settings": {}}
    with pytest.raises(ConfigError, match="network is missing"):
        load_config(CONFIGS / "tiny.yaml", ["network=null"], environment={})
