"""Weights in the layouts of the published files: small networks, with everything else that such a file holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avpref.bench.networks.network_sources import MODELS, NetworkSource
from avpref.errors import InputError
from avpref.rewards.weights import published_networks
from avpref.rewards.weights.published_networks import PUBLISHED, published_network, tiny_network
from avpref.storage import file_hashes


def published_layout(name: str, tensors: dict[str, Tensor]) -> Any:
    """The content of a published file around the tensors of ``name``."""
    match name:
        case "audioclip":
            others = {"visual.conv1.weight": torch.zeros(3), "logit_scale": torch.zeros(1)}
            return others | {f"audio.{key}": value for key, value in tensors.items()}
        case "panns" | "panns_32k":
            return {"iteration": 7, "model": tensors, "sampler": {"indexes": np.arange(5), "pointer": 3}}
        case "cavp":
            return {"state_dict": {f"module.{key}": value for key, value in tensors.items()}, "epoch": 66}
        case _:
            return tensors


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of fetched weights; networks are small, so that their files are."""
    monkeypatch.setenv("AVPREF_WEIGHTS", str(tmp_path))
    small = {name: replace(entry, build=entry.build_tiny) for name, entry in PUBLISHED.items()}
    monkeypatch.setattr(published_networks, "PUBLISHED", small)
    file_hashes._remembered.cache_clear()
    return tmp_path


def write(home: Path, name: str, content: Any) -> Path:
    entry = PUBLISHED[name]
    path = home / entry.model.name / entry.model.files[0].place
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_network_loads_from_its_published_layout(home: Path, name: str) -> None:
    tensors = tiny_network(name).state_dict()
    write(home, name, published_layout(name, tensors))
    loaded = published_network(name).state_dict()
    assert loaded.keys() == tensors.keys() and all(torch.equal(loaded[key], tensors[key]) for key in tensors)


def test_files_without_counters_of_batch_normalisation_load(home: Path) -> None:
    tensors = {
        key: value for key, value in tiny_network("i3d").state_dict().items() if not key.endswith("num_batches_tracked")
    }
    write(home, "i3d", tensors)
    assert len(published_network("i3d").state_dict()) > len(tensors)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tensors: tensors.pop("logits.conv3d.bias"), r"1 missing \(logits\.conv3d\.bias\)"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda tensors: tensors.update({"logits.conv3d.bias": torch.zeros(7)}), r"1 of another shape"),
        (lambda tensors: tensors.clear(), "holds no tensors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(home: Path, change: Any, found: str) -> None:
    tensors = dict(tiny_network("i3d").state_dict())
    change(tensors)
    write(home, "i3d", tensors)
    with pytest.raises(InputError, match=found):
        published_network("i3d")


def test_a_file_that_would_run_code_is_refused(home: Path) -> None:
    write(home, "vggish", {"features": Path})
    with pytest.raises(InputError, match="cannot be read"):
        published_network("vggish")


def test_absent_weights_name_the_command_that_fetches_them(home: Path) -> None:
    source = NetworkSource("passt", (("cut_s", 8.0),))
    with pytest.raises(InputError, match=r"passt-s-f128-p16-s10-ap\.476-swa\.pt absent") as caught:
        _ = source.fingerprint
    assert caught.value.fix == "avpref weights fetch passt"


def test_the_fingerprint_follows_the_bytes_of_the_weights(home: Path) -> None:
    source = NetworkSource("vggish", (("cut_s", 8.0),))
    path = write(home, "vggish", tiny_network("vggish").state_dict())
    first = source.fingerprint
    tensors = {key: value + 1 for key, value in tiny_network("vggish").state_dict().items()}
    path.unlink()
    save_file(tensors, path.with_suffix(".safetensors"))
    write(home, "vggish", tensors)
    file_hashes._remembered.cache_clear()
    assert source.fingerprint != first and source.terms == MODELS["vggish"].terms


def test_clip_and_cavp_scores_load_from_their_published_layouts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import CLIPModel

    from avpref.models.features.clip_network import tiny_clip_config
    from avpref.rewards.cavp.cavp_score import CavpScore
    from avpref.rewards.clip import clip_score
    from avpref.rewards.weights import benchmark_models

    monkeypatch.setattr(clip_score, "vit_b_32_config", tiny_clip_config)
    write(home, "cavp", published_layout("cavp", tiny_network("cavp").state_dict()))
    path = home / "clip" / benchmark_models.CLIP.files[0].place
    path.parent.mkdir(parents=True)
    torch.save(CLIPModel(tiny_clip_config()).state_dict(), path)
    scorers: list[Any] = [CavpScore(CavpScore.Settings()), clip_score.ClipScore(clip_score.ClipScore.Settings())]
    for scorer in scorers:
        scorer.load("cpu")
        assert scorer.fingerprint and scorer.terms.is_meaningful
