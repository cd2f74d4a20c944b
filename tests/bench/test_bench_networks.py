"""Front ends of the networks on clips: vectors of the originals, and the clips that a network has no features of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_clips import frames_of, sound_of

from avpref.bench.networks.bench_clip import BenchClip, NoFeatures
from avpref.bench.networks.network_sources import MODELS, NetworkSource
from avpref.bench.networks.video_frames import fvd_input, in_bytes, letterboxed
from avpref.media.reading import DecodedClip
from avpref.models.features.clip_pictures import spread_frames
from avpref.rewards.weights.benchmark_models import BENCH_MODELS

SETTINGS: dict[str, tuple[tuple[str, Any], ...]] = {
    "i3d": (("frames", 16), ("range", "published")),
    "audioclip": (("cut_s", 2.0), ("amplitude", "unit")),
    "panns": (("cut_s", 2.0),),
    "panns_32k": (("cut_s", 2.0),),
    "vggish": (("cut_s", 4.0),),
    "passt": (("cut_s", 4.0),),
}
SHAPES = {
    "i3d": {"logits": (1, 400)},
    "audioclip": {"features": (1, 1024)},
    "panns": {"features": (1, 128), "logits": (1, 527)},
    "panns_32k": {"features": (1, 128), "logits": (1, 527)},
    "vggish": {"features": (4, 128)},
    "passt": {"features": (1, 24), "logits": (1, 527)},
}


def clip(seconds: float = 4.0, rate_hz: int = 16000, *, frames: Any = ..., audio: Any = ...) -> DecodedClip:
    pictures = frames_of(1, seconds) if frames is ... else frames
    sound = sound_of(1, seconds, rate_hz=rate_hz) if audio is ... else audio
    return DecodedClip(
        pictures, 8.0 if pictures is not None else 0.0, sound, rate_hz if sound is not None else 0, seconds
    )


@pytest.mark.golden
@pytest.mark.parametrize("index", [0, 1])
def test_frames_of_fvd_are_the_published_bytes(golden: Path, media: Path, index: int) -> None:
    import av

    folder = golden / "javisbench"
    wanted = json.loads((folder / "distribution.json").read_text())["fvd_input_frame"][index]
    path = media / json.loads((folder / "clips.json").read_text())[index]["file"]
    with av.open(path) as container:
        frame = next(frame for number, frame in enumerate(container.decode(video=0)) if number == wanted)
    own = in_bytes(letterboxed(frame.to_ndarray(format="rgb24")), "published").permute(1, 2, 0).numpy()
    expected = np.load(folder / "distribution.npz")[f"fvd_input_u8_v{index}"]
    assert np.array_equal(own, expected)


@pytest.mark.golden
def test_frames_are_chosen_as_published(golden: Path) -> None:
    cases = json.loads((golden / "javisbench" / "distribution.json").read_text())
    for key, num_wanted in (("fvd_frame_index_24", 24), ("clip_frame_index_48", 48)):
        for num_frames, indices in cases[key].items():
            assert spread_frames(int(num_frames), num_wanted).tolist() == indices


@pytest.mark.golden
def test_bytes_of_fvd_are_the_published_table(golden: Path) -> None:
    table = np.load(golden / "evaluation" / "i3d" / "io.npz")["fvd_map"]
    pixels = torch.arange(256).float() / 255
    assert np.array_equal(in_bytes(pixels, "published").numpy(), table)
    assert np.array_equal(in_bytes(pixels, "full").numpy(), np.arange(256))


@pytest.mark.golden
@pytest.mark.parametrize("rate_hz", [16000, 32000, 48000])
def test_sound_is_read_as_av_benchmark_reads_it(golden: Path, rate_hz: int) -> None:
    vectors = np.load(golden / "evaluation" / "loader" / "io.npz")
    stereo = np.load(golden / "evaluation" / "media.npz")["audio44k_stereo"].astype(np.float32) / 32768
    decoded = DecodedClip(None, 0.0, stereo.mean(0), 44100, 1.25, channels=stereo, weights=(0.5, 0.5))
    expected = vectors[f"loaded_{rate_hz // 1000}k"]
    own = BenchClip(decoded).centred_sound(rate_hz)[: len(expected)]
    assert np.abs(own - expected).max() <= 2e-5


@pytest.mark.golden
@pytest.mark.parametrize("rate_hz", [16000, 48000])
def test_sound_is_read_as_javisbench_reads_it(golden: Path, rate_hz: int) -> None:
    vectors = np.load(golden / "evaluation" / "loader" / "io.npz")
    stereo = np.load(golden / "evaluation" / "media.npz")["audio44k_stereo"].astype(np.float32) / 32768
    decoded = DecodedClip(None, 0.0, stereo.mean(0), 44100, 1.25, channels=stereo, weights=(0.5, 0.5))
    own = BenchClip(decoded).librosa_sound(rate_hz)
    assert np.abs(own - vectors[f"javisbench_{rate_hz // 1000}k"]).max() <= 1e-5


def test_frames_are_spread_and_ranges_differ() -> None:
    published, full = (fvd_input(frames_of(0, 4.0), 16, value_range) for value_range in ("published", "full"))
    assert published.shape == full.shape == (3, 16, 224, 224)
    assert float(published.min()) > -0.01 and float(full.min()) < -0.8


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_networks_give_their_arrays_and_depend_on_the_clip_alone(name: str) -> None:
    source = NetworkSource(name, SETTINGS[name], is_tiny=True)
    network = source.open("cpu")
    arrays = network.features(network.inputs(BenchClip(clip())).tensor)
    assert {array: value.shape for array, value in arrays.items()} == SHAPES[name]
    again = network.features(network.inputs(BenchClip(clip())).tensor)
    other = network.features(network.inputs(BenchClip(clip(frames=frames_of(2), audio=sound_of(2)))).tensor)
    for array, value in arrays.items():
        assert (
            value.dtype == np.float32
            and np.array_equal(value, again[array])
            and not np.array_equal(value, other[array])
        )
    assert source.fingerprint != NetworkSource(name, (*SETTINGS[name], ("other", 1)), is_tiny=True).fingerprint
    assert not source.terms.is_meaningful


def test_every_network_is_in_the_list_of_weights() -> None:
    assert set(MODELS) == set(SETTINGS) and set(MODELS.values()) < set(BENCH_MODELS)


@pytest.mark.parametrize(
    ("name", "decoded", "reason"),
    [
        ("i3d", clip(frames=None), "no video track"),
        ("i3d", clip(frames=np.full((32, 48, 64, 3), 9, np.uint8)), "blank picture"),
        ("i3d", clip(1.0), "8 frames, fewer than the 16"),
        ("audioclip", clip(audio=None), "no audio track"),
        ("audioclip", clip(audio=np.zeros(64000, np.float32)), "silent"),
        ("panns", clip(0.2), "shorter than 0.31 s"),
        ("vggish", clip(0.9), "shorter than 0.975 s"),
        ("passt", clip(audio=np.zeros(64000, np.float32)), "silent"),
    ],
)
def test_a_clip_without_features_has_a_reason(name: str, decoded: DecodedClip, reason: str) -> None:
    network = NetworkSource(name, SETTINGS[name], is_tiny=True).open("cpu")
    with pytest.raises(NoFeatures, match=reason):
        network.inputs(BenchClip(decoded))


def test_short_sound_is_filled_as_published_and_remarked_on() -> None:
    network = NetworkSource("audioclip", SETTINGS["audioclip"], is_tiny=True).open("cpu")
    inputs = network.inputs(BenchClip(clip(1.0)))
    assert inputs.tensor.shape == (1, 32000) and not inputs.tensor[0, 16000:].any()
    assert inputs.remark == "sound of 1.00 s, filled with zeros to 2 s"
    assert network.inputs(BenchClip(clip())).remark == ""


def test_values_that_are_not_finite_are_no_features() -> None:
    network = NetworkSource("vggish", SETTINGS["vggish"], is_tiny=True).open("cpu")
    with pytest.raises(NoFeatures, match="not finite"):
        network.features(torch.full((1, 96, 64), torch.nan))
