"""The description of a scorer before it is loaded. Actors with an environment of their own import this module."""

from __future__ import annotations

from typing import Protocol

from avpref.domain import Metric, Terms
from avpref.rewards.protocol import Scorer


class ScorerSource(Protocol):
    """Describes a scorer and loads it. Picklable: actors receive it and load the scorer."""

    @property
    def name(self) -> str:
        """The scorer's name in the score table."""
        ...

    @property
    def slug(self) -> str:
        """The scorer's name in settings, stage names and folders."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics that the scorer computes."""
        ...

    @property
    def terms(self) -> Terms:
        """The licence of the scores, whether commercial use is allowed, and whether the scores are meaningful."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of everything that the scores depend on, except the clip. Raises InputError where weights are absent."""
        ...

    @property
    def is_network(self) -> bool:
        """Whether the scorer is a reward model, which sees the clip at its own size and rates and is checked with a canary."""
        ...

    @property
    def keeps_embeddings(self) -> bool:
        """Whether the scorer gives embeddings, which are stored with the scores."""
        ...

    @property
    def uses_device(self) -> bool:
        """Whether the scorer computes on the executor's device; others compute on the CPU."""
        ...

    @property
    def is_isolated(self) -> bool:
        """Whether the scorer comes from outside the product and therefore always has actors of its own."""
        ...

    @property
    def has_canary(self) -> bool:
        """Whether the numbers for a fixed clip are compared between actors."""
        ...

    def open(self, device: str) -> Scorer:
        """Load the scorer on ``device``. Raises InputError where weights are absent or do not match their hashes."""
        ...
