"""The mono mix: ITU-R BS.775 for every layout, one channel where channels cancel, segments with another layout or rate."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avpref.errors import MediaError
from avpref.media.geometry import ClipShape
from avpref.media.reading import DecodedClip, read_clip
from avpref.media.sound.downmix import audible_weights, mix, mono_weights
from avpref.media.sound.finite_sound import require_finite_sound

RATE_HZ = 8000
GUID = bytes.fromhex("0100000000001000800000aa00389b71")
FLOAT_GUID = bytes.fromhex("0300000000001000800000aa00389b71")
MASKS = {"5.1": 0x3F, "5.1(side)": 0x60F, "7.1": 0x63F, "quad": 0x33, "2.1": 0xB, "3.0": 0x7, "4.0": 0x107, "stereo": 3}


def wav(
    path: Path, channels: np.ndarray, mask: int | None = None, rate_hz: int = RATE_HZ, is_float: bool = False
) -> Path:
    """A wav file of ``channels`` [C, S], 16 bit or float; without ``mask`` the plain header, which names no channels."""
    num = len(channels)
    samples = channels.T.astype("<f4") if is_float else np.rint(channels.T * 32767).astype("<i2")
    width = samples.itemsize
    head = struct.pack("<HIIHH", num, rate_hz, rate_hz * num * width, num * width, 8 * width)
    if mask is None:
        form = struct.pack("<H", 3 if is_float else 1) + head
    else:
        form = (
            struct.pack("<H", 0xFFFE)
            + head
            + struct.pack("<HHI", 22, 8 * width, mask)
            + (FLOAT_GUID if is_float else GUID)
        )
    data = samples.tobytes()
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(data)) + data
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    return path


def tones(num: int) -> np.ndarray:
    """[num, S]: a tone of 0.5 in every channel, 200 Hz in the first, 300 Hz in the next and so on."""
    times = np.arange(RATE_HZ) / RATE_HZ
    return np.stack([0.5 * np.sin(2 * np.pi * (200 + 100 * k) * times) for k in range(num)]).astype(np.float32)


def levels(audio: np.ndarray, num: int) -> np.ndarray:
    """Amplitude of each channel's tone in ``audio``, relative to its own."""
    spectrum = np.abs(np.fft.rfft(audio)) * 2 / len(audio)
    return np.array([spectrum[200 + 100 * k] for k in range(num)]) / 0.5


def read_mono(path: Path) -> np.ndarray:
    audio = read_clip(path, duration_s=1.0).audio
    assert audio is not None
    return audio


H = 2**-0.5
EXPECTED = {
    "stereo": (1, 1),
    "2.1": (H, H, 0),
    "3.0": (H, H, 1),
    "4.0": (H, H, 1, H),
    "quad": (H, H, 0.5, 0.5),
    "5.1": (H, H, 1, 0, 0.5, 0.5),
    "5.1(side)": (H, H, 1, 0, 0.5, 0.5),
    "7.1": (H, H, 1, 0, 0.5, 0.5, 0.5, 0.5),
}


@pytest.mark.parametrize("layout", EXPECTED)
def test_a_labelled_layout_has_the_coefficients_of_bs_775(tmp_path: Path, layout: str) -> None:
    expected = np.array(EXPECTED[layout])
    audio = read_mono(wav(tmp_path / "a.wav", tones(len(expected)), MASKS[layout]))
    np.testing.assert_allclose(levels(audio, len(expected)), expected / expected.sum(), atol=2e-3)


@pytest.mark.parametrize("mask", [None, 0])
@pytest.mark.parametrize("num", [1, 2, 3, 4, 5, 6, 7, 8, 12, 16])
def test_channels_without_names(tmp_path: Path, num: int, mask: int | None) -> None:
    """5.1 and 7.1 have one usual order; the others give the mean. Eight and more channels are read without a crash."""
    usual = {6: EXPECTED["5.1"], 8: EXPECTED["7.1"]}
    expected = np.array(usual.get(num, (1,) * num))
    if mask is None and num <= 2:
        expected = np.ones(num)
    audio = read_mono(wav(tmp_path / "a.wav", tones(num), mask))
    np.testing.assert_allclose(levels(audio, num), expected / expected.sum(), atol=2e-3)


def test_weights_of_other_layouts() -> None:
    for name in ("mono", "2.1", "6.1", "7.1(wide)", "hexagonal", "5.1.2", "22.2", "downmix"):
        names = [channel.name for channel in av.AudioLayout(name).channels]
        weights = dict(zip(names, mono_weights(names), strict=True))
        assert sum(weights.values()) == pytest.approx(1.0)
        assert all((weights[name] == 0) == name.startswith("LFE") for name in names)
        assert max(weights, key=weights.__getitem__) == ("FC" if "FC" in names else names[0])
    assert mono_weights(["AMBI0", "AMBI1", "AMBI2", "AMBI3"]) == (1.0, 0.0, 0.0, 0.0)
    assert mono_weights(["LFE"]) == (1.0,) and mono_weights(["NONE"] * 3) == (1 / 3,) * 3


