"""What corruptions work on: a window of a recording, the sound around it, and another clip to borrow from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from avpref.media.reading import DecodedClip

Sound = NDArray[np.float32]
"""[C, S], full scale 1."""


@dataclass(frozen=True, eq=False)
class Donor:
    """Another recording's clip, read at the shape of the clip that borrows from it: frames [T, H, W, 3] and the same sample rate.

    Its sound may be half a frame longer or shorter.
    """

    name: str
    clip: DecodedClip


@dataclass(frozen=True, eq=False)
class Cut:
    """A window of a recording with both tracks. ``sound`` [C, S_around] is the recording's sound before, in and after the window, of
    which sample ``first`` is the window's first.

    ``name`` is what randomness is derived from: it must not depend on where the files lie.
    """

    name: str
    clip: DecodedClip
    sound: Sound
    first: int

    @property
    def frames(self) -> NDArray[np.uint8]:
        """The picture [T, H, W, 3]."""
        assert self.clip.frames is not None
        return self.clip.frames

    @property
    def channels(self) -> Sound:
        """The window's own sound [C, S]."""
        return channels_of(self.clip)

    @property
    def rate_hz(self) -> int:
        """Samples per second."""
        return self.clip.sample_rate_hz

    @property
    def samples_after(self) -> int:
        """How much of the recording's sound is known after the window."""
        return self.sound.shape[1] - self.first - self.channels.shape[1]

    def sound_from(self, start: int, num: int) -> Sound:
        """``num`` samples from ``start``, counted from the window's first; silence where the recording's sound is not known."""
        heard = np.zeros((len(self.sound), num), np.float32)
        low = max(start + self.first, 0)
        high = min(start + self.first + num, self.sound.shape[1])
        if low < high:
            at = low - self.first - start
            heard[:, at : at + high - low] = self.sound[:, low:high]
        return heard

    def with_frames(self, frames: NDArray[np.uint8]) -> DecodedClip:
        """The clip with another picture."""
        return replace(self.clip, frames=frames)

    def with_channels(self, channels: Sound) -> DecodedClip:
        """The clip with another sound [C, S]."""
        kept = None if self.clip.channels is None else channels
        return replace(self.clip, audio=channels.mean(axis=0), channels=kept)


@dataclass(frozen=True)
class NotApplicable:
    """Why a corruption cannot be made of a clip."""

    reason: str


class Corruption(Protocol):
    """One corruption with all its parameters: a frozen dataclass, so that equal ones do the same to the same clip."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __call__(self, cut: Cut, donor: Donor | None) -> DecodedClip:
        """The corrupted clip; the cut is left as it is."""
        ...


Parameters = Mapping[str, float | str | tuple[int, ...]]
NO_DONOR = NotApplicable("needs another recording")


def channels_of(clip: DecodedClip) -> Sound:
    """The sound [C, S] of a clip; clips that were not read from a file have one channel."""
    assert clip.audio is not None
    return clip.audio[None] if clip.channels is None else clip.channels


def spread_to_channels(channels: Sound, like: Sound) -> Sound:
    """``channels`` [C', S'] averaged, given to every channel of ``like`` [C, S], and cut or followed by silence to its length."""
    mono = channels.mean(axis=0)[: like.shape[1]]
    return np.repeat(np.pad(mono, (0, like.shape[1] - len(mono)))[None], len(like), axis=0)
