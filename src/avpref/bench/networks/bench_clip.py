"""A clip as the networks of a benchmark receive it: decoded once, with the readings of its sound that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from avpref.media.reading import DecodedClip
from avpref.media.sound.kaiser_resampling import kaiser_best
from avpref.media.spectra import resample
from avpref.rewards.validity import Flag, ValidityRules, picture_flags, sound_flags

Sound = NDArray[np.float32]
RULES = ValidityRules(min_duration_s=0.1)
"""A clip without a picture, without sound, with a picture of one colour or with silence has no features of that track."""
_SOUND_FLAGS = (Flag.NO_AUDIO, Flag.NO_SOUND, Flag.SILENT)
_PICTURE_FLAGS = (Flag.NO_VIDEO, Flag.BLANK)


class NoFeatures(Exception):
    """Raised where a network has no features of a clip; the message is the reason in the clip's row."""


@dataclass(frozen=True, eq=False)
class BenchClip:
    """``decoded`` is the whole clip; ``text`` and ``sound_text`` are the prompts of the picture and of the sound."""

    decoded: DecodedClip
    text: str = ""
    sound_text: str = ""
    _readings: dict[tuple[str, int], Sound] = field(default_factory=dict, repr=False)

    def frames(self) -> NDArray[np.uint8]:
        """RGB frames uint8 [T, H, W, 3]. Raises NoFeatures for a clip without a picture, or with one of a single colour."""
        flags = picture_flags(self.decoded, RULES)
        self._refuse([flag for flag in _PICTURE_FLAGS if flag in flags])
        assert self.decoded.frames is not None
        return self.decoded.frames

    def librosa_sound(self, rate_hz: int) -> Sound:
        """Mean of the channels [S] at ``rate_hz`` through librosa 0.9.2's resampler, as JavisBench reads sound.

        Raises NoFeatures for a clip without sound, or silent.
        """
        return self._reading("librosa", rate_hz, self._kaiser)

    def centred_sound(self, rate_hz: int) -> Sound:
        """Mean of the channels [S] without its own mean, then resampled as torchaudio does: how av-benchmark reads sound.

        Raises as :meth:`librosa_sound`.
        """
        return self._reading("centred", rate_hz, self._centred)

    def _reading(self, name: str, rate_hz: int, read: Callable[[Sound, int], Sound]) -> Sound:
        if (name, rate_hz) not in self._readings:
            flags = sound_flags(self.decoded, RULES)
            self._refuse([flag for flag in _SOUND_FLAGS if flag in flags])
            mean = self.decoded.channel_mean
            assert mean is not None
            self._readings[name, rate_hz] = read(mean.astype(np.float32), rate_hz)
        return self._readings[name, rate_hz]

    def _kaiser(self, sound: Sound, rate_hz: int) -> Sound:
        return kaiser_best(sound, self.decoded.sample_rate_hz, rate_hz)

    def _centred(self, sound: Sound, rate_hz: int) -> Sound:
        samples = torch.from_numpy(sound - sound.mean())
        return resample(samples, self.decoded.sample_rate_hz, rate_hz).numpy()

    def _refuse(self, flags: list[Flag]) -> None:
        if flags:
            raise NoFeatures(", ".join(flag.value for flag in flags))


def cut_or_padded(sound: Sound, num_samples: int) -> Sound:
    """Exactly ``num_samples`` samples: the beginning, or the sound followed by zeros."""
    return np.pad(sound[:num_samples], (0, max(0, num_samples - len(sound))))
