"""The sound codec of the released generator: AudioLDM2's mel VAE and its HiFi-GAN vocoder, at 16 kHz.

Sound → log-mel at 100 frames per second (:func:`avpref.media.spectra.audioldm2_log_mel`) → latents at 25 per second; back through
the vocoder. Clips are no whole number of latent steps, so their mel frames are rounded up: to a multiple of 8 where sound is
encoded, of 32 where it is generated (the original does so; what is too much is cut from the waveform).

What stands after the end of an encoded sound is the *tail*. The released code fills it with zeros, which in the logarithm
is a loud noise in all bands: the model learned to end clips with a click. The corrected tail is silence, log(1e-5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from avpref.identity import bytes_sha256, derive_seed
from avpref.media.spectra import CODEC_BANDS, CODEC_FLOOR, CODEC_FRAMES_PER_S, HOP, RATE_HZ, audioldm2_log_mel
from avpref.models.checkpoints.checkpoint_files import find_checkpoint, read_tensors
from avpref.models.checkpoints.weight_folders import CONFIG, Published, read_json, require_values
from avpref.storage.weight_files import fit, on_meta

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from transformers import SpeechT5HifiGan

PUBLISHED_VAE = Published("cvssp/audioldm2", "vae", "codec.audio_vae")
PUBLISHED_VOCODER = Published("cvssp/audioldm2", "vocoder", "codec.vocoder")

CHANNELS = 8
STEP = 4
"""Mel frames of one latent step, and mel bands of one latent row."""
SCALING = 0.4110932946205139
"""Latents of spread 1: AudioLDM2's ``scaling_factor``."""
ENCODED_MULTIPLE, GENERATED_MULTIPLE = 8, 32
VAE_STRUCTURE = {"in_channels": 1, "out_channels": 1, "latent_channels": CHANNELS, "scaling_factor": SCALING}
VOCODER_STRUCTURE = {"model_in_dim": CODEC_BANDS, "sampling_rate": RATE_HZ, "normalize_before": False}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention of diffusers before its version 0.18: names in files that were saved then."""


@dataclass(frozen=True)
class Tail:
    """``level``: log-mel after the end of an encoded sound. ``left_out``: samples at the end that need not be generated."""

    level: float
    left_out: int


CORRECTED = Tail(math.log(CODEC_FLOOR), 0)
RELEASED = Tail(0.0, HOP - 1)


def encoded_mel_frames(num_samples: int) -> int:
    """Mel frames of an encoded sound at 16 kHz: whole hops, rounded up to a multiple of 8."""
    return _up(num_samples // HOP, ENCODED_MULTIPLE)


def generated_mel_frames(num_samples: int, tail: Tail = CORRECTED) -> int:
    """Mel frames of a generated sound at 16 kHz, a multiple of 32.

    The released rule counts whole hops, so that the last samples of a few lengths (41 frames at 16 Hz) are not generated and
    remain zero; the corrected one counts every hop that is begun. At the published lengths both give the same.
    """
    return _up((num_samples + HOP - 1 - tail.left_out) // HOP, GENERATED_MULTIPLE)


def log_mel(audio: Tensor, tail: Tail) -> Tensor:
    """[S] at 16 kHz → what the VAE encodes, [F, 64]: the sound's 1 + S // 160 frames, at most F, then ``tail.level``."""
    wanted = encoded_mel_frames(len(audio))
    found = audioldm2_log_mel(audio, wanted / CODEC_FRAMES_PER_S)
    found[1 + len(audio) // HOP :] = tail.level
    return found


class SoundVae:
    """Waveforms ↔ latents, one clip at a time; see the module.

    ``spread`` is how much of the posterior's noise is added to its mean: 1 as in the original's training, 0 for the mean. The
    noise depends on the waveform alone. The networks' own dtype is the dtype of the arithmetic.
    """

    def __init__(self, vae: AutoencoderKL, vocoder: SpeechT5HifiGan, tail: Tail, spread: float) -> None:
        self._vae, self._vocoder, self._tail, self._spread = vae, vocoder, tail, spread
        weight = next(vae.parameters())
        self._device, self._dtype = weight.device, weight.dtype

    @torch.no_grad()
    def encode(self, audio: NDArray[np.float32]) -> Tensor:
        """Mono [S] at 16 kHz → latents [8, F / 4, 16], float32 on the CPU, F of :func:`encoded_mel_frames`."""
        mel = log_mel(torch.tensor(audio, dtype=torch.float32), self._tail)
        posterior = self._vae.encode(mel[None, None].to(self._device, self._dtype)).latent_dist
        mean, std = (moment[0].float().cpu() for moment in (posterior.mean, posterior.std))
        return (mean + self._spread * std * _noise(audio, mean.shape)) * SCALING

    @torch.no_grad()
    def decode(self, latent: Tensor, num_samples: int) -> NDArray[np.float32]:
        """Latents [8, L, 16] → mono [num_samples] at 16 kHz in [−1, 1]; zeros where the latents end before."""
        mel = self._vae.decode(latent[None].to(self._device, self._dtype) / SCALING).sample
        waveform = self._vocoder(mel[:, 0])[0, :num_samples].float().cpu()
        return functional.pad(waveform, (0, num_samples - len(waveform))).numpy()


def load_sound_vae(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> AutoencoderKL:
    """AudioLDM2's VAE from a folder as diffusers saves it. Raises InputError for another VAE, or tensors that do not fit."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = read_json(path / CONFIG)
    require_values(path, config, VAE_STRUCTURE, "AudioLDM2's sound VAE")
    found = {"scale": 2 ** (len(_numbers(config, "block_out_channels")) - 1)}
    require_values(path, found, {"scale": STEP}, "AudioLDM2's sound VAE")
    network = on_meta(lambda: AutoencoderKL.from_config(config))
    tensors = {_new_name(name): tensor for name, tensor in read_tensors(find_checkpoint(path)).items()}
    fit(network, tensors, path, device=device, dtype=dtype)
    return network


def load_vocoder(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> SpeechT5HifiGan:
    """AudioLDM2's vocoder from a folder as transformers saves it. Raises InputError as :func:`load_sound_vae` does."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config: Any = SpeechT5HifiGanConfig.from_dict(dict(read_json(path / CONFIG)))
    found = {**config.to_dict(), "samples per mel frame": math.prod(config.upsample_rates)}
    expected = {**VOCODER_STRUCTURE, "samples per mel frame": HOP}
    require_values(path, found, expected, "AudioLDM2's vocoder")
    network = on_meta(lambda: SpeechT5HifiGan(config))
    fit(network, read_tensors(find_checkpoint(path)), path, device=device, dtype=dtype)
    return network


def _numbers(config: object, name: str) -> list[object]:
    found = config.get(name) if isinstance(config, dict) else None
    return found if isinstance(found, list) else []


def _new_name(name: str) -> str:
    """A tensor's name as diffusers has it now."""
    module, _, kind = name.rpartition(".")
    parent, _, part = module.rpartition(".")
    return f"{parent}.{OLD_NAMES[part]}.{kind}" if ".attentions." in name and part in OLD_NAMES else name


def _noise(audio: NDArray[np.float32], shape: torch.Size) -> Tensor:
    """N(0, 1) that belongs to this waveform: the same on every machine, and in every batch."""
    seed = derive_seed("audio posterior", bytes_sha256(np.ascontiguousarray(audio, np.float32).tobytes()))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
