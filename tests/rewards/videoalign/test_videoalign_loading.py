"""VideoAlign's published files: what is read, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from present import present
from torch import Tensor

from avpref.errors import InputError
from avpref.identity import bytes_sha256
from avpref.media.reading import DecodedClip
from avpref.rewards.model_scorer import CPU, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import fill
from avpref.rewards.videoalign.videoalign import (
    PUBLISHED,
    PublishedSettings,
    VideoAlignScorer,
    load_videoalign,
    read_settings,
)
from avpref.rewards.videoalign.videoalign_frames import FrameRules
from avpref.rewards.videoalign.videoalign_network import (
    FULL,
    TINY,
    Adapter,
    load_network,
    network_without_memory,
    published_shapes,
)
from avpref.rewards.videoalign.videoalign_text import TEMPLATE_CONSTANT, TINY_TEMPLATE, render, tiny_text
from avpref.rewards.weights.catalogue import VIDEOALIGN

KEYS = Path(__file__).parents[1] / "keys" / "videoalign.txt"
ADAPTER = Adapter(rank=2, alpha=6.0)
VIDEO_ID = tiny_text().video_id
RENDERINGS = {caption: bytes_sha256(render(TINY_TEMPLATE, caption).encode()) for caption in ("a dog", "two cats")}
CONFIG: dict[str, Any] = {
    "data_config": {
        "meta_data": "none",
        "data_dir": "none",
        "max_frame_pixels": 84 * 84,
        "num_frames": None,
        "fps": 3.0,
        "eval_dim": ["VQ", "MQ", "TA"],
        "prompt_template_type": "detailed_special",
        "sample_type": "uniform",
    },
    "model_config": {"output_dim": 1, "use_special_tokens": True, "reward_token": "special", "model_revision": "main"},
    "peft_lora_config": {"lora_enable": True, "lora_r": 2, "lora_alpha": 6, "use_rslora": False},
    "inference_config": {"VQ_mean": 1, "VQ_std": 2, "MQ_mean": -3, "MQ_std": 4.5, "TA_mean": 0.0, "TA_std": 6.0},
}


def listed() -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published file; ``{0..27}`` stands for that many names."""
    found = {}
    for line in KEYS.read_text(encoding="utf-8").splitlines():
        name, sizes = line.split(" ")
        many = re.search(r"\{0\.\.(\d+)\}", name)
        shape = tuple(int(size) for size in sizes.split("x"))
        for index in range(int(many[1]) + 1 if many else 1):
            found[name.replace(many[0], str(index)) if many else name] = shape
    return found


