"""AV-DPO and flow loss against vectors of the original: t in 0..1000 and x0 - noise there, t in 0..1 and noise - x0 here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from present import present
from safetensors.torch import load_file
from torch import Tensor

from avpref.config.training_settings import PreferenceLossSettings
from avpref.models.checkpoints.network_loading import load_network
from avpref.models.dit import JavisDiT, ModelType, NetworkConfig
from avpref.models.flow import Latents, interpolate, velocity_target
from avpref.trainer.losses import ModalityErrors, flow_loss, implicit_accuracy, preference_loss, split_pairs
from avpref.trainer.objectives import errors_of

pytestmark = pytest.mark.golden


@pytest.fixture(scope="module")
def vectors(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "javis_dpo.safetensors")


def load(golden: Path, name: str) -> JavisDiT:
    values = json.loads((golden / "javis_config.json").read_text())
    config = NetworkConfig.from_original(values)
    return load_network(golden / name, config, ModelType(values["model_type"])).eval()


@pytest.fixture(scope="module")
def comparisons(golden: Path, vectors: dict[str, Tensor]) -> tuple[ModalityErrors, ModalityErrors]:
    t = (vectors["t"] / 1000).repeat(2)
    names = ("video", "audio")
    noisy = Latents(*(interpolate(vectors[f"x0.{m}"], vectors[f"noise.{m}"], t) for m in names))
    target = Latents(*(velocity_target(vectors[f"x0.{m}"], vectors[f"noise.{m}"]) for m in names))
    with torch.no_grad():
        sides = [
            errors_of(load(golden, name)(noisy, t, vectors["y"], vectors["mask"]), target, "mean")
            for name in ("javis_policy.safetensors", "javis_reference.safetensors")
        ]
    video, audio = (ModalityErrors(*(split_pairs(present(side[m])) for side in sides)) for m in (0, 1))
    return video, audio


def test_preference_loss(vectors: dict[str, Tensor], comparisons: tuple[ModalityErrors, ModalityErrors]) -> None:
    video, audio = comparisons
    names = {key.split(".")[0] for key in vectors if key.endswith(".loss") and key.startswith("b")}
    assert names, "no preference losses in the file"
    for name in names:
        beta_audio, beta_video = (float(part) for part in name.removeprefix("b").split("_"))
        terms = preference_loss(video, audio, PreferenceLossSettings(beta_video=beta_video, beta_audio=beta_audio))
        room = rounding(comparisons, max(beta_video, beta_audio) / 2)
        close(terms.total, vectors[f"{name}.loss"], room)
        preferences = {"video": terms.preference_video, "audio": terms.preference_audio}
        for modality, comparison in (("video", video), ("audio", audio)):
            chosen, preference = comparison.policy.chosen, preferences[modality]
            assert preference is not None
            close(preference.mean(), vectors[f"{name}.dpo_loss_{modality}"], room)
            close(chosen.mean(), vectors[f"{name}.policy_loss_{modality}"])
            close((preference + 0.1 * chosen).mean(), vectors[f"{name}.loss_{modality}"], room)
            assert implicit_accuracy(comparison).mean() == vectors[f"{name}.implicit_acc_{modality}"]


def test_flow_loss(vectors: dict[str, Tensor], comparisons: tuple[ModalityErrors, ModalityErrors]) -> None:
    chosen = [comparison.policy.chosen for comparison in comparisons]
    close(flow_loss(chosen[0], chosen[1]), vectors["sft.loss"])
    for errors, modality in zip(chosen, ("video", "audio"), strict=True):
        close(errors.mean(), vectors[f"sft.loss_{modality}"])


def rounding(comparisons: tuple[ModalityErrors, ModalityErrors], slope: float) -> float:
    """What one float32 rounding of each of the four errors becomes after their difference is multiplied by the slope."""
    largest = max(float(errors.max()) for comparison in comparisons for side in comparison for errors in side)
    return slope * 4 * torch.finfo(torch.float32).eps * largest


def close(actual: Tensor, expected: Tensor, absolute: float = 1e-7) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=absolute)
