"""Section ``executor``: where units run, on which device, and how scorers share actors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

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


class RuntimeEnvironment(Section):
    """The Python environment of actors; by default that of the command."""

    py_executable: str = Field(default="", description="Python of a virtual environment, on every machine")
    pip: tuple[str, ...] = Field(
        default=(), description="requirements that Ray installs into an environment of its own"
    )
    working_dir: str = Field(default="", description="folder in which the scorer's module is found, on every machine")
    env_vars: dict[str, str] = Field(default={}, description="environment variables; not for secrets")

    @model_validator(mode="after")
    def _one_python(self) -> RuntimeEnvironment:
        if self.py_executable and self.pip:
            raise ValueError("py_executable and pip: choose one of them")
        return self

    @property
    def is_empty(self) -> bool:
        """Whether actors run in the environment of the command."""
        return not (self.py_executable or self.pip or self.working_dir or self.env_vars)

    def for_ray(self, env_vars: Mapping[str, str]) -> dict[str, object]:
        """The argument ``runtime_env`` of Ray, with ``env_vars`` of the caller, over which those of the settings win."""
        values: dict[str, object] = {"env_vars": {**env_vars, **self.env_vars}}
        if self.py_executable:
            values["py_executable"] = self.py_executable
        if self.pip:
            values["pip"] = list(self.pip)
        return values


class PoolSettings(Section):
    """Actors of one scorer, when each scorer has its own pool."""

    num_actors: int = Field(default=1, gt=0)
    num_gpus_per_actor: float = Field(default=0.0, ge=0)
    runtime_env: RuntimeEnvironment = RuntimeEnvironment()


REWARD_MODELS = ("audiobox", "imagebind", "synchformer", "videoalign", "javis_score", "clap")
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
    _pool: str = PrivateAttr(default="")
    pools: ScorerPools = Field(default={name: PoolSettings() for name in REWARD_MODELS})

    @property
    def runtime_env(self) -> RuntimeEnvironment:
        """The environment of the actors; in the pool of a scorer that of the pool."""
        return self.pools[self._pool].runtime_env if self._pool else RuntimeEnvironment()

    @property
    def is_of_scorer(self) -> bool:
        """Whether the actors are those of one scorer, whose code or environment may be its own."""
        return bool(self._pool)

    def of_pool(self, scorer: str) -> RayExecutor:
        """The executor of the pool of a scorer."""
        pool = self.pools[scorer]
        values = {"num_actors": pool.num_actors, "num_gpus_per_actor": pool.num_gpus_per_actor}
        executor = self.model_copy(update=values)
        executor._pool = scorer
        return executor

    def has_own_pool(self, scorer: str) -> bool:
        """Whether the scorer of that name has the actors of ``pools``.

        With ``scoring: together``, reward models share actors, and only pools that the configuration adds are in use.
        """
        if scorer not in self.pools:
            return False
        is_used = self.scoring != "together" or scorer not in REWARD_MODELS
        return is_used or not self.pools[scorer].runtime_env.is_empty


Executor = Annotated[InProcessExecutor | RayExecutor, Field(discriminator="kind")]
