"""Loading of a pool's configuration: file, environment, ``--set``; then installed learned scorers join the measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from avpref.config.learned_names import is_installed
from avpref.config.loading import load_document
from avpref.config.pool.pool_settings import PoolConfig
from avpref.errors import ConfigError


def load_pool(
    path: Path | str, overrides: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> PoolConfig:
    """The configuration of a pool. ``measure.optional`` is resolved: its installed scorers join ``measure.scorers``.

    Raises ConfigError as :func:`avpref.config.loading.load_config`, and for captions without the name of a model.
    """
    config = load_document(PoolConfig, path, overrides, environment)
    if config.caption.url and not config.caption.model:
        raise ConfigError("caption.url without caption.model", "the model's name", "--set caption.model=NAME")
    return with_installed_scorers(config)


def with_installed_scorers(config: PoolConfig) -> PoolConfig:
    """The configuration with the installed ones of ``measure.optional`` among its scorers, and no optional one left."""
    measure = config.measure
    listed = {use.slug for use in measure.uses}
    added = [name for name in measure.optional if is_installed(name) and name not in listed]
    resolved = measure.model_copy(update={"scorers": (*measure.scorers, *added), "optional": ()})
    return config.model_copy(update={"measure": resolved})


def pool_to_yaml(config: PoolConfig) -> str:
    """The configuration as a complete file, which :func:`load_pool` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
