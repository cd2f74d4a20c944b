"""Networks and front ends of evaluation against vectors of the originals; tolerances are those of the vectors' README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_tensors import golden_tensors
from torch import Tensor, nn

from avpref.errors import MediaError
from avpref.models.features import cavp, cnn14, passt, vggish
from avpref.models.features.audioclip_sound import SoundTower
from avpref.models.features.cavp import Cavp
from avpref.models.features.cnn14 import AT_16_KHZ, AT_32_KHZ, Cnn14
from avpref.models.features.fbsp import scaled
from avpref.models.features.i3d import I3d
from avpref.models.features.passt import Passt
from avpref.models.features.vggish import Vggish

pytestmark = [pytest.mark.golden, pytest.mark.slow]
NETWORKS = {"i3d": I3d, "audioclip": SoundTower, "panns": Cnn14, "vggish": Vggish, "passt": Passt, "cavp": Cavp}
WAVES = ("a0", "a1")


class Vectors:
    """One folder of vectors, with the shared media."""

    def __init__(self, golden: Path, name: str) -> None:
        self.folder = golden / "evaluation" / name
        if not self.folder.is_dir():
            pytest.skip(f"no vectors: evaluation/{name}")
        self.config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        self._io, self._media = np.load(self.folder / "io.npz"), np.load(self.folder.parent / "media.npz")

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self._io[name])

    def network(self, model: type[nn.Module]) -> Any:
        """``model`` with the artificial weights; only tables that the original builds itself may be missing."""
        network = model().eval()
        result = network.load_state_dict(golden_tensors(self.folder, self.config["seed"]), strict=False)
        entries = json.loads((self.folder / "state_dict_names.json").read_text())
        kept = {entry["name"] for entry in entries if entry["rule"] == "keep"}
        assert not result.unexpected_keys and set(result.missing_keys) <= kept
        return network

    def sound(self, index: int, rate_hz: int) -> np.ndarray:
        return self._media[f"audio{rate_hz // 1000}k_{index}"].astype(np.float32) / 32768

    def centred(self, index: int, rate_hz: int) -> Tensor:
        sound = torch.from_numpy(self.sound(index, rate_hz))
        return (sound - sound.mean())[None]

    def frames(self, index: int) -> np.ndarray:
        """uint8 [T, 224, 224, 3]."""
        return self._media[f"video_{index}"].repeat(4, 1).repeat(4, 2)


def near(own: Tensor, expected: Tensor, most: float, mean: float | None = None) -> None:
    difference = (own.double() - expected.double()).abs()
    assert own.shape == expected.shape
    assert difference.max() <= most, float(difference.max())
    assert mean is None or difference.mean() <= mean, float(difference.mean())


@pytest.fixture(params=sorted(NETWORKS))
def published(request: pytest.FixtureRequest, golden: Path) -> tuple[type[nn.Module], dict[str, tuple[int, ...]]]:
    entries = json.loads((Vectors(golden, request.param).folder / "state_dict_names.json").read_text())
    return NETWORKS[request.param], {entry["name"]: tuple(entry["shape"]) for entry in entries}


def test_the_full_network_has_the_published_names_and_shapes(
    published: tuple[type[nn.Module], dict[str, tuple[int, ...]]],
) -> None:
    model, expected = published
    with torch.device("meta"):
        own = {name: tuple(tensor.shape) for name, tensor in model().state_dict().items()}
    assert own == expected


def network_input(frames: np.ndarray) -> Tensor:
    return ((torch.from_numpy(frames).float() / 255 - 0.5) * 2).permute(3, 0, 1, 2)[None]


@torch.no_grad()
@pytest.mark.parametrize("case", ["v0", "v1", "v0_fullrange", "odd"])
def test_i3d(golden: Path, case: str) -> None:
    vectors = Vectors(golden, "i3d")
    network = vectors.network(I3d)
    table = vectors["fvd_map"].numpy()
    assert (table == np.floor((np.arange(256, dtype=np.float32) / 255 + 1) * np.float32(127.5))).all()
    match case:
        case "odd":
            cut = vectors.config["odd_case"]
            frames = vectors.frames(cut["video"])[: cut["frames"]]
            frames = frames[:, cut["top"] :, cut["left"] :][:, : cut["height"], : cut["width"]]
        case "v0_fullrange":
            frames = vectors.frames(0)
        case _:
            frames = table[vectors.frames(int(case[1]))]
    logits = network.logits_over_time(network_input(frames))
    near(logits[0].T, vectors[f"logits_time_{case}"], 2e-5)
    near(network(network_input(frames))[0], vectors[f"logits_{case}"], 2e-5)


@torch.no_grad()
@pytest.mark.parametrize("case", [*WAVES, "a1_padded"])
def test_audioclip_sound_tower(golden: Path, case: str) -> None:
    vectors = Vectors(golden, "audioclip")
    network = vectors.network(SoundTower)
    sound = torch.from_numpy(vectors.sound(int(case[1]), 16000))[None]
    sound = torch.nn.functional.pad(sound, (0, vectors.config["cases"][case] - sound.shape[1]))
    end_to_end = network(sound)[0]
    near(end_to_end, vectors[f"features_{case}"], 0.3 if case == "a1_padded" else 3e-2)
    if case in WAVES:
        assert torch.equal(scaled(sound)[0], vectors[f"scaled_{case}"].reshape(-1))
        stored = vectors[f"x_db_{case}"][None]
        near(network.features_of_image(stored)[0], vectors[f"features_{case}"], 2e-5)
        difference = (network.image(sound) - stored).abs()
        assert difference.mean() <= 0.3 and (difference > 0.01).float().mean() <= 0.3


@torch.no_grad()
@pytest.mark.parametrize("index", [0, 1])
def test_cnn14(golden: Path, index: int) -> None:
    vectors, case = Vectors(golden, "panns"), WAVES[index]
    network = vectors.network(Cnn14)
    sound = vectors.centred(index, 16000)
    near(network.log_mel(sound)[0], vectors[f"logmel_{case}"], 2e-2, 1e-4)
    near(network.logmel_extractor.melW, vectors["mel_basis_16k"], 1e-6)
    for output in (network(sound), network.of_log_mel(vectors[f"logmel_{case}"][None])):
        near(output.logits[0], vectors[f"logits_{case}"], 1e-4)
        near(output.features[0], vectors[f"embedding_{case}"], 1e-4)
        near(torch.sigmoid(output.logits[0]), vectors[f"clipwise_{case}"], 1e-4)
    with torch.device("meta"):
        assert Cnn14(AT_16_KHZ).fc1.weight.is_meta
    at_32 = cnn14.Cnn14(AT_32_KHZ)
    near(at_32.log_mel(vectors.centred(index, 32000))[0], vectors[f"logmel32k_{case}"], 2e-2)


@torch.no_grad()
@pytest.mark.parametrize("index", [0, 1])
def test_vggish(golden: Path, index: int) -> None:
    vectors, case = Vectors(golden, "vggish"), WAVES[index]
    network = vectors.network(Vggish)
    pieces = vggish.log_mel_pieces(vectors.centred(index, 16000)[0].numpy())
    near(pieces, vectors[f"examples_{case}"], 1e-5)
    near(network(pieces), vectors[f"embeddings_{case}"], 2e-4)
    near(network(vectors[f"examples_{case}"]), vectors[f"embeddings_{case}"], 2e-4)


def test_vggish_refuses_sound_without_a_whole_piece() -> None:
    assert len(vggish.log_mel_pieces(np.ones(vggish.SHORTEST_SAMPLES))) == 1
    with pytest.raises(MediaError, match=r"at least 0\.975 s"):
        vggish.log_mel_pieces(np.ones(vggish.SHORTEST_SAMPLES - 1))


@torch.no_grad()
@pytest.mark.parametrize("case", [*WAVES, "a1_unpadded"])
def test_passt(golden: Path, case: str) -> None:
    vectors = Vectors(golden, "passt")
    network = vectors.network(Passt)
    sound = vectors.centred(int(case[1]), 32000)
    image = passt.log_mel(sound if case == "a1_unpadded" else passt.padded_sound(sound))
    output = network(image)
    near(output.features[0], vectors[f"features_{case}"], 5e-5)
    near(output.logits[0], vectors[f"logits_{case}"], 2e-4)
    if case in WAVES:
        expected = vectors[f"mel_{case}"]
        near(image[0, :, : expected.shape[1]], expected, 2e-3, 1e-5)


@torch.no_grad()
def test_cavp(golden: Path) -> None:
    vectors = Vectors(golden, "cavp")
    network = vectors.network(Cavp)
    frames = torch.from_numpy(vectors.frames(0)[: vectors.config["video_frames"]]).float() / 255
    video = frames.permute(3, 0, 1, 2)[None]
    near(network.video_features(video)[0], vectors["video_features"], 1e-5)
    near(network.video_features_before_norm(video)[0], vectors["video_features_before_norm"], 1e-4)
    for index, seconds in enumerate(vectors.config["seconds"]):
        image = cavp.spectrogram(vectors.sound(index, 16000), seconds)
        near(image, vectors[f"spectrogram_a{index}"], 1e-4)
        near(network.sound_features(image[None])[0], vectors[f"spec_features_a{index}"], 1e-5)
    score = (vectors["video_features"] * vectors["spec_features_a0"]).sum(-1).mean()
    assert float(score) == pytest.approx(vectors.config["score"], abs=1e-5)
