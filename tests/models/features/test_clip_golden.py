"""CLIP of JavisBench's CLIP score against its vectors; whole videos where the real clips are at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from golden_tensors import golden_tensors
from transformers import CLIPConfig

from avpref.errors import InputError
from avpref.models.features.clip_network import ClipNetwork, load_clip
from avpref.models.features.clip_pictures import NUM_FRAMES, ChannelOrder, cropped, network_input, spread_frames
from avpref.models.imagebind.clip_text import LongPrompts, encode, in_context

pytestmark = pytest.mark.golden


def clip_config(constructor: dict[str, Any]) -> CLIPConfig:
    text = {
        "hidden_size": constructor["transformer_width"],
        "intermediate_size": 4 * constructor["transformer_width"],
        "num_hidden_layers": constructor["transformer_layers"],
        "num_attention_heads": constructor["transformer_heads"],
        "projection_dim": constructor["embed_dim"],
        "hidden_act": "quick_gelu",
    }
    vision = {
        "hidden_size": constructor["vision_width"],
        "intermediate_size": 4 * constructor["vision_width"],
        "num_hidden_layers": constructor["vision_layers"],
        "num_attention_heads": constructor["vision_width"] // 64,
        "patch_size": constructor["vision_patch_size"],
        "image_size": constructor["image_resolution"],
        "projection_dim": constructor["embed_dim"],
        "hidden_act": "quick_gelu",
    }
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=constructor["embed_dim"])


class ClipVectors:
    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.io = np.load(folder / "io.npz")
        self.tensors = golden_tensors(folder, self.config["seed"]) | {"logit_scale": torch.tensor(0.0)}

    @property
    def network(self) -> ClipNetwork:
        return load_clip(clip_config(self.config["constructor"]), self.tensors)


@pytest.fixture(scope="module")
def vectors(golden: Path) -> ClipVectors:
    return ClipVectors(golden / "evaluation" / "clip")


def differ_at_most(own: np.ndarray, expected: np.ndarray, most: float) -> None:
    assert own.shape == expected.shape and np.abs(own - expected).max() <= most


@pytest.mark.parametrize("index", [0, 1])
def test_frames_crops_and_texts(vectors: ClipVectors, index: int) -> None:
    case = vectors.config["cases"][index]
    assert spread_frames(case["frames"], NUM_FRAMES).tolist() == case["frame_indices"]
    native, expected = vectors.io[f"native_rgb_v{index}"], vectors.io[f"crop_u8_v{index}"]
    assert np.array_equal(np.stack([cropped(frame, "bgr") for frame in native]), expected)
    ids = in_context(encode(case["prompt"]), LongPrompts.KEEP_END)
    assert list(ids) == vectors.io[f"text_ids_{index}"].tolist()


@pytest.mark.parametrize("index", [0, 1])
def test_embeddings(vectors: ClipVectors, index: int) -> None:
    network, rows = vectors.network, vectors.config["selected_frames"]
    pictures = network_input(vectors.io[f"crop_u8_v{index}"])
    differ_at_most(network.picture_features(pictures).numpy(), vectors.io[f"image_emb_v{index}"][rows], 1e-5)
    for row, picture in zip(rows, pictures, strict=True):
        mean, std = picture.mean((1, 2)).numpy(), picture.std((1, 2)).numpy()
        differ_at_most(mean, vectors.io[f"frame_mean_v{index}"][row], 1e-5)
        differ_at_most(std, vectors.io[f"frame_std_v{index}"][row], 1e-4)
    ids = torch.from_numpy(vectors.io[f"text_ids_{index}"])[None]
    differ_at_most(network.text_features(ids)[0].numpy(), vectors.io[f"text_emb_{index}"], 1e-5)


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("order", "key"), [("bgr", "score"), ("rgb", "score_rgb_order")])
def test_the_score_of_a_video(vectors: ClipVectors, media: Path, index: int, order: ChannelOrder, key: str) -> None:
    case, network = vectors.config["cases"][index], vectors.network
    frames = decoded(media / case["video"])
    chosen = [frames[at] for at in spread_frames(len(frames), NUM_FRAMES)]
    pictures = network.picture_features(network_input(np.stack([cropped(frame, order) for frame in chosen])))
    ids = torch.tensor(in_context(encode(case["prompt"]), LongPrompts.KEEP_END))[None]
    score = float((pictures @ network.text_features(ids).T).mean())
    assert score == pytest.approx(case[key], abs=1e-5)


def test_a_wrong_tensor_is_named(vectors: ClipVectors) -> None:
    config = clip_config(vectors.config["constructor"])
    with pytest.raises(InputError, match=r"first vision_model\.post_layernorm\.bias: absent"):
        load_clip(config, {name: t for name, t in vectors.tensors.items() if name != "visual.ln_post.bias"})
    with pytest.raises(InputError, match=r"tensor visual\.extra"):
        load_clip(config, vectors.tensors | {"visual.extra": torch.zeros(1)})
