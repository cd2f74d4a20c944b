"""Sections ``alarms`` and ``previews`` of a training loop, and the names of its trackers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from avpref.config.section import Section

TrackerName = Literal["mlflow", "wandb"]


class AlarmSettings(Section):
    """Bounds that a training should not cross, and whether it stops where it does; see :mod:`avpref.trainer.monitoring.alarms`."""

    action: Literal["mark", "stop"] = "mark"
    loss_spike: float = Field(default=0.0, ge=0)
    audio_collapse: float = Field(default=0.0, ge=0)
    idle_adapter_steps: int = Field(default=50, ge=0)


class PreviewSettings(Section):
    """Clips that are sampled during a training, always from the same texts and seeds."""

    every: int = Field(default=0, ge=0)
    count: int = Field(default=4, gt=0)
