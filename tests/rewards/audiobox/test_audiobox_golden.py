"""AudioBox-Aesthetics against the numbers of the original."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avpref.domain import Score, ScoreStatus
from avpref.media.reading import DecodedClip
from avpref.media.spectra import resample
from avpref.rewards.audiobox.audiobox import UNUSED, WINDOW, load_audiobox
from avpref.rewards.audiobox.audiobox_network import AudioBoxNetwork, AudioBoxSizes, HeadLayout, valid_frames
from avpref.rewards.model_scorer import CPU
from avpref.rewards.protocol import ScorableClip
from avpref.storage.weight_files import fit, on_meta

GoldenWeights = Callable[[Path, str], dict[str, Tensor]]


def scorable(audio: np.ndarray, rate_hz: int = 16000, name: str = "c") -> ScorableClip:
    """A clip of sound [S] or [C, S] without a picture."""
    channels = audio if audio.ndim == 2 else None
    mono = audio.mean(axis=0) if audio.ndim == 2 else audio
    return ScorableClip(name, "", DecodedClip(None, 0.0, mono, rate_hz, len(mono) / rate_hz, 0.0, channels))


def values(row: list[Score]) -> list[float]:
    assert all(score.status == ScoreStatus.OK and score.value is not None for score in row), row
    return [score.value for score in row if score.value is not None]


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "rewards" / "audiobox"


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def io(folder: Path) -> Mapping[str, np.ndarray]:
    with np.load(folder / "io.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def tensors(folder: Path, config: dict[str, Any], golden_weights: GoldenWeights) -> dict[str, Tensor]:
    return golden_weights(folder, config["seed"])


@pytest.fixture(scope="module")
def sizes(config: dict[str, Any], tensors: dict[str, Tensor]) -> AudioBoxSizes:
    """The backbone that the vectors were made with; the loader finds the heads by itself."""
    backbone = config["wavlm"]
    return AudioBoxSizes(
        width=backbone["encoder_embed_dim"],
        num_layers=backbone["encoder_layers"],
        num_heads=backbone["encoder_attention_heads"],
        feed_forward=backbone["encoder_ffn_embed_dim"],
        conv_channels=len(tensors["wavlm_model.feature_extractor.conv_layers.0.0.weight"]),
        position_kernel=backbone["conv_pos"],
        position_groups=backbone["conv_pos_groups"],
        num_buckets=backbone["num_buckets"],
        max_distance=backbone["max_distance"],
    )


@pytest.fixture(scope="module")
def golden_folder(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    """The artificial weights in the layout of the hub."""
    found = tmp_path_factory.mktemp("audiobox")
    save_file(tensors, found / "model.safetensors")
    (found / "config.json").write_text(json.dumps(config["constructor"]), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def network(tensors: dict[str, Tensor], sizes: AudioBoxSizes, config: dict[str, Any]) -> AudioBoxNetwork:
    linears = [n for n in tensors if re.fullmatch(r"proj_layer\.CE\.\d+\.weight", n) and tensors[n].ndim == 2]
    norms = [n for n in tensors if re.fullmatch(r"proj_layer\.CE\.\d+\.weight", n) and tensors[n].ndim == 1]
    layout = HeadLayout(*(tuple(int(name.split(".")[2]) for name in names) for names in (linears, norms)))
    assert len(layout.linears) == config["constructor"]["proj_num_layer"]
    found = on_meta(lambda: AudioBoxNetwork(replace(sizes, head=layout)))
    fit(found, tensors, "the golden weights", ignored=UNUSED)
    return found


@pytest.fixture(scope="module")
def windows(io: Mapping[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """All windows of all clips [B, 160000] with their lengths [B]; channels are resampled first and averaged then."""
    found = []
    for name, rate_hz in zip("abc", io["sample_rates"], strict=True):
        audio = resample(torch.from_numpy(io[f"input_{name}"]), int(rate_hz), 16000).mean(dim=0)
        found += list(audio.split(WINDOW))
    padded = torch.stack([torch.nn.functional.pad(window, (0, WINDOW - len(window))) for window in found])
    return padded, torch.tensor([len(window) for window in found])


@pytest.mark.golden
def test_windows_and_their_frames_are_the_published_ones(
    windows: tuple[Tensor, Tensor], io: Mapping[str, np.ndarray]
) -> None:
    _, lengths = windows
    np.testing.assert_allclose(lengths.double() / WINDOW, io["window_weight"], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(valid_frames(lengths, WINDOW).sum(dim=1), io["window_valid_frames"])


@pytest.mark.golden
def test_raw_numbers_are_the_published_ones(
    network: AudioBoxNetwork, windows: tuple[Tensor, Tensor], io: Mapping[str, np.ndarray]
) -> None:
    with torch.inference_mode():
        np.testing.assert_allclose(network(*windows), io["raw"], rtol=0, atol=2e-5)


@pytest.mark.golden
def test_states_are_the_published_ones(
    network: AudioBoxNetwork, windows: tuple[Tensor, Tensor], io: Mapping[str, np.ndarray]
) -> None:
    audio, lengths = windows[0][:1], windows[1][:1]
    is_valid = valid_frames(lengths, WINDOW)
    head = io["states_a"].shape[1]
    with torch.inference_mode():
        conv = network.wavlm_model.feature_extractor(audio)[0].T
        states = torch.cat(network.wavlm_model(audio, is_valid))
    np.testing.assert_allclose(conv[: len(io["conv_a"])], io["conv_a"], rtol=0, atol=3e-4)
    np.testing.assert_allclose(states[:, :head], io["states_a"], rtol=0, atol=3e-4)
    np.testing.assert_allclose(states[:, is_valid[0]].mean(dim=1), io["states_a_valid_mean"], rtol=0, atol=3e-4)


@pytest.mark.golden
@pytest.mark.parametrize("layout", ["hub", "checkpoint"])
def test_clips_get_the_published_numbers_from_either_layout(
    layout: str,
    golden_folder: Path,
    tensors: dict[str, Tensor],
    sizes: AudioBoxSizes,
    config: dict[str, Any],
    io: Mapping[str, np.ndarray],
    tmp_path: Path,
) -> None:
    path = golden_folder
    if layout == "checkpoint":
        path = tmp_path / "checkpoint.pt"
        settings = {key: value for key, value in config["constructor"].items() if key != "target_transform"}
        torch.save(
            {
                "state_dict": {f"model.{name}": tensor for name, tensor in tensors.items()},
                "model_cfg": settings,
                "target_transform": config["constructor"]["target_transform"],
            },
            path,
        )
    scorer = load_audiobox(path, CPU, "golden", sizes)
    clips = [scorable(io[f"input_{name}"], int(io["sample_rates"][k]), name) for k, name in enumerate("abc")]
    found = np.array([values(row) for row in scorer.score(clips)])
    np.testing.assert_allclose(found[:, :4], io["final"], rtol=0, atol=5e-5)
    np.testing.assert_allclose(found[:, 4], io["final"].mean(axis=1), rtol=0, atol=5e-5)
    assert scorer.terms.licence == "CC-BY-4.0" and scorer.terms.commercial_use and scorer.terms.is_meaningful
