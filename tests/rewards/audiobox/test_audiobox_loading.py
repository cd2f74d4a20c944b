"""The published tensors of AudioBox-Aesthetics by name, and what wrong files say."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from avpref.domain import ScoreStatus
from avpref.errors import InputError
from avpref.media.reading import DecodedClip
from avpref.rewards.audiobox.audiobox import UNUSED, AudioBoxScorer, AxisScale, load_audiobox
from avpref.rewards.audiobox.audiobox_network import AXES, FULL, TINY, AudioBoxNetwork, AudioBoxSizes, HeadLayout
from avpref.rewards.model_scorer import CPU, Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.random_weights import fill
from avpref.rewards.weights import catalogue as weights
from avpref.storage.weight_files import on_meta

KEYS = Path(__file__).parents[1] / "keys" / "audiobox.txt"


def published_shapes() -> dict[str, tuple[int, ...]]:
    lines = [line.split("\t") for line in KEYS.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: tuple(json.loads(f"[{shape.strip('(),')}]")) for name, shape, _ in lines}


def shapes_of(sizes: AudioBoxSizes) -> dict[str, tuple[int, ...]]:
    state = on_meta(lambda: AudioBoxNetwork(sizes)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_full_size_tensors_are_named_and_shaped_as_published() -> None:
    expected = {name: shape for name, shape in published_shapes().items() if name not in UNUSED}
    assert shapes_of(replace(FULL, head=HeadLayout())) == expected


def test_the_published_file_has_the_size_of_these_tensors() -> None:
    """Tensors in float32 plus the header that lists them: the catalogue's exact size tells the depth of the heads."""
    shapes = {**shapes_of(FULL), **{name: published_shapes()[name] for name in UNUSED}}
    header, offset = {}, 0
    for name in sorted(shapes):
        size = 4 * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [offset, offset + size]}
        offset += size
    length = len(json.dumps(header, separators=(",", ":")))
    (file,) = (file for file in weights.AUDIOBOX.files if file.name == "model.safetensors")
    assert file.is_size_exact and 8 + math.ceil(length / 8) * 8 + offset == file.num_bytes


SCALES = {axis: {"mean": 5.0 + k, "std": 1.0 + k} for k, axis in enumerate(AXES)}
SETTINGS = {"proj_num_layer": 2, "proj_ln": True, "proj_act_fn": "gelu", "nth_layer": 3, "target_transform": SCALES}


