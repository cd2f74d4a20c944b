"""Files of networks with a synchroniser: strict loading, the option in the metadata, starting from networks without, exports."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from avpref.config.base_settings import BaseSections
from avpref.config.codec_settings import IdentityCodecSettings
from avpref.config.network_settings import NetworkSettings, PriorSettings
from avpref.config.section import EVERY_KEY
from avpref.errors import InputError
from avpref.models.bases.base_model import GivenWeights
from avpref.models.bases.javis_base import JavisBase
from avpref.models.checkpoints.exporting import save_diffusers, to_diffusers_names, to_original_names
from avpref.models.checkpoints.network_loading import load_generator, load_network, save_network
from avpref.models.dit import ModelType, NetworkConfig
from avpref.models.flow import LatentShapes
from avpref.models.synchronisers.synchroniser import PriorSizes, Synchroniser, is_added

PRIOR = PriorSizes(spatial_tokens=3, temporal_tokens=2, channels=7)
ADDING = [kind for kind in Synchroniser if kind.adds_layers]
SETTINGS = NetworkSettings(
    dim=24, ffn_dim=32, freq_dim=16, text_dim=8, text_len=3, num_heads=2, num_layers=2, in_dim=3, audio_in_dim=1
)


def changes_of(kind: Synchroniser) -> dict[str, Any]:
    return {"synchroniser": kind, "prior": PRIOR if kind.has_priors else None}


def base_of(kind: Synchroniser) -> JavisBase:
    values = SETTINGS.model_dump() | {"synchroniser": str(kind)}
    if kind.has_priors:
        values["prior"] = {"weights": "prior.safetensors", "spatial_tokens": 2, "temporal_tokens": 1, "channels": 6}
    network = NetworkSettings.model_validate(values)
    return JavisBase(BaseSections(network=network, codec=IdentityCodecSettings(audio_bands=8)))


@pytest.mark.parametrize("kind", list(Synchroniser))
def test_a_file_carries_the_option_and_reads_back(
    make_network, tiny_config: NetworkConfig, tmp_path: Path, kind: Synchroniser
) -> None:
    network, path = make_network(**changes_of(kind)), tmp_path / "network.safetensors"
    save_network(path, network)
    with safe_open(path, "pt") as file:
        stored = json.loads(json.loads(file.metadata()["avpref"])["config"])
    assert stored.get("synchroniser", "ta_rope") == kind and ("prior" in stored) == kind.has_priors
    for loaded in (
        load_network(path, network.config, ModelType.T2AV),
        load_generator(path, network.config, ModelType.T2AV),
    ):
        assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in network.state_dict().items())
    other = Synchroniser.NONE if kind is Synchroniser.TA_ROPE else Synchroniser.TA_ROPE
    with pytest.raises(InputError, match=f"saved with .*synchroniser={kind}") as caught:
        load_network(path, replace(tiny_config, synchroniser=other), ModelType.T2AV)
    assert f"synchroniser={other}" in str(caught.value)


def test_the_default_leaves_metadata_and_dumps_as_they_were(make_network) -> None:
    stored = json.loads(make_network().config.to_json())
    assert "synchroniser" not in stored and "prior" not in stored
    assert "synchroniser" not in SETTINGS.model_dump() and "prior" not in SETTINGS.model_dump()
    assert SETTINGS.model_dump(context={EVERY_KEY: True})["synchroniser"] == "ta_rope"


@pytest.mark.parametrize("kind", ADDING)
def test_weights_without_the_layers_are_refused_by_name(
    make_network, tiny_config: NetworkConfig, tmp_path: Path, kind: Synchroniser
) -> None:
    save_file(make_network().state_dict(), tmp_path / "released.safetensors")
    config = replace(tiny_config, **changes_of(kind))
    with pytest.raises(InputError, match=r"missing \(.*(synchroniser|prior_embedding)") as caught:
        load_generator(tmp_path / "released.safetensors", config, ModelType.T2AV)
    assert "sft.network" in str(caught.value)
    save_file(make_network(**changes_of(kind)).state_dict(), tmp_path / "added.safetensors")
    with pytest.raises(InputError, match=r"unexpected \(.*(synchroniser|prior_embedding)"):
        load_generator(tmp_path / "added.safetensors", tiny_config, ModelType.T2AV)


@pytest.mark.parametrize("kind", ADDING)
def test_sft_starts_from_weights_without_the_layers(tmp_path: Path, kind: Synchroniser) -> None:
    plain, base = base_of(kind.without_layers), base_of(kind)
    network = plain.create(1)
    plain.save(tmp_path / "plain.safetensors", network)
    given = GivenWeights(str(tmp_path / "plain.safetensors"), None, torch.float32)
    first, same, other = (base.start(given, seed).state_dict() for seed in (5, 5, 6))
    assert first.keys() == base.outline().state_dict().keys()
    assert all(torch.equal(tensor, first[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first if is_added(name))
    base.save(tmp_path / "added.safetensors", base.start(given, 5))
    again = base.start(replace(given, network=str(tmp_path / "added.safetensors")), 9).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("kind", ADDING)
def test_exports(tmp_path: Path, make_network, kind: Synchroniser) -> None:
    base, network = base_of(kind), base_of(kind).create(2)
    base.export_network(network, tmp_path / "original", "original")
    assert load_file(tmp_path / "original" / "model.safetensors").keys() == network.state_dict().keys()
    assert load_generator(tmp_path / "original", base.config, ModelType.T2AV).config == base.config
    with pytest.raises(InputError, match=f"synchroniser {kind}"):
        save_diffusers(network, tmp_path / "diffusers")
    renamed = to_diffusers_names(network.state_dict())
    assert to_original_names(renamed).keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"synchroniser": "rope"}, "'none', 'ta_rope', 'st_prior', 'frame_attention'"),
        ({"synchroniser": "st_prior"}, "prior is missing with synchroniser st_prior"),
        ({"prior": PriorSettings(weights="p", channels=4)}, "prior is set with synchroniser ta_rope"),
        (
            {"synchroniser": "st_prior", "prior": PriorSettings(weights="p", channels=9)},
            "prior.channels 9 exceed text_dim 8",
        ),
    ],
)
def test_settings_that_contradict_themselves_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkSettings.model_validate(SETTINGS.model_dump() | changes)


def test_work_counts_the_added_layers() -> None:
    works = {
        kind: base_of(kind).latent_work(LatentShapes((3, 3, 4, 4), (1, 6, 4))).forward_flop for kind in Synchroniser
    }
    assert works[Synchroniser.NONE] == works[Synchroniser.TA_ROPE]
    tokens, dim, depth = 3 * 2 * 2 + 3 * 2, 24, 2
    frames = works[Synchroniser.FRAME_ATTENTION] - works[Synchroniser.NONE]
    assert frames == 2 * depth * tokens * 4 * dim**2
    priors = works[Synchroniser.ST_PRIOR] - works[Synchroniser.FRAME_ATTENTION]
    assert priors == 2 * depth * 2 * 3 * dim**2 + 4 * depth * tokens * dim * 3
