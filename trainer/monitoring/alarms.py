"""Alarms of a training: loss spikes, audio collapse, displaced chosen clips, and adapters that never got a gradient.

All ranks see the same rows and gradients, so all stop at the same step. Numbers that are not finite always stop a training.
"""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from avpref.config.training.monitoring_settings import AlarmSettings
from avpref.errors import AvprefError
from avpref.trainer.parallel import Context

LOG = logging.getLogger("avpref.trainer")
WINDOW = 50
"""Steps that running medians and means cover."""
FEWEST = 10
"""Steps before which there is no median to compare with."""

Row = Mapping[str, float]


def raised_alarms(row: Row, first: Sequence[Row], earlier: Sequence[Row], settings: AlarmSettings) -> dict[str, str]:
    """The alarms that ``row`` raises: what was measured, by the name of the alarm.

    ``first`` are the rows of the training's first steps, ``earlier`` those right before ``row``.

    loss_spike: the loss exceeds the bound times the median of the last 50 steps. audio_collapse: the mean audio error of the last
    50 steps exceeds the bound times that of the first 50. displacement: the row has the mark of
    :func:`avpref.trainer.metrics.add_displacement`.
    """
    alarms: dict[str, str] = {}
    recent = [past["loss"] for past in earlier[-WINDOW:]]
    if settings.loss_spike and len(recent) >= FEWEST:
        median = statistics.median(recent)
        if row["loss"] > settings.loss_spike * abs(median):
            alarms["loss_spike"] = f"loss {row['loss']:.4g}, the median of the last {len(recent)} steps is {median:.4g}"
    if settings.audio_collapse and len(earlier) >= WINDOW:
        before, now = _mean_audio(first[:WINDOW]), _mean_audio([*earlier[-(WINDOW - 1) :], row])
        if before is not None and now is not None and now > settings.audio_collapse * before:
            alarms["audio_collapse"] = f"mean audio error {now:.4g}, it was {before:.4g} in the first {WINDOW} steps"
    if row.get("displacement_alarm"):
        running = {
            key: f"{value:.4g}" for key, value in row.items() if key.startswith("displacement_") and value is not True
        }
        alarms["displacement"] = f"chosen clips became less likely, {running}"
    return alarms


def _mean_audio(rows: Sequence[Row]) -> float | None:
    values = [row["flow_audio"] for row in rows if "flow_audio" in row]
    return math.fsum(values) / len(values) if values else None


def mark(row: dict[str, float], alarms: Mapping[str, str], settings: AlarmSettings) -> dict[str, float]:
    """``row`` with a field per alarm that the settings ask for, 1.0 where it was raised."""
    asked = {"loss_spike": settings.loss_spike, "audio_collapse": settings.audio_collapse}
    return row | {f"{name}_alarm": float(name in alarms) for name, bound in asked.items() if bound}


def act(step: int, alarms: Mapping[str, str], settings: AlarmSettings) -> None:
    """Log ``alarms`` of ``step``. Raises AvprefError for them where the settings say ``stop``."""
    if not alarms:
        return
    if settings.action == "mark":
        for name, detail in alarms.items():
            if name != "displacement":  # the metrics log reports it
                LOG.warning("alarm at step %d: %s: %s", step, name, detail)
        return
    measured = "; ".join(f"{name}: {detail}" for name, detail in alarms.items())
    raise AvprefError(
        f"alarm at step {step}: {measured}; the last checkpoint is older than this step",
        "a training within the bounds of loop.alarms and dpo.displacement_alarm",
        "lower optimiser.lr or the betas and start again, or go on with --set dpo.loop.alarms.action=mark",
    )


class GradientWatch:
    """Finds trained parameters that got no gradient but zeros in the first steps of a process."""

    def __init__(self, names: Iterable[str], steps: int) -> None:
        self._names, self._left = tuple(names), steps
        self._has_gradient: Tensor | None = None

    def add(self, parameters: Sequence[nn.Parameter]) -> None:
        """Look at the gradients of one step, in the order of the names."""
        if self._left <= 0:
            return
        self._left -= 1
        largest = torch.stack([_largest(parameter.grad, parameter.device) for parameter in parameters])
        self._has_gradient = largest if self._has_gradient is None else torch.maximum(self._has_gradient, largest)

    def idle(self, context: Context) -> dict[str, str]:
        """The alarm for parameters without a gradient, once all steps were watched; empty before, and after it was asked once."""
        if self._left or self._has_gradient is None:
            return {}
        sums = context.all_reduce_sum(self._has_gradient)
        self._has_gradient = None
        idle = [name for name, value in zip(self._names, sums.tolist(), strict=True) if value == 0]
        if not idle:
            return {}
        return {"idle_adapter": f"{len(idle)} trained tensors never had a gradient, first {idle[0]}"}


def _largest(gradient: Tensor | None, device: torch.device) -> Tensor:
    if gradient is None:
        return torch.zeros((), device=device)
    local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
    return local.abs().amax().float() if local.numel() else torch.zeros((), device=device)
