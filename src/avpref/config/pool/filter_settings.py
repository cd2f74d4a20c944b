"""Section ``filter`` of a pool's configuration: thresholds, quotas and diversity, and the published presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from avpref.config.section import Section

NAME = r"^[a-z][a-z0-9_]*$"
Share = Field(default=None, ge=0, le=1)


class FilterSettings(Section):
    """One filter: a measure and the values that pass. A quantile is taken over the valid values of all clips of the pool."""

    name: str = Field(default="", pattern=rf"{NAME}|^$", description="empty: the name of the measure")
    measure: str = Field(pattern=NAME)
    min: float | None = None
    max: float | None = None
    min_quantile: float | None = Field(default=None, ge=0, le=1, description="the least value is this quantile")
    max_quantile: float | None = Field(default=None, ge=0, le=1, description="the largest value is this quantile")
    without_value: Literal["remove", "keep"] = Field(
        default="remove", description="the treatment of clips for which the measure has no value"
    )

    @model_validator(mode="after")
    def _has_limits(self) -> FilterSettings:
        limits = (self.min, self.max, self.min_quantile, self.max_quantile)
        if all(limit is None for limit in limits):
            raise ValueError("a filter without a limit; set min, max, min_quantile or max_quantile")
        if self.min is not None and self.min_quantile is not None:
            raise ValueError("min and min_quantile: choose one of them")
        if self.max is not None and self.max_quantile is not None:
            raise ValueError("max and max_quantile: choose one of them")
        return self

    @property
    def label(self) -> str:
        """The name under which reasons and the funnel show the filter."""
        return self.name or self.measure


class QuotaSettings(Section):
    """Largest number of clips of each category."""

    by: Literal["none", "taxonomy", "clusters"] = Field(
        default="none", description="none: no quota; clusters: groups of similar descriptors"
    )
    max_clips: int = Field(default=0, ge=0, description="clips kept of a category; 0: as many as the smallest one has")
    num_clusters: int = Field(default=8, gt=1, description="number of clusters")


class DiversitySettings(Section):
    """Smallest distance between the descriptors of two clips that are kept."""

    min_distance: float = Field(default=0.0, ge=0, le=2, description="cosine distance; 0: no limit")


Preset = Literal["none", "javisbench", "javisdit++"]


class FilteringSettings(Section):
    """All filters, in the order in which they are counted. Filters of the preset come first."""

    preset: Preset = "none"
    filters: tuple[FilterSettings, ...] = ()
    prefer: str = Field(
        default="",
        pattern=rf"{NAME}|^$",
        description="measure whose larger values quotas and diversity keep; empty: none",
    )
    quota: QuotaSettings = QuotaSettings()
    diversity: DiversitySettings = DiversitySettings()

    @model_validator(mode="after")
    def _distinct(self) -> FilteringSettings:
        labels = [entry.label for entry in self.all_filters]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"two filters are called {label}; give one of them a name")
        return self

    @property
    def all_filters(self) -> tuple[FilterSettings, ...]:
        """The filters of the preset that no filter of the same name replaces, then the configured ones."""
        own = {entry.label for entry in self.filters}
        return (*(entry for entry in PRESETS[self.preset] if entry.label not in own), *self.filters)


_LENGTH = FilterSettings(name="length", measure="duration_s", min=2.0, max=60.0)
_NO_SPEECH = FilterSettings(name="no_speech", measure="speech_share", max=0.0)
PRESETS: Mapping[str, tuple[FilterSettings, ...]] = {
    "none": (),
    "javisbench": (
        _LENGTH,
        FilterSettings(name="aesthetics", measure="aesthetic_score", min=4.5),
        FilterSettings(name="motion", measure="flow_px", min=0.1),
        FilterSettings(name="text", measure="text_regions", max=5.0),
        _NO_SPEECH,
    ),
    "javisdit++": (
        _NO_SPEECH,
        _LENGTH,
        FilterSettings(name="aesthetics", measure="aesthetic_score", min=4.5),
        FilterSettings(name="motion", measure="flow_px", min=0.1),
        FilterSettings(name="text", measure="text_regions", max=5.0),
    ),
}
"""``javisbench``: the thresholds of JavisDiT's appendix D.3. ``javisdit++``: its order of steps, speech first (appendix B.2), whose
thresholds are not published, with the thresholds of ``javisbench``."""
