"""What a run has spent: seconds of workers and GPUs per stage, all executions together, and the cost of a kept pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avpref.config.observe_settings import ObserveSettings
from avpref.observability.meters import S_PER_H
from avpref.observability.run_status import UNITS_SUFFIX, Spent, documents

BEFORE_PAIRS = ("generate", "score")
"""The stages whose work becomes pairs; networks are trained and evaluated with them, or serve many runs."""


@dataclass(frozen=True)
class StageSpending:
    """One pass over units: its name, the stage that it belongs to, and what it took."""

    name: str
    stage: str
    spent: Spent


@dataclass(frozen=True)
class Spending:
    """What the passes of a run took, and how many pairs came out."""

    stages: Sequence[StageSpending]
    kept_pairs: int
    settings: ObserveSettings

    @property
    def gpu_s(self) -> float:
        """GPU-seconds of all stages."""
        return sum(each.spent.gpu_s for each in self.stages)

    @property
    def cost(self) -> float | None:
        """What the GPU-seconds cost; None without a price."""
        return self._price(self.gpu_s)

    @property
    def cost_per_kept_pair(self) -> float | None:
        """What a pair cost: candidates and scores. None without a price, without pairs, or where no GPU was held."""
        each_s = self._per_pair(sum(each.spent.gpu_s for each in self._before_pairs))
        return self._price(each_s) if each_s else None

    def document(self) -> dict[str, Any]:
        """As the result document has it."""
        before = self._before_pairs
        return {
            "stages": [{"name": each.name, "stage": each.stage, **asdict(each.spent)} for each in self.stages],
            "gpu_s": round(self.gpu_s, 3),
            "busy_actor_s": round(sum(each.spent.busy_s for each in self.stages), 3),
            "kept_pairs": self.kept_pairs,
            "gpu_s_per_kept_pair": self._per_pair(sum(each.spent.gpu_s for each in before)),
            "busy_actor_s_per_kept_pair": self._per_pair(sum(each.spent.busy_s for each in before)),
            "price_per_gpu_hour": self.settings.price_per_gpu_hour,
            "currency": self.settings.currency,
            "cost": self.cost,
            "cost_per_kept_pair": self.cost_per_kept_pair,
        }

    @property
    def _before_pairs(self) -> list[StageSpending]:
        return [each for each in self.stages if each.stage in BEFORE_PAIRS]

    def _per_pair(self, seconds: float) -> float | None:
        return seconds / self.kept_pairs if self.kept_pairs else None

    def _price(self, gpu_s: float | None) -> float | None:
        price = self.settings.price_per_gpu_hour
        return gpu_s / S_PER_H * price if price and gpu_s is not None else None


def spending(root: Path, kept_pairs: int, settings: ObserveSettings) -> Spending:
    """What the run in ``root`` has spent so far, from the documents of its stages."""
    found = [
        StageSpending(each["name"], each["stage"], Spent(**each["spent"])) for each in documents(root, UNITS_SUFFIX)
    ]
    return Spending(sorted(found, key=lambda each: each.name), kept_pairs, settings)
