"""The toy world's vocabulary and scenery, known to those who draw it and to those who judge it.

Lengths are in picture heights (horizontal positions in widths), y grows downwards from the top edge.
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
    """Where the ball starts."""

    LEFT = "left"
    RIGHT = "right"


class Gravity(StrEnum):
    """How fast things fall."""

    SLOW = "slow"
    FAST = "fast"


class Material(StrEnum):
    """What an impact sounds like; the values are the words of the prompt."""

    WOOD = "wooden"
    GLASS = "glassy"
    METAL = "metallic"


@dataclass(frozen=True)
class Attributes:
    """The four things that a prompt fixes."""

    colour: Colour
    side: StartSide
    gravity: Gravity
    material: Material


@dataclass(frozen=True)
class Ring:
    """How a material sounds: the middle of its band, and the time in which the amplitude falls to 1/e."""

    centre_hz: float
    decay_s: float


GROUND = 0.9
"""Height at which the ground begins."""
RADIUS = 0.13
"""Radius of the ball."""
FLOOR_LEVEL = GROUND - RADIUS
"""Height of the ball's centre while it touches the ground."""

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
    """The prompt of a scene; :func:`understand` reads it back."""
    return (
        f"a {attributes.colour} ball dropped from the {attributes.side} under {attributes.gravity} gravity "
        f"bounces with a {attributes.material} sound"
    )


def understand(text: str) -> Attributes:
    """The scene that a prompt describes, from its words in any order.

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
    found = sorted({word for word in words if word in known})
    if len(found) != 1:
        raise ValueError(f"a toy-world prompt has one of {', '.join(known)}; found {', '.join(found) or 'none'}")
    return found[0]