def tiny_tensors() -> dict[str, Tensor]:
    network = on_meta(lambda: AudioBoxNetwork(TINY))
    fill(network, seed=3)
    return {**network.state_dict(), UNUSED[0]: torch.zeros(TINY.width)}


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    save_file(tiny_tensors(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    return tmp_path


def test_the_folder_and_the_files_load_the_same(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "other.json"
    elsewhere.write_bytes((hub / "config.json").read_bytes())
    scorers = [load_audiobox(path, CPU, "w", TINY) for path in (hub, hub / "model.safetensors")]
    (hub / "config.json").unlink()
    scorers.append(load_audiobox(hub / "model.safetensors", CPU, "w", TINY, config=elsewhere))
    audio = 0.1 * np.random.default_rng(0).standard_normal(16000, np.float32)
    clip = ScorableClip("c", "", DecodedClip(None, 0.0, audio, 16000, 1.0))
    found = [scorer.score([clip]) for scorer in scorers]
    assert found[0] == found[1] == found[2] and all(score.status == ScoreStatus.OK for score in found[0][0])
    assert len({scorer.fingerprint for scorer in scorers}) == 1


@pytest.mark.parametrize(
    "name", ["proj_layer.CE.0.weight", "proj_layer.PQ.3.weight", "wavlm_model.layer_norm.bias", "layer_weights.PC"]
)
def test_a_missing_tensor_is_named(hub: Path, name: str) -> None:
    tensors = tiny_tensors()
    del tensors[name]
    save_file(tensors, hub / "model.safetensors")
    with pytest.raises(InputError, match=f"1 missing \\({re.escape(name)}\\)"):
        load_audiobox(hub, CPU, "w", TINY)


def test_unexpected_and_misshapen_tensors_are_named(hub: Path) -> None:
    tensors = tiny_tensors() | {"visual.patch": torch.zeros(2), "layer_weights.CE": torch.zeros(13)}
    save_file(tensors, hub / "model.safetensors")
    with pytest.raises(InputError, match=r"unexpected \(visual\.patch\).*layer_weights\.CE \(13,\) instead of \(3,\)"):
        load_audiobox(hub, CPU, "w", TINY)


def test_the_weights_of_another_size_do_not_fit(hub: Path) -> None:
    with pytest.raises(InputError, match="of another shape"):
        load_audiobox(hub, CPU, "w")


def test_half_a_file_is_refused(hub: Path) -> None:
    whole = (hub / "model.safetensors").read_bytes()
    (hub / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"model\.safetensors cannot be read"):
        load_audiobox(hub, CPU, "w", TINY)
    (hub / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is absent"):
        load_audiobox(hub, CPU, "w", TINY)


@pytest.mark.parametrize("text", [None, "", "[1, 2]", '{"proj_ln": '])
def test_a_configuration_that_cannot_be_read_is_refused(hub: Path, text: str | None) -> None:
    (hub / "config.json").unlink()
    if text is not None:
        (hub / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json"):
        load_audiobox(hub, CPU, "w", TINY)


@pytest.mark.parametrize(
    "change",
    [
        {"proj_num_layer": 5},
        {"proj_ln": False},
        {"proj_act_fn": "relu"},
        {"nth_layer": 12},
        {"use_weighted_layer_sum": False},
        {"normalize_embed": False},
        {"output_dim": 2},
    ],
)
def test_a_configuration_of_another_network_is_refused(hub: Path, change: dict[str, object]) -> None:
    (hub / "config.json").write_text(json.dumps(SETTINGS | change), encoding="utf-8")
    with pytest.raises(InputError, match=next(iter(change))):
        load_audiobox(hub, CPU, "w", TINY)


@pytest.mark.parametrize(
    "scales",
    [None, {}, {axis: SCALES[axis] for axis in AXES[:3]}, SCALES | {"PQ": {"mean": 5.0}}]
    + [SCALES | {"PQ": {"mean": mean, "std": std}} for mean, std in ((5.0, 0.0), (math.nan, 1.0), ("5", 1.0))],
)
def test_without_label_scales_there_are_no_numbers(hub: Path, scales: object) -> None:
    (hub / "config.json").write_text(json.dumps(SETTINGS | {"target_transform": scales}), encoding="utf-8")
    with pytest.raises(InputError, match=r"axis (CE|PQ)") as caught:
        load_audiobox(hub, CPU, "w", TINY)
    assert "target_transform" in caught.value.expected and caught.value.fix


@pytest.mark.parametrize(
    "content",
    [
        tiny_tensors,
        lambda: {"state_dict": tiny_tensors()},
        lambda: {"state_dict": {"model.x": "text"}, "model_cfg": {}},
        lambda: {"state_dict": {}, "model_cfg": {}, "target_transform": SCALES},
    ],
)
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, content: Callable[[], object]) -> None:
    torch.save(content(), tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint\.pt"):
        load_audiobox(tmp_path / "checkpoint.pt", CPU, "w", TINY)


def test_the_fingerprint_says_what_numbers_depend_on(hub: Path) -> None:
    first = load_audiobox(hub, CPU, "w", TINY)
    assert first.fingerprint == load_audiobox(hub, Placement(batch_clips=9), "w", TINY).fingerprint
    network = on_meta(lambda: AudioBoxNetwork(TINY))
    others = [load_audiobox(hub, CPU, "another", TINY).fingerprint]
    others.append(AudioBoxScorer(network, [AxisScale(1.0, 1.0)] * 4, CPU, weights_id="w").fingerprint)
    others.append(load_audiobox(hub, CPU, "w", replace(TINY, max_distance=70)).fingerprint)
    assert len({first.fingerprint, *others}) == 4
