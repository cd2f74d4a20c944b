"""Vocabulary and geometry of the toy world, shared by the simulator and the toy scorer.

Lengths are in picture heights (horizontal positions in picture widths); y grows downwards from the top edge.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import StrEnum


class Colour(StrEnum):
    """Colour of the ball."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class StartSide(StrEnum):
    """Start side of the ball."""

    LEFT = "left"
    RIGHT = "right"


class Gravity(StrEnum):
    """Strength of gravity."""

    SLOW = "slow"
    FAST = "fast"


class Material(StrEnum):
    """Material that determines the sound of an impact; the values are words of the prompt."""

    WOOD = "wooden"
    GLASS = "glassy"
    METAL = "metallic"


@dataclass(frozen=True)
class Attributes:
    """The four attributes that a prompt specifies."""

    colour: Colour
    side: StartSide
    gravity: Gravity
    material: Material


@dataclass(frozen=True)
class Ring:
    """Sound of a material: centre of its band in Hz, and the time in seconds in which the amplitude falls to 1/e."""

    centre_hz: float
    decay_s: float


GROUND = 0.9
"""Vertical position of the ground."""
RADIUS = 0.13
"""Radius of the ball."""
FLOOR_LEVEL = GROUND - RADIUS
"""Vertical position of the ball's centre while it touches the ground."""

BACKGROUND_RGB = (40, 42, 48)
GROUND_RGB = (92, 90, 86)
BALL_RGB = {Colour.RED: (226, 52, 44), Colour.GREEN: (52, 204, 70), Colour.BLUE: (62, 96, 238)}

ACCELERATION = {Gravity.SLOW: 1.5, Gravity.FAST: 3.5}
"""Picture heights per second squared."""

RINGS = {Material.WOOD: Ring(640.0, 0.05), Material.GLASS: Ring(4000.0, 0.10), Material.METAL: Ring(1600.0, 0.20)}


def all_attributes() -> list[Attributes]:
    """All 36 combinations, in a fixed order."""
    return [Attributes(*values) for values in itertools.product(Colour, StartSide, Gravity, Material)]


def describe(attributes: Attributes) -> str:
    """The prompt of a scene; :func:`understand` parses it."""
    return (
        f"a {attributes.colour} ball dropped from the {attributes.side} under {attributes.gravity} gravity "
        f"bounces with a {attributes.material} sound"
    )


def understand(text: str) -> Attributes:
    """Attributes of the scene that a prompt describes; the order of its words does not matter.

    Raises ValueError unless there is exactly one word for each of colour, side, gravity and material.
    """
    words = text.lower().replace(",", " ").replace(".", " ").split()
    return Attributes(
        Colour(_only(words, list(Colour))),
        StartSide(_only(words, list(StartSide))),
        Gravity(_only(words, list(Gravity))),
        Material(_only(words, list(Material))),
    )


def _only(words: list[str], known: list[str]) -> str:
    matches = sorted({word for word in words if word in known})
    if len(matches) != 1:
        raise ValueError(f"a toy-world prompt has one of {', '.join(known)}; found {', '.join(matches) or 'none'}")
    return matches[0]
