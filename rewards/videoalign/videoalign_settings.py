"""The settings in VideoAlign's ``model_config.json``: frame sampling, normalisation of the scores, and the adapter."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from avpref.errors import InputError
from avpref.rewards.videoalign.videoalign_frames import FrameRules
from avpref.rewards.videoalign.videoalign_network import Adapter
from avpref.rewards.videoalign.videoalign_text import FETCH

JsonSection = Mapping[str, object]
ThreeNumbers = tuple[float, float, float]

PUBLISHED_FRAMES = FrameRules()
PUBLISHED_ADAPTER = Adapter()


@dataclass(frozen=True)
class PublishedSettings:
    """Frame rules; means and standard deviations of visual quality, motion quality and text alignment; adapter.

    The defaults are the published values.
    """

    frames: FrameRules = PUBLISHED_FRAMES
    means: ThreeNumbers = (3.6757, 1.1646, 2.8105)
    deviations: ThreeNumbers = (2.2476, 1.3811, 2.5121)
    adapter: Adapter = PUBLISHED_ADAPTER


PUBLISHED = PublishedSettings()

SUPPORTED: Mapping[str, JsonSection] = {
    "data_config": {"num_frames": None, "sample_type": "uniform", "prompt_template_type": "detailed_special"},
    "model_config": {"use_special_tokens": True, "reward_token": "special"},
    "peft_lora_config": {"use_rslora": False},
}
"""The values that this implementation supports, by section and key of the file."""


def read_settings(path: Path) -> PublishedSettings:
    """The settings in the file at ``path``; a missing key has its published value.

    Raises InputError if the file is unreadable, has a value of the wrong type, or has a value that is not in :data:`SUPPORTED`.
    """
    sections = _sections(path)
    for name, supported in SUPPORTED.items():
        for key, expected in supported.items():
            if sections[name].get(key, expected) != expected:
                raise _unsupported(path, f"{name}.{key}", sections[name][key], json.dumps(expected))
    data, adapter, scale = (sections[name] for name in ("data_config", "peft_lora_config", "inference_config"))
    means, deviations = PUBLISHED.means, PUBLISHED.deviations
    return PublishedSettings(
        FrameRules(
            target_fps=_positive(path, data, "fps", PUBLISHED_FRAMES.target_fps),
            max_pixels=_whole(path, data, "max_frame_pixels", PUBLISHED_FRAMES.max_pixels),
        ),
        (
            _number(path, scale, "VQ_mean", means[0]),
            _number(path, scale, "MQ_mean", means[1]),
            _number(path, scale, "TA_mean", means[2]),
        ),
        (
            _positive(path, scale, "VQ_std", deviations[0]),
            _positive(path, scale, "MQ_std", deviations[1]),
            _positive(path, scale, "TA_std", deviations[2]),
        ),
        Adapter(
            _whole(path, adapter, "lora_r", PUBLISHED_ADAPTER.rank),
            _positive(path, adapter, "lora_alpha", PUBLISHED_ADAPTER.alpha),
        ),
    )


def _sections(path: Path) -> dict[str, JsonSection]:
    """The sections of the file by name; one that is absent or null is empty."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {name: dict(config.get(name) or {}) for name in (*SUPPORTED, "inference_config")}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read: {error}", "VideoAlign's model_config.json", FETCH) from error


def _number(path: Path, section: JsonSection, key: str, published: float) -> float:
    value = section.get(key, published)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _unsupported(path, key, value, f"a number such as {published:g}")
    return float(value)


def _positive(path: Path, section: JsonSection, key: str, published: float) -> float:
    value = _number(path, section, key, published)
    if value <= 0:
        raise _unsupported(path, key, value, f"a number above 0 such as {published:g}")
    return value


def _whole(path: Path, section: JsonSection, key: str, published: int) -> int:
    value = _positive(path, section, key, published)
    if value != int(value):
        raise _unsupported(path, key, value, f"a whole number such as {published}")
    return int(value)


def _unsupported(path: Path, key: str, value: object, expected: str) -> InputError:
    return InputError(f"{path}: {key} is {json.dumps(value)}", expected, FETCH)
