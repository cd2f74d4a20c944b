"""Folders of the three versions: loaded completely, refused where they are of another version, distilled or incomplete."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_ltx import save_tiny_ltx, tiny_transformer

from avpref.errors import ConfigError, InputError
from avpref.media.geometry import ClipShape
from avpref.models.flow import LatentShapes
from avpref.models.ltx2.ltx_components import load_network, load_vocoder, new_network
from avpref.models.ltx2.ltx_folder import open_folder, transformer_folder
from avpref.models.ltx2.ltx_grid import latent_shapes, require_grid, token_counts
from avpref.models.ltx2.ltx_network import LtxConvention
from avpref.models.ltx2.ltx_versions import LtxVersion, version_of

CONVENTION = LtxConvention(uses_cross_timestep=True, marks_first_frame=False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[LtxVersion, Path]:
    """One folder per version."""
    base = tmp_path_factory.mktemp("ltx")
    return {version: save_tiny_ltx(base / version, version) for version in LtxVersion}


@pytest.fixture
def copy_of(folders: dict[LtxVersion, Path], tmp_path: Path) -> dict[LtxVersion, Path]:
    """Copies that a test may change."""
    return {version: Path(shutil.copytree(path, tmp_path / version)) for version, path in folders.items()}


@pytest.mark.parametrize("version", list(LtxVersion))
def test_a_folder_loads_with_the_weights_in_it(folders: dict[LtxVersion, Path], version: LtxVersion) -> None:
    folder = open_folder(version, str(folders[version]))
    network = load_network(folder.transformer, CONVENTION, torch.bfloat16)
    saved = tiny_transformer(version).state_dict()
    assert network.transformer.dtype is torch.bfloat16
    assert version_of(network.transformer.config) is version
    for name, tensor in network.transformer.state_dict().items():
        assert torch.equal(tensor, saved[name].to(torch.bfloat16)), name
    with torch.device("meta"):
        outline = new_network(folder.config(version.traits.transformer), CONVENTION)
    shapes = {name: tensor.shape for name, tensor in outline.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert load_vocoder(folder, torch.float32, "cpu").config.output_sampling_rate == version.traits.sample_rate_hz


@pytest.mark.parametrize(
    ("holds", "configured"), [(LtxVersion.V2_0, LtxVersion.V2_3), (LtxVersion.V2_3, LtxVersion.V2_0)]
)
def test_a_folder_of_another_version_is_refused(
    folders: dict[LtxVersion, Path], holds: LtxVersion, configured: LtxVersion
) -> None:
    with pytest.raises(InputError) as error:
        open_folder(configured, str(folders[holds]))
    assert f"holds LTX-{holds}" in error.value.found
    assert f"LTX-{configured}" in error.value.expected
    assert f"--set base.settings.version={holds}" in error.value.fix


def test_a_folder_of_2_3_is_refused_for_2_5_and_back(folders: dict[LtxVersion, Path]) -> None:
    with pytest.raises(InputError, match=r"holds LTX-2\.3"):
        open_folder(LtxVersion.V2_5, str(folders[LtxVersion.V2_3]))
    with pytest.raises(InputError, match="transformer"):
        open_folder(LtxVersion.V2_3, str(folders[LtxVersion.V2_5]))


def test_the_distilled_transformer_of_2_5_is_refused(copy_of: dict[LtxVersion, Path]) -> None:
    path = copy_of[LtxVersion.V2_5]
    (path / "transformer_full").rename(path / "transformer")
    with pytest.raises(InputError) as error:
        open_folder(LtxVersion.V2_5, str(path))
    assert "distilled" in error.value.found
    assert "transformer_full/" in error.value.expected
    assert "--include 'transformer_full/*'" in error.value.fix


def test_the_distilled_transformer_is_refused_where_a_configuration_names_it(copy_of: dict[LtxVersion, Path]) -> None:
    path = copy_of[LtxVersion.V2_5]
    assert transformer_folder(LtxVersion.V2_5, path / "transformer_full") == path / "transformer_full"
    shutil.copytree(path / "transformer_full", path / "transformer")
    with pytest.raises(InputError, match="is the distilled transformer") as error:
        transformer_folder(LtxVersion.V2_5, path / "transformer")
    assert error.value.fix == f"--set sft.network={path / 'transformer_full'}"
    assert transformer_folder(LtxVersion.V2_3, copy_of[LtxVersion.V2_3] / "transformer").is_dir()


def test_a_distilled_folder_of_2_3_is_known_by_its_scheduler(copy_of: dict[LtxVersion, Path]) -> None:
    file = copy_of[LtxVersion.V2_3] / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dynamic_shifting": False, "shift_terminal": None}))
    with pytest.raises(InputError, match="distilled"):
        open_folder(LtxVersion.V2_3, str(copy_of[LtxVersion.V2_3]))


def test_absent_weights_are_not_replaced_by_random_ones(copy_of: dict[LtxVersion, Path]) -> None:
    path = copy_of[LtxVersion.V2_3]
    file = path / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["transformer_blocks.0.attn1.to_q.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"1 missing \(transformer_blocks.0.attn1.to_q.weight\)"):
        load_network(open_folder(LtxVersion.V2_3, str(path)).transformer, CONVENTION, torch.float32)


def test_an_absent_component_names_its_download(copy_of: dict[LtxVersion, Path]) -> None:
    path = copy_of[LtxVersion.V2_0]
    shutil.rmtree(path / "audio_vae")
    with pytest.raises(InputError) as error:
        open_folder(LtxVersion.V2_0, str(path))
    assert error.value.fix == "hf download Lightricks/LTX-2 --include 'audio_vae/*'"


def test_without_a_folder_the_cache_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"diffusers/LTX-2\.3-Diffusers is not in the Hugging Face cache"):
        open_folder(LtxVersion.V2_3)


def test_fingerprints_follow_the_weights(copy_of: dict[LtxVersion, Path], tmp_path: Path) -> None:
    first = open_folder(LtxVersion.V2_3, str(copy_of[LtxVersion.V2_3]))
    other = open_folder(LtxVersion.V2_3, str(save_tiny_ltx(tmp_path / "other", LtxVersion.V2_3, seed=50)))
    hashes = [(folder.transformer_hash, folder.codec_hash, folder.text_hash) for folder in (first, other)]
    assert all(ours != theirs for ours, theirs in zip(*hashes, strict=True))


GOOD: dict[str, Any] = {"num_frames": 121, "height_px": 512, "width_px": 768, "fps_hz": 24.0, "sample_rate_hz": 48000}


def test_tokens_of_the_published_size() -> None:
    shapes = latent_shapes(ClipShape(**GOOD))
    assert shapes == LatentShapes((128, 16, 16, 24), (8, 126, 16))
    assert token_counts(shapes) == (6144, 126)


@pytest.mark.parametrize(
    ("change", "found", "fix"),
    [
        ({"num_frames": 120}, "clip.num_frames 120, which is not 8k + 1", "--set clip.num_frames=121"),
        ({"height_px": 500}, "clip.height_px 500", "--set clip.height_px=512"),
        ({"width_px": 32}, "clip.width_px 32", "--set clip.width_px=64"),
        ({"fps_hz": 16.0}, "clip.fps_hz 16.0", "--set clip.fps_hz=24.0"),
        ({"sample_rate_hz": 16000}, "clip.sample_rate_hz 16000", "--set clip.sample_rate_hz=48000"),
    ],
)
def test_clips_off_the_grid_are_refused(change: dict[str, float], found: str, fix: str) -> None:
    require_grid(ClipShape(**GOOD), 48000)
    with pytest.raises(ConfigError) as error:
        require_grid(ClipShape(**GOOD | change), 48000)
    assert error.value.found.startswith(found)
    assert error.value.fix == fix
