"""The inputs of corruptions: a window of a recording with the sound around it, and a clip of another recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from avpref.media.reading import DecodedClip
from avpref.media.sound.downmix import mix

Sound = NDArray[np.float32]
"""Samples [C, S], full scale 1."""


@dataclass(frozen=True, eq=False)
class Donor:
    """A clip of another recording, from which corruptions take picture or sound.

    It is read at the frame shape [T, H, W, 3] and the sample rate of the clip to be corrupted; its sound may be half a frame
    longer or shorter.
    """

    name: str
    clip: DecodedClip


@dataclass(frozen=True, eq=False)
class Cut:
    """A window of a recording, with both tracks.

    ``sound`` [C, S'] is the recording's sound before, in and after the window; its sample ``first`` is the first of the window.
    Random draws are derived from ``name``, so it must not depend on where the files are stored.
    """

    name: str
    clip: DecodedClip
    sound: Sound
    first: int

    @property
    def frames(self) -> NDArray[np.uint8]:
        """The frames of the window, uint8 [T, H, W, 3]."""
        assert self.clip.frames is not None
        return self.clip.frames

    @property
    def channels(self) -> Sound:
        """The sound of the window [C, S]."""
        return channels_of(self.clip)

    @property
    def rate_hz(self) -> int:
        """Samples per second."""
        return self.clip.sample_rate_hz

    @property
    def samples_after(self) -> int:
        """Number of samples in ``sound`` after the window."""
        return self.sound.shape[1] - self.first - self.channels.shape[1]

    def sound_from(self, start: int, num: int) -> Sound:
        """Samples ``start`` to ``start + num`` [C, num], counted from the window's first; silence outside ``sound``."""
        samples = np.zeros((len(self.sound), num), np.float32)
        low = max(start + self.first, 0)
        high = min(start + self.first + num, self.sound.shape[1])
        if low < high:
            at = low - self.first - start
            samples[:, at : at + high - low] = self.sound[:, low:high]
        return samples

    def with_frames(self, frames: NDArray[np.uint8]) -> DecodedClip:
        """The clip with other frames [T, H, W, 3]."""
        return replace(self.clip, frames=frames)

    def with_channels(self, channels: Sound) -> DecodedClip:
        """The clip with another sound [C, S]."""
        clip_channels = None if self.clip.channels is None else channels
        return replace(self.clip, audio=mix(channels, self.clip.weights), channels=clip_channels)


@dataclass(frozen=True)
class NotApplicable:
    """The reason why a corruption does not apply to a clip."""

    reason: str


class Corruption(Protocol):
    """A corruption with all its parameters, a frozen dataclass: equal corruptions change a clip in the same way."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """The corrupted clip; ``cut`` is not changed."""
        ...


Parameters = Mapping[str, float | str | tuple[int, ...]]
NO_DONOR = NotApplicable("needs another recording")


def channels_of(clip: DecodedClip) -> Sound:
    """The sound [C, S] of a clip; C = 1 for clips that were not read from a file."""
    assert clip.audio is not None
    return clip.audio[None] if clip.channels is None else clip.channels


def spread_to_channels(mono: NDArray[np.float32], like: Sound) -> Sound:
    """The sound ``mono`` [S'] in every channel of an array of the shape of ``like`` [C, S].

    The sound is truncated, or padded with silence, to S samples.
    """
    samples = mono[: like.shape[1]]
    return np.repeat(np.pad(samples, (0, like.shape[1] - len(samples)))[None], len(like), axis=0)
