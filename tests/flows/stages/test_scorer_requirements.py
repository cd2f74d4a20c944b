"""``runtime_env.pip``: Ray installs a requirement into an environment of its own, and one that cannot be installed is one error."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest
from outside_modules import guide_scorer, write_module
from scorer_pools import clip_list, executor_with

from avpref.config.run_settings import RunSettings
from avpref.config.schema import ScoreJob
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets import tables
from avpref.errors import ConfigError
from avpref.flows.score_clips import score_clip_list
from avpref.flows.workers.scorers import sources

SCORING = ScoringSettings(scorers=("signal", "sharpness:Sharpness"))
pytestmark = pytest.mark.slow


def wheel(folder: Path) -> Path:
    """A wheel of the package ``only_in_the_pool``, which no other environment has."""
    path = folder / "only_in_the_pool-1.0-py3-none-any.whl"
    files = {
        "only_in_the_pool.py": "VALUE = 1\n",
        "only_in_the_pool-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: only-in-the-pool\nVersion: 1.0\n",
        "only_in_the_pool-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        record = "".join(f"{name},,\n" for name in [*files, "only_in_the_pool-1.0.dist-info/RECORD"])
        archive.writestr("only_in_the_pool-1.0.dist-info/RECORD", record)
    return path


def test_a_scorer_imports_a_package_that_ray_installed_for_its_pool(workplace: Path, ray_cluster: int) -> None:
    write_module(workplace, "sharpness", "import only_in_the_pool\n" + guide_scorer())
    job = ScoreJob(
        run=RunSettings(name="t"), scoring=SCORING, executor=executor_with("sharpness", pip=(str(wheel(workplace)),))
    )
    folder, lost = score_clip_list(clip_list(workplace), job, workplace / "runs")
    scores = folder.tables.read(tables.SCORES).to_pandas()
    assert not lost and scores[scores.metric == "sharpness"].candidate_id.nunique() == 3
    assert "only_in_the_pool" not in sys.modules


def test_a_requirement_that_cannot_be_installed_is_one_error_that_names_the_pool(
    workplace: Path, ray_cluster: int
) -> None:
    write_module(workplace, "sharpness", guide_scorer())
    executor = executor_with("sharpness", pip=(str(workplace / "absent-1.0-py3-none-any.whl"),))
    with pytest.raises(ConfigError) as caught:
        sources(SCORING, executor)
    assert "executor.pools.sharpness.runtime_env: Ray cannot build it" in caught.value.found
