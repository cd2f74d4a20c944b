"""The names in ``executor.pools``: each is the name of a scorer."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from itertools import chain

from avpref.config.executor_settings import REWARD_MODELS, Executor, RayExecutor
from avpref.config.learned_names import MODULES_OF
from avpref.config.scorer_use import ScorerUse
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import ConfigError


def require_pools_of_scorers(
    executor: Executor, scoring: ScoringSettings, judges: Sequence[ScorerUse], source: str
) -> None:
    """Raises ConfigError for a pool that is named after no scorer of the configuration in ``source``, whose actors would never start.

    Reward models and learned scorers may have a pool without being used: a saved configuration no longer names those that were optional.
    """
    if not isinstance(executor, RayExecutor):
        return
    names = {*REWARD_MODELS, *MODULES_OF, *(use.slug for use in chain(scoring.uses, judges))}
    unknown = sorted(set(executor.pools) - names)
    if not unknown:
        return
    near = difflib.get_close_matches(unknown[0], sorted(names), n=1)
    fix = f"rename executor.pools.{unknown[0]} to {near[0]}" if near else f"delete executor.pools.{unknown[0]}"
    listed = ", ".join(f"executor.pools.{name}" for name in unknown)
    raise ConfigError(f"{source}: {listed} without a scorer", f"one of {', '.join(sorted(names))}", fix)
