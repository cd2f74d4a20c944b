"""Opens the run or the configuration that a command names.

Storage and YAML are imported when something is opened, so that help stays quick; and a wrong name is an error before a command imports
what does its work.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avpref.config.schema import Settings
    from avpref.storage.run_folder import RunFolder


def open_run(runs: Path, run: str = "") -> RunFolder:
    """See :func:`avpref.storage.run_folder.open_run`."""
    from avpref.storage import run_folder

    return run_folder.open_run(runs, run)


def load_settings(config: Path, overrides: Sequence[str]) -> Settings:
    """The settings of a configuration file with ``overrides``; see :func:`avpref.config.loading.load_config`."""
    from avpref.config.loading import load_config

    return load_config(config, overrides).settings
