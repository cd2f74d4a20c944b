"""The audio codec of the released generator: AudioLDM2's mel VAE and its HiFi-GAN vocoder, at 16 kHz.

Encoding: audio → log-mel at 100 frames per second (:func:`avpref.media.spectra.audioldm2_log_mel`) → latents at 25 per second;
decoding goes back through the vocoder. Clips are not a whole number of latent steps, so their mel frames are rounded up as in the
original: to a multiple of 8 for encoding, of 32 for generation; the surplus is cut from the waveform.

The *tail* is the padding after the end of encoded audio. The released code pads with zeros, which as a logarithm is loud noise in all
bands, so the model learned to end clips with a click. The corrected tail is silence, log(1e-5).
"""

from __future__ import annotations

import math
from collections.abc import Callable
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
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from transformers import SpeechT5HifiGan

PUBLISHED_VAE = Published("cvssp/audioldm2", "vae", "codec.audio_vae")
PUBLISHED_VOCODER = Published("cvssp/audioldm2", "vocoder", "codec.vocoder")

CHANNELS = 8
STEP = 4
"""Mel frames of one latent step, and mel bands of one latent row."""
SCALING = 0.4110932946205139
"""AudioLDM2's ``scaling_factor``: gives latents a standard deviation of about 1."""
ENCODED_MULTIPLE, GENERATED_MULTIPLE = 8, 32
VAE_STRUCTURE = {"in_channels": 1, "out_channels": 1, "latent_channels": CHANNELS, "scaling_factor": SCALING}
VOCODER_STRUCTURE = {"model_in_dim": CODEC_BANDS, "sampling_rate": RATE_HZ, "normalize_before": False}
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention layers in files saved by diffusers before 0.18: old name -> new name."""


@dataclass(frozen=True)
class Tail:
    """``level``: log-mel value after the end of encoded audio. ``omitted_samples``: samples at the end that are not generated."""

    level: float
    omitted_samples: int


CORRECTED = Tail(math.log(CODEC_FLOOR), 0)
RELEASED = Tail(0.0, HOP - 1)


def encoded_mel_frames(num_samples: int) -> int:
    """Mel frames of encoded audio at 16 kHz: the number of whole hops, rounded up to a multiple of 8."""
    return _round_up(num_samples // HOP, ENCODED_MULTIPLE)


def generated_mel_frames(num_samples: int, tail: Tail = CORRECTED) -> int:
    """Mel frames of generated audio at 16 kHz, a multiple of 32.

    The released rule counts whole hops, so that the last samples of a few lengths (41 frames at 16 Hz) are not generated and
    remain zero; the corrected rule also counts the last, partial hop. Both agree at the published lengths.
    """
    return _round_up((num_samples + HOP - 1 - tail.omitted_samples) // HOP, GENERATED_MULTIPLE)


def log_mel(audio: Tensor, tail: Tail, mel_frames: Callable[[int], int] = encoded_mel_frames) -> Tensor:
    """Input [F, 64] of the VAE for audio [S] at 16 kHz: 1 + S // 160 frames of audio (at most F), then ``tail.level``.

    ``mel_frames`` gives F of S.
    """
    num_frames = mel_frames(len(audio))
    mel = audioldm2_log_mel(audio, num_frames / CODEC_FRAMES_PER_S)
    mel[1 + len(audio) // HOP :] = tail.level
    return mel


class SoundVae:
    """Waveforms ↔ latents, one clip at a time; see the module.

    ``spread`` scales the noise of the posterior: 1 as in the original's training, 0 for its mean. The noise depends only on the
    waveform. ``mel_frames`` gives the mel frames of encoded audio of some samples. Arithmetic runs in the dtype of the networks.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        vocoder: SpeechT5HifiGan,
        tail: Tail,
        spread: float,
        mel_frames: Callable[[int], int] = encoded_mel_frames,
    ) -> None:
        self._vae, self._vocoder, self._tail, self._spread, self._mel_frames = vae, vocoder, tail, spread, mel_frames
        weight = next(vae.parameters())
        self._device, self._dtype = weight.device, weight.dtype

    @torch.no_grad()
    def encode(self, audio: NDArray[np.float32]) -> Tensor:
        """Mono [S] at 16 kHz → latents [8, F / 4, 16], float32 on the CPU, F = ``mel_frames`` (S)."""
        posterior = self._posterior(audio)
        mean, std = (moment[0].float().cpu() for moment in (posterior.mean, posterior.std))
        return (mean + self._spread * std * _noise(audio, mean.shape)) * SCALING

    @torch.no_grad()
    def moments(self, audio: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [8, F / 4, 16] of the latents of mono [S] at 16 kHz, float32 on the CPU; no noise is drawn."""
        posterior = self._posterior(audio)
        mean, log_variance = (moment[0].float().cpu() for moment in (posterior.mean, posterior.logvar))
        return mean * SCALING, log_variance + 2 * math.log(SCALING)

    def _posterior(self, audio: NDArray[np.float32]) -> DiagonalGaussianDistribution:
        mel = log_mel(torch.tensor(audio, dtype=torch.float32), self._tail, self._mel_frames)
        return self._vae.encode(mel[None, None].to(self._device, self._dtype)).latent_dist

    @torch.no_grad()
    def decode(self, latent: Tensor, num_samples: int) -> NDArray[np.float32]:
        """Latents [8, L, 16] → mono [num_samples] at 16 kHz in [−1, 1]; zeros after the end of the latents."""
        mel = self._vae.decode(latent[None].to(self._device, self._dtype) / SCALING).sample
        waveform = self._vocoder(mel[:, 0])[0, :num_samples].float().cpu()
        return functional.pad(waveform, (0, num_samples - len(waveform))).numpy()


def load_sound_vae(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> AutoencoderKL:
    """AudioLDM2's VAE from a folder as diffusers saves it. Raises InputError for another VAE, or tensors that do not fit."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    config = read_json(path / CONFIG)
    require_values(path, config, VAE_STRUCTURE, "AudioLDM2's audio VAE")
    derived = {"scale": 2 ** (len(_list_value(config, "block_out_channels")) - 1)}
    require_values(path, derived, {"scale": STEP}, "AudioLDM2's audio VAE")
    network = on_meta(lambda: AutoencoderKL.from_config(config))
    tensors = {_new_name(name): tensor for name, tensor in read_tensors(find_checkpoint(path)).items()}
    fit(network, tensors, path, device=device, dtype=dtype)
    return network


def load_vocoder(path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> SpeechT5HifiGan:
    """AudioLDM2's vocoder from a folder as transformers saves it. Raises InputError as :func:`load_sound_vae` does."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    config: Any = SpeechT5HifiGanConfig.from_dict(dict(read_json(path / CONFIG)))
    values = {**config.to_dict(), "samples per mel frame": math.prod(config.upsample_rates)}
    expected = {**VOCODER_STRUCTURE, "samples per mel frame": HOP}
    require_values(path, values, expected, "AudioLDM2's vocoder")
    network = on_meta(lambda: SpeechT5HifiGan(config))
    fit(network, read_tensors(find_checkpoint(path)), path, device=device, dtype=dtype)
    return network


def _list_value(config: object, name: str) -> list[object]:
    value = config.get(name) if isinstance(config, dict) else None
    return value if isinstance(value, list) else []


def _new_name(name: str) -> str:
    """Current diffusers name of a tensor."""
    module, _, kind = name.rpartition(".")
    parent, _, part = module.rpartition(".")
    return f"{parent}.{OLD_NAMES[part]}.{kind}" if ".attentions." in name and part in OLD_NAMES else name


def _noise(audio: NDArray[np.float32], shape: torch.Size) -> Tensor:
    """Noise N(0, 1) of ``shape`` that depends only on the waveform [S], not on machine or batch."""
    seed = derive_seed("audio posterior", bytes_sha256(np.ascontiguousarray(audio, np.float32).tobytes()))
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
