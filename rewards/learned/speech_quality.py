"""Quality of speech by DNSMOS: listeners' mean opinion, 1 to 5 (C. Reddy, V. Gopal, R. Cutler, "DNSMOS P.835", ICASSP 2022).

Two networks, trained on rated speech that had been through noise suppressors: P.835 judges signal, background and both together
from the waveform, P.808 gives one judgement from a mel spectrum. They know speech alone: anything else gets values near their floor,
so a clip is judged only where Silero VAD hears speech in at least a quarter of it. Windows are those of the published program: 9.01 s,
one every second; shorter sound is repeated until it fills one; a clip's number is the mean over its windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray
from scipy.fft import rfft

from avpref.domain import SOUND, Dimension, Metric, Score, Terms
from avpref.media.sound.mel_filters import periodic_hann
from avpref.media.spectra import RATE_HZ
from avpref.rewards.learned.mono16k import mono_16k
from avpref.rewards.learned.packaged_weights import Package, PackagedWeights, fingerprint, open_session
from avpref.rewards.learned.speech import RULES, WEIGHTS, SpeechDetector
from avpref.rewards.protocol import ScorableClip, measured, skipped
from avpref.rewards.signals.onsets import decibels, mel_filters
from avpref.rewards.validity import DEFAULT_RULES, skip_reason

NAME, VERSION = "speech_quality", 1
_PACKAGE = Package("speechmos", "speechmos")
P835 = PackagedWeights(_PACKAGE, "dnsmos_models/sig_bak_ovr.onnx")
P808 = PackagedWeights(_PACKAGE, "dnsmos_models/model_v8.onnx")
TERMS = Terms("MIT", commercial_use=True)
UNIT = "MOS, 1-5"
METRICS = tuple(
    Metric(name, UNIT, True, Dimension.AUDIO, SOUND)
    for name in ("speech_overall", "speech_signal", "speech_background", "speech_p808")
)
MIN_SPEECH_SHARE = 0.25
WINDOW = int(9.01 * RATE_HZ)
MEL_FFT, MEL_HOP, MEL_BANDS = 321, 160, 120
MEL_CENTRE_DB = 40.0
RATINGS = {
    "speech_overall": Polynomial([0.04602535, 1.11546468, -0.06766283]),
    "speech_signal": Polynomial([0.0052439, 1.22083953, -0.08397278]),
    "speech_background": Polynomial([-0.39604546, 1.60915514, -0.13166888]),
}
"""Published polynomials from raw outputs of P.835 to opinions."""
_RAW_ORDER = ("speech_signal", "speech_background", "speech_overall")


def speech_quality_fingerprint() -> str:
    """Hash of everything that the numbers depend on. Raises InputError where a package is absent."""
    return fingerprint(NAME, VERSION, [P835, P808, WEIGHTS], RULES, MIN_SPEECH_SHARE, DEFAULT_RULES)


def windows(sound: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """The windows [144160] of sound [S], S > 0, at 16 kHz: one every second. Shorter sound is doubled until it fills one."""
    while len(sound) < WINDOW:
        sound = np.concatenate([sound, sound])
    starts = range(0, len(sound) - WINDOW + 1, RATE_HZ)
    return [sound[start : start + WINDOW] for start in starts]


def p808_features(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """The input of P.808, [900, 120], of a window [144160]: mel power in dB under its largest value, over 40, plus 1.

    Without the window's last 160 samples; spectra of 321 samples under a periodic Hann window every 160, centred, zeros beyond
    the ends; 120 Slaney bands from 0 to 8000 Hz; at most 80 dB below the largest value.
    """
    padded = np.pad(window[:-MEL_HOP], MEL_FFT // 2)
    pieces = np.lib.stride_tricks.sliding_window_view(padded, MEL_FFT)[::MEL_HOP]
    spectra = rfft(pieces * periodic_hann(MEL_FFT).astype(np.float32), axis=1)
    power = (spectra.real**2 + spectra.imag**2) @ mel_filters(RATE_HZ, MEL_BANDS, MEL_FFT).T
    level = decibels(power.astype(np.float32))
    return ((level - level.max() + MEL_CENTRE_DB) / MEL_CENTRE_DB).astype(np.float32)


def opinions(raw: Sequence[float], p808: float) -> dict[str, float]:
    """Numbers by metric from the raw outputs of P.835 (signal, background, overall) and that of P.808."""
    values = {name: float(RATINGS[name](value)) for name, value in zip(_RAW_ORDER, raw, strict=True)}
    return {**values, "speech_p808": float(p808)}


class SpeechQualityScorer:
    """Fills :data:`METRICS`; see :class:`avpref.rewards.protocol.Scorer`. Clips with little or no speech are skipped."""

    metrics, terms = METRICS, TERMS

    def __init__(self) -> None:
        self._fingerprint = speech_quality_fingerprint()
        self._detector = SpeechDetector(NAME)
        self._p835, self._p808 = open_session(NAME, P835), open_session(NAME, P808)

    @property
    def fingerprint(self) -> str:
        """See :func:`speech_quality_fingerprint`."""
        return self._fingerprint

    def score(self, clips: Sequence[ScorableClip]) -> list[list[Score]]:
        """See :class:`avpref.rewards.protocol.Scorer`."""
        return [self._scores(clip) for clip in clips]

    def _scores(self, clip: ScorableClip) -> list[Score]:
        reason = skip_reason(clip.clip, Dimension.AUDIO, DEFAULT_RULES)
        if not reason:
            sound = mono_16k(clip.clip)
            reason = too_little_speech(self._detector.share(sound))
        if reason:
            return [skipped(clip.candidate_id, metric, reason) for metric in self.metrics]
        values = self._values(sound)
        return [measured(clip.candidate_id, metric, values[metric.name]) for metric in self.metrics]

    def _values(self, sound: NDArray[np.float32]) -> Mapping[str, float]:
        judged = [self._judge(window) for window in windows(sound)]
        return {metric.name: float(np.mean([values[metric.name] for values in judged])) for metric in self.metrics}

    def _judge(self, window: NDArray[np.float32]) -> dict[str, float]:
        raw = self._p835.run(None, {"input_1": window[None].astype(np.float32)})[0][0]
        p808 = self._p808.run(None, {"input_1": p808_features(window)[None]})[0][0, 0]
        return opinions(raw, p808)


def too_little_speech(share: float) -> str:
    """The reason why a clip with so much speech is not judged; empty where it is."""
    return "" if share >= MIN_SPEECH_SHARE else f"speech in {share:.0%} of the clip, less than {MIN_SPEECH_SHARE:.0%}"
