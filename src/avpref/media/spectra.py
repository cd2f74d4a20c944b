"""Audio front ends of networks: resampling and mel spectra in torch, batched, on the device and in the dtype of the input.

Published front ends, with equal numbers: the resampler is the windowed sinc of torchaudio's ``functional.resample``
(Hann, six zero crossings, roll-off 0.99); :func:`kaldi_fbank` is Kaldi's ``compute-fbank-feats`` without dither;
:func:`htk_mel_power` is torchaudio's ``MelSpectrogram`` with its defaults; :func:`audioldm2_log_mel` and :func:`log_mel` are the
inputs of the audio codecs of AudioLDM2 and LTX-2. Filters are cached per device and dtype.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

RATE_HZ = 16000
"""Sample rate of all mel spectra in this module."""
NYQUIST_HZ = RATE_HZ / 2
HOP = 160
"""Samples between frames: 10 ms."""

ZERO_CROSSINGS = 6
ROLL_OFF = 0.99

KALDI_FRAME = 400
"""Minimum number of samples of :func:`kaldi_fbank`: 25 ms."""
KALDI_FFT = 512
KALDI_LOWEST_HZ = 20.0
PRE_EMPHASIS = 0.97
KALDI_BANDS = 128

FFT = 1024
STFT_SHORTEST = FFT // 2 + 1
"""Minimum number of samples of :func:`htk_mel_power` and :func:`audioldm2_log_mel`, which mirror the ends by half a frame."""
HTK_WINDOW = 400
HTK_BANDS = 128

CODEC_BANDS = 64
CODEC_PEAK = 0.5
CODEC_FLOOR = 1e-5
CODEC_FRAMES = 1024
CODEC_FRAMES_PER_S = 100
CODEC_DOWNSAMPLING = 8


def resample(audio: Tensor, from_hz: int, to_hz: int) -> Tensor:
    """[..., S] at ``from_hz`` → [..., ⌈S·to_hz/from_hz⌉] at ``to_hz``; equal rates return the input.

    Sample n of the result is the input at time n / to_hz, low-passed at 0.99 of the lower of the two half rates; outside its
    ends the input is zero. Raises ValueError for a rate below 1 Hz.
    """
    if min(from_hz, to_hz) < 1:
        raise ValueError(f"rates are whole and positive, found {from_hz} Hz and {to_hz} Hz")
    if from_hz == to_hz:
        return audio
    step, phases = from_hz // math.gcd(from_hz, to_hz), to_hz // math.gcd(from_hz, to_hz)
    kernels = _sinc_kernels(step, phases, audio.device, audio.dtype)
    reach = (kernels.shape[-1] - step) // 2
    rows = F.pad(audio.reshape(-1, 1, audio.shape[-1]), (reach, reach + step))
    resampled = F.conv1d(rows, kernels, stride=step).transpose(1, 2).flatten(1)
    length = -(-audio.shape[-1] * phases // step)
    return resampled[:, :length].reshape(*audio.shape[:-1], length)


@cache
def _sinc_kernels(step: int, phases: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[phases, 1, 2·reach + step]: row p holds the weights of the inputs around p·step/phases, starting at input −reach."""
    cutoff = ROLL_OFF * min(step, phases) / step
    reach = math.ceil(ZERO_CROSSINGS / cutoff)
    with torch.inference_mode(False):
        inputs = torch.arange(-reach, reach + step, dtype=torch.float64)
        outputs = torch.arange(phases, dtype=torch.float64)[:, None] * step / phases
        crossings = ((inputs - outputs) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = torch.cos(crossings * torch.pi / (2 * ZERO_CROSSINGS)).square()
        return (cutoff * torch.sinc(crossings) * window)[:, None].to(device, dtype)


def kaldi_fbank(audio: Tensor) -> Tensor:
    """[B, S] at 16 kHz → natural log of mel power [B, F, 128], F = 1 + (S − 400) // 160: whole frames only, oldest first.

    Frames of 400 samples without their mean, pre-emphasised by 0.97 (the first sample with itself), under a symmetric Hann window,
    transformed with 512 points; 128 triangles on Kaldi's mel scale from 20 to 8000 Hz; powers below the float32 epsilon are raised
    to it. Not normalised. Raises ValueError for fewer than 400 samples.
    """
    _require_samples(audio, KALDI_FRAME)
    frames = audio.unfold(-1, KALDI_FRAME, HOP)
    frames = frames - frames.mean(dim=-1, keepdim=True)
    before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
    window = _hann(KALDI_FRAME, False, audio.device, audio.dtype)
    power = torch.fft.rfft((frames - PRE_EMPHASIS * before) * window, KALDI_FFT).abs().square()
    bands = power @ _kaldi_triangles(audio.device, audio.dtype).T
    return bands.clamp_min(torch.finfo(torch.float32).eps).log()


def htk_mel_power(audio: Tensor) -> Tensor:
    """[B, S] at 16 kHz → mel power [B, 128, F], F = 1 + S // 160, before any logarithm.

    Frames of 1024 samples around every 160th one, the ends mirrored, under a periodic Hann window of 400; 128 triangles of
    height 1, equally spaced on the HTK mel scale from 0 to 8000 Hz. Raises ValueError for fewer than 513 samples.
    """
    power = _spectrum(audio, HTK_WINDOW).abs().square()
    return _htk_triangles(audio.device, audio.dtype) @ power


def audioldm2_log_mel(audio: Tensor, duration_s: float | None) -> Tensor:
    """[S] at 16 kHz → natural log of mel magnitude [F, 64], F = ⌊100·duration_s⌋ rounded up to a multiple of 8 (None: 1024).

    The sound is centred and its peak set to 0.5 first. Frames of 1024 samples around every 160th one, the ends mirrored, under a
    periodic Hann window; 64 triangles of equal area on the Slaney mel scale from 0 to 8000 Hz; magnitudes below 1e-5 are raised
    to it. The result is truncated to F frames or padded with zeros, as published, which is louder than silence
    (log 1e-5 = −11.5). Raises ValueError for fewer than 513 samples.
    """
    magnitude = _spectrum(peak_normalised(audio)[None], FFT).abs()[0]
    mel = (_slaney_triangles(audio.device, audio.dtype) @ magnitude).clamp_min(CODEC_FLOOR).log().T
    num_frames = _codec_frames(duration_s)
    return F.pad(mel[:num_frames], (0, 0, 0, max(0, num_frames - len(mel))))


def log_mel(audio: Tensor) -> Tensor:
    """[C, S] at 16 kHz → natural log of mel magnitude [C, F, 64], F = 1 + S // 160: the input of LTX-2's audio codec.

    Frames, filters and floor are those of :func:`audioldm2_log_mel`; the sound is neither scaled nor truncated. Equal to torchaudio's
    ``MelSpectrogram`` with power 1, Slaney's scale and norm. Raises ValueError for fewer than 513 samples.
    """
    magnitude = _spectrum(audio, FFT).abs()
    return (_slaney_triangles(audio.device, audio.dtype) @ magnitude).clamp_min(CODEC_FLOOR).log().transpose(1, 2)


def peak_normalised(audio: Tensor) -> Tensor:
    """[S] → [S]: centred, then scaled to a peak of 0.5, as in training of AudioLDM2's codec. Silence stays silence."""
    centred = audio - audio.mean()
    return (centred / (centred.abs().max() + 1e-8) * CODEC_PEAK).clamp(-1.0, 1.0)


def _codec_frames(duration_s: float | None) -> int:
    if duration_s is None:
        return CODEC_FRAMES
    return -(-int(duration_s * CODEC_FRAMES_PER_S) // CODEC_DOWNSAMPLING) * CODEC_DOWNSAMPLING


def _spectrum(audio: Tensor, window: int) -> Tensor:
    """Complex [B, 513, F] of [B, S]; frames are centred and the ends mirrored."""
    _require_samples(audio, STFT_SHORTEST)
    taper = _hann(window, True, audio.device, audio.dtype)
    return torch.stft(audio, FFT, HOP, window, taper, center=True, pad_mode="reflect", return_complex=True)


def _require_samples(audio: Tensor, fewest: int) -> None:
    if audio.shape[-1] < fewest:
        raise ValueError(f"{audio.shape[-1]} samples at {RATE_HZ} Hz are too few for one frame of {fewest}")


@cache
def _hann(length: int, periodic: bool, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[length], computed in ``dtype``, as published: rounding from float64 would change the logarithm of bands near silence by 4e-4."""
    with torch.inference_mode(False):
        return torch.hann_window(length, periodic=periodic, dtype=dtype).to(device)


@cache
def _kaldi_triangles(device: torch.device, dtype: torch.dtype) -> Tensor:
    """[128, 257]: triangles that are linear on the mel scale 1127·ln(1 + f/700), without the bin at 8000 Hz."""
    with torch.inference_mode(False):
        mels = 1127.0 * torch.log1p(_bins_hz(KALDI_FFT) / 700.0)
        lowest = 1127.0 * math.log1p(KALDI_LOWEST_HZ / 700.0)
        edges = torch.linspace(lowest, float(mels[-1]), KALDI_BANDS + 2, dtype=torch.float64)
        triangles = _triangles(mels, edges)
        triangles[:, -1] = 0.0
        return triangles.to(device, dtype)


@cache
def _htk_triangles(device: torch.device, dtype: torch.dtype) -> Tensor:
    """[128, 513]: triangles that are linear in Hz, with edges equally spaced on the mel scale 2595·log10(1 + f/700).

    Computed in float32, as published, which changes the narrow triangles of low bands by up to 5e-5 of their power.
    """
    with torch.inference_mode(False):
        highest = 2595.0 * math.log10(1.0 + NYQUIST_HZ / 700.0)
        mels = torch.linspace(0.0, highest, HTK_BANDS + 2, dtype=torch.float32)
        return _triangles(_bins_hz(FFT).float(), 700.0 * (10.0 ** (mels / 2595.0) - 1.0)).to(device, dtype)


@cache
def _slaney_triangles(device: torch.device, dtype: torch.dtype) -> Tensor:
    """[64, 513]: triangles of area 1 that are linear in Hz; the scale is linear to 1000 Hz (15 steps), then 27 steps per 6.4-fold."""
    with torch.inference_mode(False):
        highest = 15.0 + 27.0 * math.log(NYQUIST_HZ / 1000.0) / math.log(6.4)
        steps = torch.linspace(0.0, highest, CODEC_BANDS + 2, dtype=torch.float64)
        edges = torch.where(steps < 15.0, steps * 1000.0 / 15.0, 1000.0 * 6.4 ** ((steps - 15.0) / 27.0))
        heights = 2.0 / (edges[2:] - edges[:-2])
        return (heights[:, None] * _triangles(_bins_hz(FFT), edges)).to(device, dtype)


def _bins_hz(points: int) -> Tensor:
    """[points // 2 + 1]: the frequencies of a real transform, 0 to 8000 Hz."""
    return torch.linspace(0.0, NYQUIST_HZ, points // 2 + 1, dtype=torch.float64)


def _triangles(positions: Tensor, edges: Tensor) -> Tensor:
    """[M, K]: M triangles of height 1 over consecutive triples of M + 2 ``edges``, evaluated at K ``positions``."""
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (positions - low) / (peak - low), (high - positions) / (high - peak)
    return torch.minimum(rising, falling).clamp_min(0.0)
