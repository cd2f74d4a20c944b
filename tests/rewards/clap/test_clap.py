"""CLAP against vectors of transformers (golden), and the scorer's own rules on the tiny network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_tensors import golden_tensors
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from avpref.domain import ScoreStatus
from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.rewards.clap.clap import (
    TINY,
    WINDOW_SAMPLES,
    ClapScorer,
    ShortClips,
    build_clap,
    load_clap,
    load_tensors,
    tiny_clap,
)
from avpref.rewards.model_scorer import CPU
from avpref.rewards.protocol import ScorableClip

NAMES = {ShortClips.ZEROS: "pad", ShortClips.REPEAT: "repeatpad"}


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "evaluation" / "clap"


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=list(ShortClips))
def published(request: pytest.FixtureRequest, folder: Path, config: dict[str, Any]) -> tuple[ClapScorer, str]:
    """The scorer with the weights of the vectors, and the name of its filling there."""
    network = build_clap(config["config"])
    load_tensors(network, golden_tensors(folder, config["seed"]), folder, CPU)
    scorer = ClapScorer(network, lambda text: [int(part) for part in text.split()], CPU, request.param, weights_id="w")
    return scorer, NAMES[request.param]


@pytest.mark.golden
@pytest.mark.parametrize("case", ["a0", "a1"])
def test_mel_embeddings_and_scores_are_those_of_the_library(
    published: tuple[ClapScorer, str], folder: Path, golden: Path, config: dict[str, Any], case: str
) -> None:
    scorer, padding = published
    vectors, media = np.load(folder / "io.npz"), np.load(golden / "evaluation" / "media.npz")
    sound = media[f"audio48k_{case[1]}"].astype(np.float32) / 32768
    mel = scorer.mel(sound)
    difference = np.abs(mel[0].numpy() - vectors[f"mel_{case}_{padding}"])
    assert difference.max() < 2e-2 and difference.mean() < 1e-4
    with torch.inference_mode():
        embedding = scorer.embed_sound(torch.from_numpy(vectors[f"mel_{case}_{padding}"])[None, None])[0].numpy()
        text = scorer.embed_text(torch.from_numpy(vectors[f"ids_{case}"])[None])[0].numpy()
    np.testing.assert_allclose(embedding, vectors[f"audio_emb_{case}_{padding}"], atol=1e-5)
    np.testing.assert_allclose(text, vectors[f"text_emb_{case}"], atol=1e-5)
    words = " ".join(map(str, vectors[f"ids_{case}"]))
    clip = DecodedClip(None, 0.0, sound, 48_000, len(sound) / 48_000)
    (row,) = scorer.score([ScorableClip("c", words, clip)])
    assert row[0].value == pytest.approx(config["scores"][f"{case}_{padding}"], abs=1e-5)


def clip(seconds: float, seed: int = 0, rate_hz: int = 48_000) -> DecodedClip:
    random = np.random.default_rng(seed)
    sound = (0.1 * random.standard_normal(round(seconds * rate_hz))).astype(np.float32)
    return DecodedClip(None, 0.0, sound, rate_hz, seconds)


def score(scorer: ClapScorer, media: DecodedClip, text: str = "rain") -> float:
    value = scorer.score([ScorableClip("c", text, media)])[0][0].value
    assert value is not None
    return value


def test_the_filling_matters_for_short_sound_alone() -> None:
    zeros, repeat = tiny_clap(), tiny_clap(short_clips=ShortClips.REPEAT)
    assert zeros.fingerprint != repeat.fingerprint
    assert abs(score(zeros, clip(3.0)) - score(repeat, clip(3.0))) > 1e-4
    assert score(zeros, clip(10.0)) == pytest.approx(score(repeat, clip(10.0)), abs=1e-6)


def test_long_sound_is_cut_to_its_middle() -> None:
    scorer, media = tiny_clap(), clip(12.0)
    assert media.audio is not None
    middle = media.audio[48_000 : 48_000 + WINDOW_SAMPLES]
    assert score(scorer, media) == pytest.approx(score(scorer, replace(media, audio=middle, duration_s=10.0)), abs=1e-6)
    state = np.random.get_state()[1].tobytes()  # type: ignore[index]
    score(scorer, media)
    assert np.random.get_state()[1].tobytes() == state  # type: ignore[index]


def test_text_and_rate_reach_the_score_and_a_clip_without_text_is_skipped() -> None:
    scorer = tiny_clap()
    assert score(scorer, clip(2.0), "rain") != score(scorer, clip(2.0), "a dog")
    assert -1.0 <= score(scorer, clip(2.0, rate_hz=16_000)) <= 1.0
    (row,) = scorer.score([ScorableClip("c", " ", clip(2.0))])
    assert row[0].status == ScoreStatus.SKIPPED and row[0].reason == "empty text"


def test_making_the_network_leaves_the_global_random_state_alone() -> None:
    state = torch.get_rng_state()
    tiny_clap()
    assert torch.equal(torch.get_rng_state(), state)


def write_files(folder: Path) -> dict[str, Path]:
    """Files as published, of the tiny network, with a tokenizer of words."""
    network = build_clap(TINY)
    from avpref.rewards.random_weights import fill

    fill(network)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items() if "position_ids" not in name}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    words = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, "rain": 4, "dog": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.save(str(folder / "tokenizer.json"))
    return {name: folder / name for name in ("model.safetensors", "config.json", "tokenizer.json")}


def test_published_files_are_loaded_strictly(tmp_path: Path) -> None:
    paths = write_files(tmp_path)
    scorer = load_clap(paths, CPU, "w")
    tiny = tiny_clap()
    tiny._tokenize = lambda text: [0, 4, 2]
    assert score(scorer, clip(2.0), "rain") == pytest.approx(score(tiny, clip(2.0), "rain"), abs=1e-6)
    assert score(scorer, clip(2.0), "rain " * 600) == pytest.approx(score(scorer, clip(2.0), "rain " * 700), abs=1e-6)
    paths["config.json"].write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"projection_dim|text_config"):
        load_clap(paths, CPU, "w")
    wrong = json.loads(json.dumps(TINY))
    wrong["text_config"]["hidden_size"] = 64
    paths["config.json"].write_text(json.dumps(wrong), encoding="utf-8")
    with pytest.raises(InputError, match="of another shape"):
        load_clap(paths, CPU, "w")
