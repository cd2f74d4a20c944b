"""VideoAlign against the original: frames, patches, network and rubric."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avpref.identity import bytes_sha256
from avpref.media.reading import read_clip
from avpref.rewards.videoalign.videoalign_frames import (
    FrameRules,
    frame_indices,
    num_tokens,
    patch_grid,
    patches,
    resized_size,
    sample_frames,
)
from avpref.rewards.videoalign.videoalign_network import Adapter, VideoAlignNetwork, VideoAlignSizes, load_network
from avpref.rewards.videoalign.videoalign_text import read_template, render, reward_positions

pytestmark = pytest.mark.golden

TEMPLATE = "AVPREF_VIDEOALIGN_TEMPLATE"


@dataclass(frozen=True)
class Vectors:
    config: dict[str, Any]
    arrays: dict[str, np.ndarray]
    cases: dict[str, Any]
    network: VideoAlignNetwork

    @property
    def rules(self) -> FrameRules:
        return FrameRules(**self.cases["settings"])

    @property
    def frames(self) -> list[Tensor]:
        return [torch.from_numpy(self.arrays[f"frames_{letter}"]) for letter in "ab"]

    @property
    def places(self) -> Tensor:
        ids = torch.from_numpy(self.arrays["input_ids"])
        return torch.stack([reward_positions(row, self.arrays["special_token_ids"].tolist()) for row in ids])


def sizes_of(config: dict[str, Any]) -> VideoAlignSizes:
    text, vision = config["qwen2vl"], config["qwen2vl"]["vision_config"]
    return VideoAlignSizes(
        vocab_size=text["vocab_size"],
        dim=text["hidden_size"],
        mlp_dim=text["intermediate_size"],
        num_layers=text["num_hidden_layers"],
        num_heads=text["num_attention_heads"],
        num_key_heads=text["num_key_value_heads"],
        max_positions=text["max_position_embeddings"],
        rope_theta=text["rope_theta"],
        rope_sections=tuple(text["rope_scaling"]["mrope_section"]),
        norm_eps=text["rms_norm_eps"],
        vision_dim=vision["embed_dim"],
        vision_layers=vision["depth"],
        vision_heads=vision["num_heads"],
        vision_mlp_ratio=vision["mlp_ratio"],
    )


@pytest.fixture(scope="module")
def vectors(golden: Path, golden_weights: Callable[[Path, str], dict[str, Tensor]]) -> Vectors:
    folder = golden / "rewards" / "videoalign"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with np.load(folder / "io.npz") as file:
        arrays = {name: file[name] for name in file.files}
    adapter = Adapter(config["lora"]["r"], config["lora"]["alpha"])
    video_id = config["qwen2vl"]["video_token_id"]
    weights = golden_weights(folder, config["seed"])
    network = load_network(weights, "the vectors", sizes_of(config), video_id, adapter)
    cases = json.loads((folder / "preprocess_cases.json").read_text(encoding="utf-8"))
    return Vectors(config, arrays, cases, network)


def close(found: Tensor, expected: np.ndarray, limit: float) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=limit)


def test_frames_and_sizes_of_the_table(vectors: Vectors) -> None:
    assert vectors.cases["table"]
    for case in vectors.cases["table"]:
        sampled = (case["total_frames"], case["fps"], vectors.rules)
        if case["index"] is None:
            with pytest.raises(ValueError, match="frames"):
                frame_indices(*sampled)
        else:
            assert list(frame_indices(*sampled)) == case["index"], case
        sized = (case["height"], case["width"], vectors.rules)
        if case["resized_hw"] is None:
            with pytest.raises(ValueError, match="picture"):
                resized_size(*sized)
        else:
            assert list(resized_size(*sized)) == case["resized_hw"], case


def test_frames_of_real_clips(vectors: Vectors, media: Path) -> None:
    stored = dict(zip(vectors.config["clips"], vectors.frames, strict=True))
    for case in vectors.cases["real_clips"]:
        clip = read_clip(media / case["clip"])
        assert clip.frames is not None
        assert (len(clip.frames), clip.fps_hz) == (case["total_frames"], pytest.approx(case["avg_fps"]))
        assert list(frame_indices(len(clip.frames), clip.fps_hz, vectors.rules)) == case["frame_index"]
        frames = sample_frames(clip.frames, clip.fps_hz, vectors.rules)
        assert list(frames.shape[1:3]) == case["resized_hw"]
        np.testing.assert_allclose(frames.double().mean(dim=(1, 2)), case["frame_channel_mean"], rtol=0, atol=1e-4)
        if case["clip"] in stored:
            assert torch.equal(frames[: len(stored[case["clip"]])], stored[case["clip"]])


def test_patches(vectors: Vectors) -> None:
    found = torch.cat([patches(frames) for frames in vectors.frames])
    assert [list(patch_grid(frames)) for frames in vectors.frames] == vectors.arrays["video_grid_thw"].tolist()
    close(found[vectors.arrays["patch_rows"]], vectors.arrays["patch_values"], 1e-6)
    close(found.double().mean(dim=1), vectors.arrays["patch_row_mean"], 1e-6)
    assert sum(map(num_tokens, vectors.frames)) == len(vectors.arrays["vision_embeds"])


@torch.inference_mode()
def test_network_on_a_padded_batch(vectors: Vectors) -> None:
    values = torch.cat([patches(frames) for frames in vectors.frames])
    grids, ids = (torch.from_numpy(vectors.arrays[name]) for name in ("video_grid_thw", "input_ids"))
    close(vectors.network.embed_patches(values, grids), vectors.arrays["vision_embeds"], 5e-5)
    states = vectors.network.states(values, grids, ids)
    read = torch.stack([row[places] for row, places in zip(states, vectors.places, strict=True)])
    close(read, vectors.arrays["hidden_at_special"], 1e-4)
    close(vectors.network(values, grids, ids, vectors.places), vectors.arrays["logits"], 1e-4)


@torch.inference_mode()
def test_network_on_one_clip_at_a_time(vectors: Vectors) -> None:
    for row, frames in enumerate(vectors.frames):
        grids = torch.from_numpy(vectors.arrays["video_grid_thw"][row : row + 1])
        length = int(vectors.arrays["attention_mask"][row].sum())
        ids = torch.from_numpy(vectors.arrays["input_ids"][row : row + 1, :length])
        found = vectors.network(patches(frames), grids, ids, vectors.places[row : row + 1])
        close(found, vectors.arrays["logits_single"][row : row + 1], 1e-4)


@torch.inference_mode()
def test_what_fills_up_a_row_is_not_seen(vectors: Vectors) -> None:
    values = torch.cat([patches(frames) for frames in vectors.frames])
    grids, ids = (torch.from_numpy(vectors.arrays[name]) for name in ("video_grid_thw", "input_ids"))
    filled = torch.where(torch.from_numpy(vectors.arrays["attention_mask"]) == 1, ids, 7)
    assert torch.equal(
        vectors.network(values, grids, filled, vectors.places), vectors.network(values, grids, ids, vectors.places)
    )


def test_rubric_of_the_published_file(vectors: Vectors) -> None:
    if TEMPLATE not in os.environ:
        pytest.skip(f"{TEMPLATE} does not name VideoAlign's prompt_template.py")
    template = read_template(Path(os.environ[TEMPLATE]))
    for case in vectors.cases["prompts"]:
        text = render(template, case["caption"])
        assert (len(text), bytes_sha256(text.encode())) == (case["chars"], case["sha256"])
