"""Networks that ship with the package: the file is the recorded one, and configurations that name it can load it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from avpref.config.loading import load_config
from avpref.config.training_settings import SftSettings, SftWeights
from avpref.errors import ConfigError, InputError
from avpref.identity import file_sha256
from avpref.models.checkpoints.network_loading import load_generator
from avpref.models.checkpoints.shipped_networks import FOLDER, locate_network, network_hash
from avpref.models.dit import ModelType, NetworkConfig

CONFIGS = Path(__file__).parents[3] / "configs"
NETWORKS = sorted(path.stem for path in FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_small_and_the_one_that_its_record_names(name: str) -> None:
    path = locate_network(f"shipped:{name}")
    record = json.loads(path.with_suffix(".json").read_text())
    assert (record["sha256"], record["num_bytes"]) == (file_sha256(path), path.stat().st_size)
    assert path.stat().st_size < 4e6
    assert {str(tensor.dtype) for tensor in load_file(path).values()} == {f"torch.{record['dtype']}"}


@pytest.mark.parametrize("config", ["toyworld.yaml", "toyworld-bad-betas.yaml"])
def test_the_toy_worlds_configurations_start_from_the_shipped_network(config: str) -> None:
    settings = load_config(CONFIGS / config, environment={}).settings
    assert isinstance(settings.sft, SftWeights) and settings.sft.dtype == "float32"
    assert settings.network is not None
    path = locate_network(settings.sft.network)
    network = load_generator(path, NetworkConfig.from_settings(settings.network), ModelType.T2AV)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1e6


def test_the_full_configuration_trains_the_network_that_ships() -> None:
    settings = load_config(CONFIGS / "toyworld-full.yaml", environment={}).settings
    assert isinstance(settings.sft, SftSettings) and settings.network is not None
    recorded = json.loads((FOLDER / "toyworld.json").read_text())["settings"]
    assert recorded["network"] == settings.network.model_dump(mode="json")
    trained, execution = settings.sft.model_dump(mode="json"), recorded["sft"]
    assert (trained["loop"].pop("steps"), trained["loop"].pop("batch_size")) == (
        execution["loop"]["steps"],
        execution["loop"]["batch_size"],
    )
    del trained["loop"], execution["loop"]
    assert trained == execution


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER, tmp_path / "shipped")
    return tmp_path / "shipped"


def test_an_altered_file_is_refused(copy: Path) -> None:
    path = locate_network("shipped:toyworld", copy)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="sha-256") as caught:
        locate_network("shipped:toyworld", copy)
    assert str(path) in caught.value.found and "git restore" in caught.value.fix


def test_an_unknown_name_lists_the_known_ones(copy: Path) -> None:
    with pytest.raises(ConfigError, match="no network shipped:toyworlds") as caught:
        locate_network("shipped:toyworlds", copy)
    assert "shipped:toyworld" in caught.value.expected


def test_any_other_name_is_a_path(tmp_path: Path) -> None:
    assert locate_network(str(tmp_path)) == tmp_path


def test_the_hash_is_that_of_the_content_and_nothing_is_written_into_the_package(tmp_path: Path) -> None:
    before = sorted(path.name for path in FOLDER.iterdir())
    assert network_hash("shipped:toyworld") == json.loads((FOLDER / "toyworld.json").read_text())["sha256"]
    assert sorted(path.name for path in FOLDER.iterdir()) == before
    for name in ("first", "second"):
        shutil.copy(FOLDER / "toyworld.safetensors", tmp_path / f"{name}.safetensors")
    hashes = {network_hash(str(tmp_path / f"{name}.safetensors")) for name in ("first", "second")}
    assert len(hashes) == 1 and hashes != {network_hash("shipped:toyworld")}