def test_mono_and_stereo_are_their_mean_to_the_bit() -> None:
    channels = np.random.default_rng(0).normal(size=(2, 1000)).astype(np.float32)
    for num in (1, 2):
        names = ["FC"] if num == 1 else ["FL", "FR"]
        np.testing.assert_array_equal(mix(channels[:num], mono_weights(names)), channels[:num].mean(axis=0))


def test_published_scorers_hear_the_plain_mean_of_many_channels(tmp_path: Path) -> None:
    clip = read_clip(wav(tmp_path / "a.wav", tones(6), MASKS["5.1"]), duration_s=1.0)
    assert clip.channel_mean is not None and clip.channels is not None
    np.testing.assert_array_equal(clip.channel_mean, clip.channels.mean(axis=0))
    stereo = read_clip(wav(tmp_path / "b.wav", tones(2)), duration_s=1.0)
    assert stereo.channel_mean is stereo.audio


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("layout", ["stereo", "5.1"])
def test_channels_in_opposite_phase_are_not_silence(tmp_path: Path, noise: float, layout: str) -> None:
    random = np.random.default_rng(1)
    channels = np.zeros((len(EXPECTED[layout]), RATE_HZ), np.float32)
    channels[0] = tones(1)[0]
    channels[1] = -channels[0] + noise * random.normal(size=RATE_HZ).astype(np.float32)
    clip = read_clip(wav(tmp_path / "a.wav", channels, MASKS[layout]), duration_s=1.0)
    assert clip.audio is not None and clip.channels is not None
    assert any(np.array_equal(clip.audio, channel) for channel in clip.channels[:2]) and sum(clip.weights) == 1.0
    assert clip.channel_mean is not None and np.sqrt(np.square(clip.channel_mean).mean()) > 0.3


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.9])
def test_other_stereo_is_mixed(correlation: float) -> None:
    first, second = np.random.default_rng(2).normal(size=(2, 20000)).astype(np.float32)
    other = (correlation * first + np.sqrt(1 - correlation**2) * second).astype(np.float32)
    for channels in (np.stack([first, other]), np.stack([first, 0 * first]), np.zeros((2, 100), np.float32)):
        assert audible_weights(channels, (0.5, 0.5)) == (0.5, 0.5)


def write_changing(path: Path, halves: list[tuple[str, int]]) -> None:
    """2 s of a tone of 440 Hz for each of ``halves`` (layout, rate) in one track of MP2, whose frames carry layout and rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp2", rate=halves[0][1], layout=halves[0][0])
        for index, (layout, rate_hz) in enumerate(halves):
            times = np.arange(2 * rate_hz) / rate_hz
            tone = (9000 * np.sin(2 * np.pi * 440 * times)).astype(np.int16)
            encoder = av.CodecContext.create("mp2", "w")
            assert isinstance(encoder, av.AudioCodecContext)
            encoder.rate, encoder.layout, encoder.format = rate_hz, layout, "s16"
            encoder.time_base = Fraction(1, rate_hz)
            num = av.AudioLayout(layout).nb_channels
            frame = av.AudioFrame.from_ndarray(np.repeat(tone, num)[None], format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
            for packet in [*encoder.encode(frame), *encoder.encode(None)]:
                if packet.pts is not None:
                    packet.pts = packet.dts = packet.pts + 2 * index * rate_hz
                    packet.stream = stream
                    container.mux(packet)


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
@pytest.mark.parametrize(
    "halves",
    [
        [("stereo", 48000), ("stereo", 44100)],
        [("stereo", 48000), ("mono", 48000)],
        [("mono", 44100), ("stereo", 32000)],
    ],
)
def test_a_rate_or_layout_that_changes_in_the_middle(
    tmp_path: Path, suffix: str, halves: list[tuple[str, int]]
) -> None:
    """The tone keeps its frequency and loudness in the second half."""
    path = tmp_path / f"a.{suffix}"
    write_changing(path, halves)
    clip = read_clip(path, ClipShape(8, 32, 32, 2.1, 16000))
    assert clip.audio is not None
    for half in (clip.audio[8000:24000], clip.audio[40000:56000]):
        spectrum = np.abs(np.fft.rfft(half * np.hanning(len(half))))
        assert spectrum.argmax() == pytest.approx(440, abs=1)
        assert np.sqrt(2 * np.square(half).mean()) == pytest.approx(9000 / 32768, rel=0.05)


# --- samples that are not finite ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (np.inf, "infinite"), (-np.inf, "infinite")])
@pytest.mark.parametrize("num", [1, 2, 8])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float, word: str, num: int) -> None:
    channels = tones(num)
    channels[-1, 4000:4010] = value
    path = wav(tmp_path / "a.wav", channels, 0 if num > 2 else None, is_float=True)
    for read in (lambda: read_clip(path, duration_s=1.0), lambda: require_finite_sound(path)):
        with pytest.raises(MediaError, match=f"a.wav: {word}.* the first at 0.500 s"):
            read()
    assert read_clip(path, duration_s=0.4).has_audio


def test_finite_floats_pass(tmp_path: Path) -> None:
    require_finite_sound(wav(tmp_path / "a.wav", 3 * tones(2), is_float=True))


def test_a_clip_without_channels_has_its_audio_as_mean() -> None:
    clip = DecodedClip(None, 0.0, tones(1)[0], RATE_HZ, 1.0)
    assert clip.channel_mean is clip.audio
