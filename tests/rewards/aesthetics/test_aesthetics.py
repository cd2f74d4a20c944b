"""The aesthetic predictor with small random networks: the formula, the frames, and files that are wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import InputError
from avpref.flows.workers.scorers import resolve
from avpref.media.reading import DecodedClip
from avpref.models.features.clip_pictures import cropped, network_input
from avpref.rewards.aesthetics.aesthetics import HEAD_LAYERS, Aesthetics
from avpref.rewards.outside.scorer_contract import Contract
from avpref.rewards.protocol import ScorableClip

SIZES = (16, 12, 8, 6, 4, 1)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Aesthetics.Settings:
    folder = tmp_path_factory.mktemp("aesthetics")
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"patch_size": 56, "image_size": 224, "projection_dim": 16}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(text_config={**text, "projection_dim": 16}, vision_config=vision, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = {name: tensor.clone().contiguous() for name, tensor in CLIPModel(config).state_dict().items()}
        shapes = zip(HEAD_LAYERS, SIZES[:-1], SIZES[1:], strict=True)
        head = {f"{name}.weight": torch.randn(out, size) for name, size, out in shapes}
        head |= {f"{name}.bias": torch.randn(size) for name, size in zip(HEAD_LAYERS, SIZES[1:], strict=True)}
    save_file(
        {name: tensor for name, tensor in tensors.items() if "position_ids" not in name}, folder / "model.safetensors"
    )
    config.save_pretrained(folder)
    torch.save(head, folder / "head.pth")
    save_file(head, folder / "head.safetensors")
    return Aesthetics.Settings(clip=str(folder), head=str(folder / "head.pth"))


def pictures(number: int = 20) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (number, 40, 60, 3)).astype(np.uint8)


def test_a_rating_is_the_mean_over_three_frames_of_a_chain_of_linear_layers(settings: Aesthetics.Settings) -> None:
    scorer, frames = Aesthetics(settings), pictures()
    scorer.load("cpu")
    head = torch.load(settings.head, weights_only=True)
    inputs = network_input(np.stack([cropped(frames[index], "rgb") for index in (2, 10, 18)]))
    values = scorer._network.picture_features(inputs)
    for layer in HEAD_LAYERS:
        values = values @ head[f"{layer}.weight"].T + head[f"{layer}.bias"]
    assert scorer.rating(frames) == pytest.approx(float(values.detach().mean()), abs=1e-5)
    other = Aesthetics(settings.model_copy(update={"head": str(Path(settings.head).with_suffix(".safetensors"))}))
    other.load("cpu")
    assert other.rating(frames) == scorer.rating(frames)


def test_it_keeps_the_contract_of_scorers_and_is_found_by_its_name(settings: Aesthetics.Settings) -> None:
    use = ScorerUse(use="aesthetics", settings=settings.model_dump())
    (source,) = resolve([use], ScoringSettings())
    scorer = source.open("cpu")
    clips = [ScorableClip(name, "", DecodedClip(pictures(), 10.0, None, 0, 2.0)) for name in ("a", "b")]
    findings = list(Contract(scorer, clips).findings())
    assert all(finding.is_passed for finding in findings), findings
    (row,) = scorer.score([ScorableClip("c", "", DecodedClip(None, 0.0, None, 0, 2.0))])
    assert row[0].reason == "no video track"


def test_absent_and_wrong_files_are_named(settings: Aesthetics.Settings, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"head\.none"):
        Aesthetics(settings.model_copy(update={"head": "head.none"}))
    save_file({"layers.0.weight": torch.zeros(1, 1)}, tmp_path / "wrong.safetensors")
    scorer = Aesthetics(settings.model_copy(update={"head": str(tmp_path / "wrong.safetensors")}))
    with pytest.raises(InputError, match=r"layers\.7"):
        scorer.load("cpu")
