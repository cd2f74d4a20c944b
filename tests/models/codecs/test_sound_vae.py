"""The sound codec against the libraries' own classes, small and with random weights; lengths, tails, files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_codecs import tiny_audio_vae, tiny_vocoder

from avpref.errors import InputError
from avpref.media.spectra import audioldm2_log_mel
from avpref.models.codecs.sound_vae import (
    CORRECTED,
    RELEASED,
    SCALING,
    SoundVae,
    Tail,
    encoded_mel_frames,
    generated_mel_frames,
    load_sound_vae,
    load_vocoder,
    log_mel,
)

if TYPE_CHECKING:
    from diffusers.models import AutoencoderKL
    from transformers import SpeechT5HifiGan

PUBLISHED_LENGTHS = {33: (208, 224, 33000), 49: (312, 320, 49000), 65: (408, 416, 65000), 81: (512, 512, 81000)}
SILENCE = math.log(1e-5)
Networks: TypeAlias = "tuple[AutoencoderKL, SpeechT5HifiGan]"


def make_vae(**changes: Any) -> AutoencoderKL:
    torch.manual_seed(3)
    vae = tiny_audio_vae(**changes)
    vae.eval()
    return vae


def make_vocoder(**changes: Any) -> SpeechT5HifiGan:
    torch.manual_seed(4)
    return tiny_vocoder(**changes).eval()


@pytest.fixture(scope="module")
def networks() -> Networks:
    return make_vae(), make_vocoder()


@pytest.fixture(scope="module")
def folders(networks: Networks, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    path = tmp_path_factory.mktemp("audioldm2")
    vae, vocoder = networks
    vae.save_pretrained(path / "vae")
    vocoder.save_pretrained(path / "vocoder")
    return path / "vae", path / "vocoder"


def tone(num_samples: int, hz: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz / 16000 * np.arange(num_samples))).astype(np.float32)


@pytest.mark.parametrize(("num_frames", "expected"), PUBLISHED_LENGTHS.items())
def test_the_published_lengths(num_frames: int, expected: tuple[int, int, int], networks: Networks) -> None:
    encoded, generated, num_samples = expected
    assert num_samples == int(num_frames / 16 * 16000)
    assert encoded_mel_frames(num_samples) == encoded
    assert [generated_mel_frames(num_samples, tail) for tail in (CORRECTED, RELEASED)] == [generated, generated]
    vae = SoundVae(*networks, CORRECTED, 1.0)
    assert vae.encode(tone(num_samples)).shape == (8, encoded // 4, 16)
    decoded = vae.decode(torch.zeros(8, generated // 4, 16), num_samples)
    assert decoded.shape == (num_samples,) and decoded.dtype == np.float32


@given(st.integers(1, 200), st.sampled_from([8.0, 16.0, 24.0, 25.0]))
def test_lengths_are_those_of_the_original_formulas(num_frames: int, fps_hz: float) -> None:
    duration_s = num_frames / fps_hz
    num_samples = round(duration_s * 16000)
    assert encoded_mel_frames(num_samples) == math.ceil(int(duration_s * 16000 / 160) / 8) * 8
    assert generated_mel_frames(num_samples, RELEASED) == math.ceil(int(duration_s / 0.01) / 32) * 32
    assert 160 * generated_mel_frames(num_samples) >= num_samples
    assert 0 <= generated_mel_frames(num_samples) - generated_mel_frames(num_samples, RELEASED) <= 32


def test_a_length_whose_end_the_released_rule_leaves_out(networks: Networks) -> None:
    num_samples = 41000
    assert (generated_mel_frames(num_samples, RELEASED), generated_mel_frames(num_samples)) == (256, 288)
    decoded = SoundVae(*networks, RELEASED, 1.0).decode(torch.randn(8, 64, 16), num_samples)
    assert len(decoded) == num_samples and np.abs(decoded[256 * 160 + 32 :]).max() == 0 and decoded[40959] != 0


@pytest.mark.parametrize("tail", [CORRECTED, RELEASED], ids=["corrected", "released"])
def test_mel_frames_of_the_sound_itself_are_the_published_front_end(tail: Tail) -> None:
    audio = torch.from_numpy(tone(33000))
    actual, published = log_mel(audio, tail), audioldm2_log_mel(audio, 33 / 16)
    assert actual.shape == published.shape == (208, 64)
    real = 1 + 33000 // 160
    assert torch.equal(actual[:real], published[:real])
    assert (actual[real:] == tail.level).all() and len(actual) - real == 1


@pytest.mark.parametrize("num_frames", [33, 49, 65, 81])
def test_a_tone_ends_in_silence_where_it_used_to_end_in_a_click(num_frames: int) -> None:
    """Magnitude of the bands that the tone does not reach: the released tail is a hundred times as loud there, and more."""
    audio = torch.from_numpy(tone(num_frames * 1000))
    bands = log_mel(audio, CORRECTED)[20:180].mean(0) < -6.0
    assert 32 < bands.sum() < 64
    loudness = {name: log_mel(audio, tail)[:, bands].exp().sum(1) for name, tail in RULES.items()}
    before = loudness["corrected"][20:180].max()
    assert loudness["corrected"][-1] <= before
    assert loudness["released"][-1] > 100 * before and loudness["released"][-1] == bands.sum()


RULES = {"corrected": CORRECTED, "released": RELEASED}


def test_the_tail_reaches_the_latents_and_the_waveform(networks: Networks) -> None:
    """With random weights nobody hears a click, but the two tails differ at the end of the decoded sound, and only there."""
    audio = tone(65000)
    ways = [SoundVae(*networks, tail, 0.0) for tail in (CORRECTED, RELEASED)]
    decoded = [way.decode(way.encode(audio), 65000) for way in ways]
    change = np.abs(decoded[0] - decoded[1])
    assert change[-1600:].mean() > 3 * change[:32000].mean()


def test_latents_are_scaled_draws_from_the_posterior(networks: Networks) -> None:
    audio = tone(33000, 700.0)
    posterior = networks[0].encode(log_mel(torch.from_numpy(audio), CORRECTED)[None, None]).latent_dist
    mean, std = posterior.mean[0].detach(), posterior.std[0].detach()
    drawn, still = (SoundVae(*networks, CORRECTED, spread).encode(audio) for spread in (1.0, 0.0))
    torch.testing.assert_close(still, mean * 0.4110932946205139)
    noise = (drawn / SCALING - mean) / std
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert drawn.dtype == torch.float32


def test_the_draw_belongs_to_the_sound(networks: Networks) -> None:
    vae = SoundVae(*networks, CORRECTED, 1.0)
    first, second = tone(33000), tone(33000, 441.0)
    torch.manual_seed(1)
    again = vae.encode(first)
    torch.manual_seed(2)
    assert torch.equal(vae.encode(first), again)
    still = SoundVae(*networks, CORRECTED, 0.0)
    noises = [(vae.encode(audio) - still.encode(audio)) for audio in (first, second)]
    assert abs(torch.corrcoef(torch.stack(noises).flatten(1))[0, 1]) < 0.1


def test_decoding_is_the_libraries_own(networks: Networks) -> None:
    latent = torch.randn(8, 56, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mel = networks[0].decode(latent[None] / SCALING).sample
        waveform = networks[1](mel.squeeze(1))
    assert mel.shape == (1, 1, 224, 64) and waveform.shape[1] >= 224 * 160
    actual = SoundVae(*networks, CORRECTED, 1.0).decode(latent, 33000)
    np.testing.assert_array_equal(actual, waveform[0, :33000].numpy())
    assert np.abs(actual).max() <= 1 and actual.std() > 0


def test_silence_is_encoded_as_silence(networks: Networks) -> None:
    audio = np.zeros(33000, np.float32)
    assert (log_mel(torch.from_numpy(audio), CORRECTED) == torch.tensor(SILENCE)).all()
    assert SoundVae(*networks, CORRECTED, 1.0).encode(audio).isfinite().all()


def test_folders_of_the_libraries(networks: Networks, folders: tuple[Path, Path], tmp_path: Path) -> None:
    for actual, network in zip((load_sound_vae(folders[0]), load_vocoder(folders[1])), networks, strict=True):
        expected = network.state_dict()
        assert actual.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in actual.state_dict().items())
    for network, folder in zip(networks, folders, strict=True):
        (tmp_path / folder.name).mkdir()
        torch.save(network.state_dict(), tmp_path / folder.name / "pytorch_model.bin")
        (tmp_path / folder.name / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert torch.equal(load_vocoder(tmp_path / "vocoder").conv_post.weight, networks[1].conv_post.weight)
    assert torch.equal(load_sound_vae(tmp_path / "vae").decoder.conv_out.weight, networks[0].decoder.conv_out.weight)


def test_attention_under_its_old_names(networks: Networks, folders: tuple[Path, Path], tmp_path: Path) -> None:
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(folders[0] / "diffusion_pytorch_model.safetensors")
    for new, old in names.items():
        state = {name.replace(f"attentions.0.{new}.", f"attentions.0.{old}."): value for name, value in state.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in state
    save_file(state, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_bytes((folders[0] / "config.json").read_bytes())
    actual = load_sound_vae(tmp_path).state_dict()
    assert all(torch.equal(actual[name], tensor) for name, tensor in networks[0].state_dict().items())


def test_half_precision_is_the_networks_own(folders: tuple[Path, Path], networks: Networks) -> None:
    vae, vocoder = load_sound_vae(folders[0], dtype=torch.bfloat16), load_vocoder(folders[1], dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in [*vae.parameters(), *vocoder.parameters()]} == {torch.bfloat16}
    codec, exact = SoundVae(vae, vocoder, CORRECTED, 1.0), SoundVae(*networks, CORRECTED, 1.0)
    latent = codec.encode(tone(33000))
    assert latent.dtype == torch.float32 and codec.decode(latent, 33000).dtype == np.float32
    difference = (latent - exact.encode(tone(33000))).abs()
    assert 0 < difference.mean() < 0.05


def edited(folder: Path, target: Path, **changes: object) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


@pytest.mark.parametrize(
    ("load", "changes", "message"),
    [
        (load_sound_vae, {"scaling_factor": 0.18215}, "scaling_factor is 0.18215"),
        (load_sound_vae, {"latent_channels": 4}, "latent_channels is 4"),
        (load_sound_vae, {"block_out_channels": [8, 8, 8, 8]}, "scale is 8"),
        (load_vocoder, {"model_in_dim": 80}, "model_in_dim is 80"),
        (load_vocoder, {"upsample_rates": [4, 4, 4, 4]}, "samples per mel frame is 256"),
        (load_vocoder, {"sampling_rate": 24000}, "sampling_rate is 24000"),
    ],
)
def test_other_codecs_are_refused(
    folders: tuple[Path, Path], tmp_path: Path, load: Callable, changes: dict[str, object], message: str
) -> None:
    folder = folders[0] if load is load_sound_vae else folders[1]
    with pytest.raises(InputError, match=message):
        load(edited(folder, tmp_path / "edited", **changes))


def test_tensors_that_do_not_fit(folders: tuple[Path, Path], tmp_path: Path) -> None:
    folder = edited(folders[1], tmp_path / "short")
    state = load_file(folder / "model.safetensors")
    del state["mean"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"1 missing \(mean\)"):
        load_vocoder(folder)
    (folder / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read"):
        load_vocoder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(InputError, match="holds a list"):
        load_vocoder(folder)