def published_tensors(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    shapes = published_shapes(network_without_memory(TINY, VIDEO_ID), ADAPTER)
    shapes["base_model.model.lm_head.weight"] = (TINY.vocab_size, TINY.dim)
    draws = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draws).mul(0.1).to(dtype) for name, shape in shapes.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The published files at tiny size."""
    torch.save(published_tensors(), tmp_path / "model.pth")
    tiny_text().tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "model_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    (tmp_path / "prompt_template.py").write_text(f"{TEMPLATE_CONSTANT} = {TINY_TEMPLATE!r}\n", encoding="utf-8")
    return tmp_path


def paths(folder: Path) -> dict[str, Path]:
    return {file.name: folder / file.name for file in VIDEOALIGN.files}


def load(folder: Path, placement: Placement = CPU, weights_id: str = "w") -> VideoAlignScorer:
    return load_videoalign(paths(folder), placement, weights_id, sizes=TINY, renderings=RENDERINGS)


def test_the_full_network_takes_exactly_the_published_tensors() -> None:
    expected = listed()
    assert len(expected) == 1123
    unused = {name for name in expected if name.startswith("base_model.model.lm_head.")}
    assert len(unused) == 1
    found = published_shapes(network_without_memory(FULL, 151_656), Adapter())
    assert found == {name: shape for name, shape in expected.items() if name not in unused}


def test_factors_are_merged_into_their_layer() -> None:
    tensors = published_tensors()
    network = load_network(tensors, "a file", TINY, VIDEO_ID, ADAPTER)
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    product = tensors[f"{prefix}.lora_B.default.weight"] @ tensors[f"{prefix}.lora_A.default.weight"]
    expected = tensors[f"{prefix}.base_layer.weight"] + 3.0 * product
    torch.testing.assert_close(network.get_parameter("language_model.layers.0.self_attn.q_proj.weight").data, expected)
    visual = "visual.blocks.0.attn.qkv.weight"
    assert torch.equal(network.get_parameter(visual), tensors[f"base_model.model.{visual}"])
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_factors_of_low_precision_are_merged_in_float32() -> None:
    tensors = published_tensors(torch.bfloat16)
    exact = load_network({name: tensor.float() for name, tensor in tensors.items()}, "", TINY, VIDEO_ID, ADAPTER)
    found = load_network(tensors, "", TINY, VIDEO_ID, ADAPTER, dtype=torch.bfloat16)
    for name, parameter in found.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).bfloat16()), name


def test_rotary_frequencies_stay_float32_in_a_low_precision() -> None:
    found = load_network(published_tensors(), "", TINY, VIDEO_ID, ADAPTER, dtype=torch.bfloat16)
    assert {buffer.dtype for buffer in found.buffers()} == {torch.float32}
    assert {parameter.dtype for parameter in found.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("base_model.model.rm_head.weight", "1 missing"),
        ("base_model.model.model.layers.0.mlp.up_proj.lora_B.default.weight", "1 missing"),
        ("base_model.model.visual.merger.mlp.0.bias", "1 missing"),
    ],
)
def test_a_missing_tensor_is_named(name: str, message: str) -> None:
    tensors = published_tensors()
    del tensors[name]
    with pytest.raises(InputError, match=rf"model.pth does not fit: {message} \({re.escape(name)}\)"):
        load_network(tensors, "model.pth", TINY, VIDEO_ID, ADAPTER)


def test_unexpected_misshapen_and_non_tensor_entries_are_named() -> None:
    extra = published_tensors() | {"base_model.model.rm_head.bias": torch.zeros(1)}
    with pytest.raises(InputError, match=r"1 unexpected \(base_model.model.rm_head.bias\)"):
        load_network(extra, "model.pth", TINY, VIDEO_ID, ADAPTER)
    misshapen = published_tensors() | {"base_model.model.rm_head.weight": torch.zeros(3, TINY.dim)}
    with pytest.raises(InputError, match=r"of another shape \(base_model.model.rm_head.weight \(3, 32\)"):
        load_network(misshapen, "model.pth", TINY, VIDEO_ID, ADAPTER)
    with pytest.raises(InputError, match="of another shape"):
        load_network(published_tensors(), "model.pth", TINY, VIDEO_ID, Adapter(rank=4, alpha=6.0))
    with pytest.raises(InputError, match="holds epoch, which is no tensor"):
        load_network({**published_tensors(), "epoch": 3}, "model.pth", TINY, VIDEO_ID, ADAPTER)  # type: ignore[dict-item]


def test_random_weights_reach_every_parameter() -> None:
    network = network_without_memory(TINY, VIDEO_ID)
    fill(network)
    assert not any(tensor.is_meta for tensor in [*network.parameters(), *network.buffers()])


def test_the_published_files_are_read(folder: Path) -> None:
    scorer = load(folder)
    assert scorer.terms.licence == "Apache-2.0" and scorer.terms.commercial_use and scorer.terms.is_meaningful
    frames = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 3), np.uint8)
    row = scorer.score([ScorableClip("c", "a dog", DecodedClip(frames, 8.0, None, 0, 1.5))])[0]
    found = {score.metric: score.value for score in row}
    assert found["videoalign_mq"] == pytest.approx((present(found["motion_quality"]) + 3) / 4.5)


def test_what_the_configuration_says_is_used(folder: Path) -> None:
    frames = FrameRules(target_fps=3.0, max_pixels=84 * 84)
    expected = PublishedSettings(frames, (1.0, -3.0, 0.0), (2.0, 4.5, 6.0), ADAPTER)
    assert read_settings(folder / "model_config.json") == expected


def test_the_fingerprint_follows_everything_that_moves_a_number(folder: Path) -> None:
    found = [load(folder).fingerprint, load(folder, weights_id="v").fingerprint]
    found.append(load(folder, replace(CPU, dtype=torch.bfloat16)).fingerprint)
    for section, key, value in [
        ("data_config", "fps", 2.0),
        ("data_config", "max_frame_pixels", 112 * 112),
        ("inference_config", "TA_std", 6.5),
        ("peft_lora_config", "lora_alpha", 8),
    ]:
        changed = CONFIG | {section: CONFIG[section] | {key: value}}
        (folder / "model_config.json").write_text(json.dumps(changed), encoding="utf-8")
        found.append(load(folder).fingerprint)
    assert len(set(found)) == len(found)
    (folder / "model_config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    assert load(folder, replace(CPU, batch_clips=1)).fingerprint == found[0]


def test_keys_that_are_absent_have_their_published_values(tmp_path: Path) -> None:
    (tmp_path / "model_config.json").write_text("{}", encoding="utf-8")
    assert read_settings(tmp_path / "model_config.json") == PUBLISHED


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("data_config", "num_frames", 16),
        ("data_config", "sample_type", "multi_pts"),
        ("data_config", "prompt_template_type", "detailed"),
        ("data_config", "fps", 0),
        ("data_config", "fps", "2"),
        ("data_config", "max_frame_pixels", 1000.5),
        ("model_config", "reward_token", "last"),
        ("model_config", "use_special_tokens", False),
        ("peft_lora_config", "use_rslora", True),
        ("peft_lora_config", "lora_r", 1.5),
        ("inference_config", "VQ_std", 0),
        ("inference_config", "VQ_std", -1),
        ("inference_config", "MQ_mean", None),
        ("inference_config", "MQ_mean", True),
        ("inference_config", "MQ_mean", float("nan")),
    ],
)
def test_unsupported_settings_of_the_model_are_refused(folder: Path, section: str, key: str, value: object) -> None:
    changed = CONFIG | {section: CONFIG[section] | {key: value}}
    (folder / "model_config.json").write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(InputError, match=key):
        load(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"data_config": 3}', "{"])
def test_an_unreadable_configuration_is_refused(folder: Path, content: str) -> None:
    (folder / "model_config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="cannot be read"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["model_config.json", "prompt_template.py", "tokenizer.json", "model.pth"],
)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(InputError, match=name) as refused:
        load(folder)
    assert "avpref weights" in refused.value.fix


def test_half_downloaded_and_wrong_weights_are_refused(folder: Path) -> None:
    path = folder / "model.pth"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot be read"):
        load(folder)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="missing"):
        load(folder)


def test_another_tokenizer_and_another_rubric_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="knows 264 tokens"):
        load_videoalign(paths(folder), CPU, "w", sizes=replace(TINY, vocab_size=300), renderings=RENDERINGS)
    with pytest.raises(InputError, match="another rubric"):
        load_videoalign(paths(folder), CPU, "w", sizes=TINY)
