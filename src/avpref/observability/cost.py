"""The cost of a run: seconds of workers and GPUs per stage over all executions, and the price of a kept pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avpref.config.observe_settings import ObserveSettings
from avpref.observability.meters import S_PER_H
from avpref.observability.status_documents import Spent, read_passes

BEFORE_PAIRS = ("generate", "score")
"""The stages whose work becomes pairs; networks are trained and evaluated with them, or serve many runs."""


@dataclass(frozen=True)
class StageSpending:
    """One pass over units: its name, the stage that it belongs to, and its cost."""

    name: str
    stage: str
    spent: Spent


@dataclass(frozen=True)
class Spending:
    """The cost of all passes of a run, and the number of pairs that it kept."""

    stages: Sequence[StageSpending]
    kept_pairs: int
    settings: ObserveSettings

    @property
    def gpu_s(self) -> float:
        """GPU-seconds of all stages."""
        return sum(stage.spent.gpu_s for stage in self.stages)

    @property
    def cost(self) -> float | None:
        """The price of the GPU-seconds in the configured currency; None without a price per GPU-hour."""
        return self._price(self.gpu_s)

    @property
    def cost_per_kept_pair(self) -> float | None:
        """The price of a pair: of its candidates and scores. None without a price, without pairs, or where no GPU was held."""
        gpu_s = self._per_pair(sum(stage.spent.gpu_s for stage in self._before_pairs))
        return self._price(gpu_s) if gpu_s else None

    def document(self) -> dict[str, Any]:
        """The entry ``spent`` of the result document."""
        before = self._before_pairs
        return {
            "stages": [{"name": stage.name, "stage": stage.stage, **asdict(stage.spent)} for stage in self.stages],
            "gpu_s": round(self.gpu_s, 3),
            "busy_actor_s": round(sum(stage.spent.busy_s for stage in self.stages), 3),
            "stages_before_pairs": sorted({stage.stage for stage in before}),
            "gpu_s_before_pairs": round(sum(stage.spent.gpu_s for stage in before), 3),
            "busy_actor_s_before_pairs": round(sum(stage.spent.busy_s for stage in before), 3),
            "kept_pairs": self.kept_pairs,
            "gpu_s_per_kept_pair": self._per_pair(sum(stage.spent.gpu_s for stage in before)),
            "busy_actor_s_per_kept_pair": self._per_pair(sum(stage.spent.busy_s for stage in before)),
            "price_per_gpu_hour": self.settings.price_per_gpu_hour,
            "currency": self.settings.currency,
            "cost": self.cost,
            "cost_per_kept_pair": self.cost_per_kept_pair,
        }

    @property
    def _before_pairs(self) -> list[StageSpending]:
        return [stage for stage in self.stages if stage.stage in BEFORE_PAIRS]

    def _per_pair(self, seconds: float) -> float | None:
        return seconds / self.kept_pairs if self.kept_pairs else None

    def _price(self, gpu_s: float | None) -> float | None:
        price = self.settings.price_per_gpu_hour
        return gpu_s / S_PER_H * price if price and gpu_s is not None else None


def spending(root: Path, kept_pairs: int, settings: ObserveSettings) -> Spending:
    """The cost so far of the run in ``root``, from the status documents of its passes. Raises InputError for a broken one."""
    stages = [StageSpending(status.name, status.stage, status.spent) for status in read_passes(root)]
    return Spending(sorted(stages, key=lambda stage: stage.name), kept_pairs, settings)
