"""The folder of one benchmark: inputs, table, samples and events. Features lie in a store beside it, shared by all benchmarks.

result.json    settings, columns with intervals and counts, categories, warnings, lost clips
inputs.json    samples of both sets with the identity of their bytes, and the parts with their fingerprints
samples.csv    a row per prompt or clip: its values, or the reason why it has none
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avpref.bench.features.feature_files import FEATURES, FeatureFiles
from avpref.config.executor_settings import Executor
from avpref.config.observe_settings import ObserveSettings
from avpref.errors import InputError
from avpref.storage.local_files import LocalFiles
from avpref.storage.unit_files import UnitFiles
from avpref.storage.work_folder import WorkFolder

RESULT_FILE, INPUTS_FILE, SAMPLES_FILE = "result.json", "inputs.json", "samples.csv"
STORE = "features"


@dataclass(frozen=True)
class BenchFolder(WorkFolder):
    """The folder of one benchmark, with the executor and the settings of progress reports."""

    executor: Executor
    observe: ObserveSettings

    @property
    def max_quarantined_share(self) -> float:
        """All clips may be lost: users decide which clips they list, and every lost clip is a row with its reason."""
        return 1.0


def feature_files(root: Path, fingerprints: Mapping[str, str]) -> FeatureFiles:
    """The store under ``root``, the parent of all folders of benchmarks; ``fingerprints`` are those of the parts by name."""
    store = LocalFiles(root.resolve() / STORE)
    return FeatureFiles(UnitFiles(store.subfolder("units"), FEATURES), tuple(fingerprints.items()))


def read_result(folder: Path) -> dict[str, Any]:
    """The result of the benchmark in ``folder``. Raises InputError where there is none."""
    return _read(folder, RESULT_FILE)


def read_inputs(folder: Path) -> dict[str, Any]:
    """The inputs of the benchmark in ``folder``. Raises InputError where there are none."""
    return _read(folder, INPUTS_FILE)


def _read(folder: Path, name: str) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "avpref bench run --clips FOLDER --preset NAME makes one"
        raise InputError(f"{folder / name}: {error}", "the folder of a finished benchmark", fix) from error
    return document
