"""Changes of a clip's sound that desynchronise it other than by a delay, for rule-made rejected clips. numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from avpref.config.training_settings import DesyncKind
from avpref.rewards.negatives.stretching import change_speed

ChangeKind = Literal["stretch", "repeat", "swap"]
AMOUNTS: dict[ChangeKind, tuple[float, ...]] = {"stretch": (0.75, 1.3), "repeat": (0.5, 0.25), "swap": (0.5, 0.3)}
"""Amounts of the versions of each kind, the larger change first."""


@dataclass(frozen=True)
class SoundChange:
    """A change of the sound that keeps its length.

    ``stretch``: played ``amount`` times as fast at equal pitch. ``repeat``: the first ``amount`` of it is played twice, the end is
    dropped. ``swap``: its first ``amount`` comes last.
    """

    kind: ChangeKind
    amount: float

    def __call__(self, sound: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
        """The changed ``sound`` [S]."""
        at = round(self.amount * len(sound))
        match self.kind:
            case "stretch":
                played = change_speed(sound[None], self.amount, rate_hz)[0]
                return np.concatenate([played, sound[len(played) :]])[: len(sound)]
            case "repeat":
                return np.concatenate([sound[:at], sound])[: len(sound)]
            case "swap":
                return np.concatenate([sound[at:], sound[:at]])


def sound_changes(kinds: Sequence[DesyncKind]) -> tuple[SoundChange, ...]:
    """The versions of ``kinds`` besides delays, in the order of ``kinds``."""
    return tuple(SoundChange(kind, amount) for kind in kinds if kind != "delay" for amount in AMOUNTS[kind])
