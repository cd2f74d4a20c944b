"""The objective of the synchrony prior: the prior of a text is near its clip and far from the clip's negatives."""

from __future__ import annotations

import torch

from avpref.models.dual_stream.prior_losses import prior_loss_rows
from avpref.models.dual_stream.synchrony_prior import SynchronyPrior
from avpref.trainer.objectives import LossAndMetrics
from avpref.trainer.prior.prior_batches import PriorBatch


class PriorObjective:
    """The released losses (:mod:`avpref.models.dual_stream.prior_losses`), each row of which counts alike."""

    def __init__(self, network: SynchronyPrior) -> None:
        self.module = network

    def compute(self, batch: PriorBatch) -> LossAndMetrics:
        """Metrics: loss and its terms. There are no timesteps; all rows have t = 0."""
        rows = prior_loss_rows(self.module, self.module(batch.text, batch.noise), batch.clips)
        metrics = {"loss": rows.total.detach()} | {name: value.detach() for name, value in rows.terms.items()}
        return LossAndMetrics(rows.total.sum(), metrics, torch.zeros_like(rows.total))
