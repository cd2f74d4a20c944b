"""Presets of ``avpref bench``: one file per preset with its columns, networks, scorers and named settings.

A setting has the value that reproduces published numbers, usually a corrected alternative, and its meaning. A value in a network, a
scorer or a column that begins with ``=`` is the value of that setting.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict

from avpref.errors import ConfigError

FOLDER = Path(__file__).parent / "presets"
TAXONOMY = "taxonomy"
CORRECTED = "corrected"
Scalar = str | int | float | bool
ColumnKind = Literal["frechet", "kernel", "inception_mean", "inception_std", "divergence", "mean"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QuirkSetting(_Entry):
    """A named setting: published value, corrected value (none: there is no other), accepted values (empty: any), meaning."""

    published: Scalar
    corrected: Scalar | None = None
    choices: tuple[Scalar, ...] = ()
    meaning: str


class PresetScorer(_Entry):
    """A scorer: its built-in name (empty: that of the entry), its settings, the text and the part of the clip that it receives.

    ``text``: the prompt of the picture or of the sound. ``sees``: the whole clip, or its first ``cut_s`` seconds. ``resampler``:
    ``kaiser_best`` brings the sound to 48 kHz as librosa 0.9.2 does, before the scorer reads it; ``sinc`` leaves that to the scorer.
    """

    use: str = ""
    settings: dict[str, Scalar] = {}
    text: Literal["picture", "sound"] = "picture"
    sees: Literal["whole", "cut"] = "whole"
    resampler: str = "sinc"


class Column(_Entry):
    """A column of the table: how it is computed, and from which network's array or which scorer's metric."""

    name: str
    kind: ColumnKind
    network: str = ""
    array: str = ""
    scorer: str = ""
    metric: str = ""
    scale: float | str = 1.0
    centring: str = "uncentred"
    rule: str = "av_benchmark"
    activation: str = "softmax"

    @property
    def is_distance(self) -> bool:
        """Whether the column compares generated clips with reference clips."""
        return self.kind in ("frechet", "kernel", "divergence")


class Preset(_Entry):
    """A preset. ``expected_rows`` is the number of prompts of the published list, 0 where there is none."""

    name: str
    source: str
    expected_rows: int = 0
    settings: dict[str, QuirkSetting]
    networks: dict[str, dict[str, Scalar]]
    scorers: dict[str, PresetScorer]
    columns: tuple[Column, ...]


class ChosenPreset(_Entry):
    """A preset with a value for every setting, and everything that refers to settings filled in."""

    preset: Preset
    values: dict[str, Scalar]
    networks: dict[str, dict[str, Scalar]]
    scorers: dict[str, PresetScorer]
    columns: tuple[Column, ...]

    @property
    def cut_s(self) -> float:
        """Seconds of a clip that scorers with ``sees: cut`` receive; none of the others is cut. 0: whole clips."""
        return float(self.values.get("cut_s", 0.0))

    def documented(self) -> list[dict[str, Any]]:
        """A row per setting: name, value in use, published and corrected value, meaning."""
        return [
            {
                "setting": name,
                "value": self.values[name],
                "published": setting.published,
                "corrected": setting.corrected,
                "is_published": self.values[name] == setting.published,
                "meaning": setting.meaning,
            }
            for name, setting in self.preset.settings.items()
        ]


class AspectCategories(_Entry):
    """An aspect of the taxonomy: its column in the CSV, and its categories in the order of their indices."""

    column: str
    aspect: str
    categories: tuple[str, ...]


def preset_names() -> list[str]:
    """The presets, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem != TAXONOMY)


@cache
def taxonomy() -> tuple[AspectCategories, ...]:
    """JavisBench's five aspects."""
    rows = yaml.safe_load((FOLDER / f"{TAXONOMY}.yaml").read_text(encoding="utf-8"))
    return tuple(AspectCategories.model_validate(row) for row in rows)


def load_preset(name: str) -> Preset:
    """The preset of that name. Raises ConfigError."""
    if name not in preset_names():
        raise ConfigError(f"no preset {name!r}", ", ".join(preset_names()), "--preset javisbench")
    tree = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return Preset.model_validate({"name": name, **tree})


def choose(preset: Preset, overrides: Sequence[str] = ()) -> ChosenPreset:
    """The preset with ``overrides``: each ``SETTING=VALUE``, or ``corrected`` for the corrected value of every setting.

    Raises ConfigError for an unknown setting, and for a value that it does not accept.
    """
    values: dict[str, Scalar] = {name: setting.published for name, setting in preset.settings.items()}
    for override in overrides:
        values |= _corrected(preset) if override == CORRECTED else _overridden(preset, override)
    return ChosenPreset(
        preset=preset,
        values=values,
        networks={name: _filled(settings, values) for name, settings in preset.networks.items()},
        scorers={
            name: PresetScorer.model_validate(
                {
                    **_filled(scorer.model_dump(), values),
                    "use": scorer.use or name,
                    "settings": _filled(scorer.settings, values),
                }
            )
            for name, scorer in preset.scorers.items()
        },
        columns=tuple(Column.model_validate(_filled(column.model_dump(), values)) for column in preset.columns),
    )


def _corrected(preset: Preset) -> dict[str, Scalar]:
    return {name: entry.corrected for name, entry in preset.settings.items() if entry.corrected is not None}


def _overridden(preset: Preset, override: str) -> dict[str, Scalar]:
    name, separator, text = override.partition("=")
    names = ", ".join(preset.settings) or "none: this preset has no settings"
    if not separator or name not in preset.settings:
        near = difflib.get_close_matches(name, list(preset.settings), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        found = f"--with {override}: no setting {name!r} of preset {preset.name}{hint}"
        raise ConfigError(
            found, f"SETTING=VALUE with one of {names}, or corrected", f"--with {near[0] if near else CORRECTED}"
        )
    setting = preset.settings[name]
    value = yaml.safe_load(text)
    if isinstance(setting.published, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if setting.choices and value not in setting.choices:
        choices = ", ".join(map(str, setting.choices))
        raise ConfigError(f"--with {override}", f"{name} is one of {choices}", f"--with {name}={setting.published}")
    is_number = isinstance(setting.published, float)
    if type(value) is not type(setting.published) or (isinstance(value, float) and not 0 < value < float("inf")):
        expected = f"{name} is a {'positive number' if is_number else type(setting.published).__name__}"
        raise ConfigError(f"--with {override}", expected, f"--with {name}={setting.published}")
    return {name: value}


def _filled(entries: Mapping[str, Any], values: Mapping[str, Scalar]) -> dict[str, Any]:
    """``entries`` with the values of the settings that they name."""
    return {key: values[entry[1:]] if _is_reference(entry) else entry for key, entry in entries.items()}


def _is_reference(entry: object) -> bool:
    return isinstance(entry, str) and entry.startswith("=")
