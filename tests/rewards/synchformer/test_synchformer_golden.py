"""Numeric parity of Synchformer with the published implementation. Names, sizes, seeds and clips are read from the vectors."""

from __future__ import annotations

import csv
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from avpref.media.reading import DecodedClip, read_clip
from avpref.media.spectra import RATE_HZ, htk_mel_power
from avpref.rewards.frames import indices_at_rate, square_frames
from avpref.rewards.model_scorer import Placement
from avpref.rewards.protocol import ScorableClip
from avpref.rewards.synchformer.synchformer import (
    FPS_HZ,
    STRIDE_SAMPLES,
    UNUSED,
    WindowLayout,
    audio_features,
    estimate_desync,
    load_synchformer,
    log_mel_segments,
    segments_of_windows,
    video_features,
)
from avpref.rewards.synchformer.synchformer_towers import FULL, Synchformer
from avpref.storage.weight_files import fit, on_meta

STORED_FRAMES = "frames_u8_first24"
Arrays = Mapping[str, np.ndarray]
Weights = dict[str, Tensor]


@pytest.fixture(scope="module")
def folder(golden: Path) -> Path:
    return golden / "rewards" / "synchformer"


@pytest.fixture(scope="module")
def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def arrays(folder: Path) -> Arrays:
    with np.load(folder / "io.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def weights(folder: Path, config: dict[str, Any], golden_weights: Callable[[Path, str], Weights]) -> Weights:
    return golden_weights(folder, config["seed"])


@pytest.fixture(scope="module")
def network(weights: Weights) -> Synchformer:
    network = on_meta(Synchformer)
    fit(network, weights, "vectors", ignored=UNUSED)
    return network


@pytest.fixture(scope="module")
def weight_file(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("synchformer") / "weights.pth"
    torch.save(weights, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def clip(media: Path, config: dict[str, Any], arrays: Arrays) -> DecodedClip:
    if config["clip"] not in clip_names(media):
        pytest.skip(f"{config['clip']} is not among the real clips")
    duration_s = len(arrays["audio_16k"]) / RATE_HZ
    return read_clip(media / config["clip"], None, duration_s=duration_s)


def clip_names(media: Path) -> set[str]:
    with (media / "clips.csv").open(encoding="utf-8") as lines:
        return {row["file"] for row in csv.DictReader(lines)}


def inference(compute: Callable[[], Tensor]) -> Tensor:
    with torch.inference_mode():
        return compute()


def assert_near(found: Tensor, expected: np.ndarray, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert float((found.double() - torch.from_numpy(expected).double()).abs().max()) <= tolerance


def crcs(frames: Tensor) -> list[int]:
    return [zlib.crc32(np.ascontiguousarray(frame).tobytes()) for frame in frames.numpy()]


def random_features(name: str, seed: str, num_segments: int, steps: int) -> Tensor:
    draws = np.random.Generator(np.random.Philox(key=zlib.crc32(f"{seed}:{name}".encode())))
    return torch.from_numpy(draws.standard_normal((num_segments, steps, FULL.dim), dtype=np.float32))


def features_of(case: str, arrays: Arrays, seed: str) -> tuple[Tensor, Tensor]:
    """Both streams' features of one window, [14, T, D], as the vectors' README describes the case."""
    video, audio = torch.from_numpy(arrays["video_features"]), torch.from_numpy(arrays["audio_features"])
    length = FULL.comparator_segments
    if case == "first14":
        return video[:length], audio[:length]
    if match := re.fullmatch(r"last14_of_(\d+)", case):
        rows = segments_of_windows(int(match[1]), WindowLayout.AV_BENCHMARK)[-1]
        return video[rows], audio[rows]
    if case == "audio_shift_0p4":
        return video[:length], torch.from_numpy(arrays["audio_features_shift0p4"])
    if case == "other_audio":
        return video[:length], torch.from_numpy(arrays["audio_features_other"])
    if match := re.fullmatch(r"cyclic_from_(\d+)", case):
        (rows,) = segments_of_windows(int(match[1]), WindowLayout.JAVISBENCH)
        return video[rows], audio[rows]
    match = re.fullmatch(r"random(\d+)_w(\d+)", case)
    assert match, f"unknown case {case}"
    rows = segments_of_windows(int(match[1]), WindowLayout.JAVISBENCH)[int(match[2])]
    video = random_features("features:video", seed, int(match[1]), FULL.video_steps)
    audio = random_features("features:audio", seed, int(match[1]), FULL.audio_grid[1])
    return video[rows], audio[rows]


@pytest.mark.golden
def test_the_published_names_and_shapes_are_the_network_s(folder: Path) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in on_meta(Synchformer).state_dict().items()}
    entries = json.loads((folder / "state_dict_names.json").read_text(encoding="utf-8"))
    used = {entry["name"]: tuple(entry["shape"]) for entry in entries if entry.get("used", True)}
    unused = [entry["name"] for entry in entries if not entry.get("used", True)]
    assert found == used and unused and all(name.startswith(UNUSED) for name in unused)
    assert (len(entries), sum(np.prod(entry["shape"], dtype=int) for entry in entries)) == (513, 237_460_245)


@pytest.mark.golden
def test_mel_of_every_segment(arrays: Arrays) -> None:
    audio = torch.from_numpy(arrays["audio_16k"])
    assert_near(log_mel_segments(audio), arrays["mel_segments"], 1e-5)
    power, expected = htk_mel_power(audio[None, :10240])[0], torch.from_numpy(arrays["mel_power_seg0"])
    assert float(((power - expected).abs() / (expected + 1e-6)).max()) <= 1e-4


@pytest.mark.golden
def test_stored_frames_are_resized_and_cropped_to_the_byte(arrays: Arrays) -> None:
    (name,) = (name for name in arrays if name.startswith("native_frames_"))
    slots = [int(slot) for slot in name.removeprefix("native_frames_").split("_")]
    found = square_frames(arrays[name], np.arange(len(slots)), FULL.image_px)
    assert np.array_equal(found.numpy(), arrays[STORED_FRAMES][slots])
    assert crcs(found) == arrays["frame_u8_crc32"][slots].tolist()


@pytest.mark.golden
def test_frames_of_the_clip(clip: DecodedClip, arrays: Arrays) -> None:
    assert clip.frames is not None
    shown = indices_at_rate(len(clip.frames), clip.fps_hz, FPS_HZ)
    assert np.array_equal(shown, arrays["frame_source_index"])
    frames = square_frames(clip.frames, shown, FULL.image_px)
    means = frames.double().mean(dim=(1, 2))
    assert_near(means, arrays["frame_u8_channel_mean"], 1e-3)
    assert crcs(frames) == arrays["frame_u8_crc32"].tolist()


@pytest.mark.golden
def test_video_features_of_the_stored_frames(network: Synchformer, arrays: Arrays) -> None:
    frames = torch.from_numpy(arrays[STORED_FRAMES])
    found = inference(lambda: video_features(network, frames))
    assert_near(found, arrays["video_features"][: len(found)], 5e-5)
    assert len(found) == len(frames) // 8 - 1


@pytest.mark.golden
def test_audio_features_of_the_stored_mel(network: Synchformer, arrays: Arrays) -> None:
    found = inference(lambda: audio_features(network, torch.from_numpy(arrays["mel_segments"])))
    assert_near(found, arrays["audio_features"], 5e-5)


@pytest.mark.golden
def test_audio_features_of_sound_from_0_4_s_on(network: Synchformer, arrays: Arrays) -> None:
    expected = arrays["audio_features_shift0p4"]
    start = round(0.4 * RATE_HZ)
    audio = torch.from_numpy(arrays["audio_16k"])[start : start + STRIDE_SAMPLES * (len(expected) + 1)]
    assert_near(inference(lambda: audio_features(network, log_mel_segments(audio))), expected, 5e-5)


@pytest.mark.golden
def test_logits_of_every_case(network: Synchformer, arrays: Arrays, config: dict[str, Any]) -> None:
    cases = [str(case) for case in arrays["logit_cases"]]
    streams = [features_of(case, arrays, config["seed"]) for case in cases]
    video, audio = (torch.stack(stream) for stream in zip(*streams, strict=True))
    logits = inference(lambda: network(video, audio))
    assert_near(logits, arrays["logits"], 2e-5)
    for case, row in zip(cases, logits, strict=True):
        found = estimate_desync(row[None])
        assert int(row.argmax()) == config["argmax"][case]
        assert found.likeliest_s == pytest.approx(config["abs_offset_s"][case], abs=1e-9)
        assert found.expected_s == pytest.approx(config["prob_weighted_abs_offset_s"][case], abs=2e-5)


@pytest.mark.golden
def test_offsets_are_the_published_grid(arrays: Arrays) -> None:
    sure = 1e3 * torch.eye(FULL.num_classes)
    found = [estimate_desync(row[None]).likeliest_s for row in sure]
    np.testing.assert_allclose(found, np.abs(arrays["grid"]), atol=1e-6)


@pytest.mark.slow
def test_the_clip_end_to_end(clip: DecodedClip, weight_file: Path, arrays: Arrays, config: dict[str, Any]) -> None:
    """File of weights and clip to seconds: all segments of both streams, first and last window."""
    scorer = load_synchformer(weight_file, Placement(), "vectors", WindowLayout.AV_BENCHMARK)
    prepared = scorer.prepare(ScorableClip("c", "", clip))
    assert prepared.inputs is not None
    network, inputs = scorer._network, prepared.inputs
    video = inference(lambda: video_features(network, inputs.frames))
    audio = inference(lambda: audio_features(network, inputs.mel))
    assert_near(video, arrays["video_features"], 5e-5)
    assert_near(audio, arrays["audio_features"], 5e-5)
    logits = inference(lambda: network(video[inputs.windows], audio[inputs.windows]))
    names = ("first14", f"last14_of_{len(video)}")
    rows = [list(arrays["logit_cases"]).index(name) for name in names]
    assert_near(logits, arrays["logits"][rows], 1e-4)
    found = estimate_desync(logits)
    assert found.likeliest_s == pytest.approx(np.mean([config["abs_offset_s"][name] for name in names]))
    expected_s = np.mean([config["prob_weighted_abs_offset_s"][name] for name in names])
    assert found.expected_s == pytest.approx(expected_s, abs=1e-4)


@pytest.mark.slow
def test_a_segment_from_file_to_seconds(weight_file: Path, arrays: Arrays) -> None:
    """The shortest clip that can be judged, at full size."""
    scorer = load_synchformer(weight_file, Placement(), "vectors")
    frames, audio = arrays[STORED_FRAMES][:16], arrays["audio_16k"][:10240]
    likeliest, expected = scorer.score([ScorableClip("c", "", DecodedClip(frames, FPS_HZ, audio, RATE_HZ, 0.64))])[0]
    assert likeliest.value is not None and round(likeliest.value * 5, 9).is_integer()
    assert expected.value is not None and 0.0 < expected.value < 2.0
