"""Section ``executor``: where units run, on which device, and how scorers share actors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from avpref.config.section import Section

DEVICE = r"^(auto|cpu|cuda(:\d+)?)$"


class InProcessExecutor(Section):
    """Run everything in the calling process; for tests and debugging."""

    kind: Literal["in_process"] = "in_process"
    device: str = Field(
        default="auto",
        pattern=DEVICE,
        description="of generator, codec, text encoder, reward models and training: cpu, cuda, cuda:1; auto: CUDA where available",
    )
    scoring: Literal["together", "waves"] = Field(
        default="together",
        description="together: each clip is read once for all scorers; waves: one scorer after the other",
    )


class PoolSettings(Section):
    """Actors of one scorer, when each scorer has its own pool."""

    num_actors: int = Field(default=1, gt=0)
    num_gpus_per_actor: float = Field(default=0.0, ge=0)


REWARD_MODELS = ("audiobox", "imagebind", "synchformer", "videoalign", "javis_score")
"""Scorers that have a pool of one actor unless the configuration says otherwise."""


def _with_defaults(pools: object) -> object:
    """Add the pools of the reward models that ``pools`` does not name."""
    return {**{name: {} for name in REWARD_MODELS}, **pools} if isinstance(pools, Mapping) else pools


ScorerPools = Annotated[dict[str, PoolSettings], BeforeValidator(_with_defaults)]
"""Pools of actors by the name of the scorer."""


class RayExecutor(Section):
    """A pool of Ray core actors. ``address`` joins a cluster; when empty, Ray starts on this machine."""

    kind: Literal["ray"] = "ray"
    num_actors: int = Field(default=2, gt=0)
    num_gpus_per_actor: float = Field(default=0.0, ge=0)
    address: str = ""
    unit_timeout_s: float = Field(
        default=0.0,
        ge=0,
        description="a unit that runs longer fails with TimedOut and its actor is killed; 0: no limit",
    )
    start_patience_s: float = Field(
        default=300.0, gt=0, description="how long a cluster may take to start the first actor"
    )
    device: str = Field(
        default="auto", pattern=DEVICE, description="as for in_process; auto: CUDA for actors that hold GPUs"
    )
    scoring: Literal["together", "waves", "pools"] = Field(
        default="together",
        description="together: actors hold all scorers; waves: a pool per scorer, one after the other; pools: at the same time",
    )
    pools: ScorerPools = Field(default={name: PoolSettings() for name in REWARD_MODELS})

    def has_own_pool(self, scorer: str) -> bool:
        """Whether the scorer of that name has the actors of ``pools``.

        With ``scoring: together``, reward models share actors, and only pools that the configuration adds are in use.
        """
        return scorer in self.pools and (self.scoring != "together" or scorer not in REWARD_MODELS)


Executor = Annotated[InProcessExecutor | RayExecutor, Field(discriminator="kind")]
