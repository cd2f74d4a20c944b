"""Scorers with a Python environment of their own: another major version of a package runs beside the product's, in one flow."""

from __future__ import annotations

import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from outside_modules import guide_scorer, write_module
from scorer_pools import clip_list, executor_with

from avpref.config.executor_settings import PoolSettings, RuntimeEnvironment
from avpref.config.run_settings import RunSettings
from avpref.config.schema import ScoreJob
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets import tables
from avpref.errors import ConfigError
from avpref.flows.score_clips import score_clip_list
from avpref.flows.workers.scorers import sources

OLD_SCORER = """
from dataclasses import dataclass

import common_dependency

from avpref.domain import SOUND, Dimension, Metric, Terms
from avpref.rewards.protocol import measured

assert common_dependency.MAJOR == 1, "needs the first major version"


class OldScorer:
    @dataclass(frozen=True)
    class Settings:
        factor: int = 2

    metrics = (Metric("old_number", "1", True, Dimension.AUDIO, SOUND),)
    terms = Terms("MIT", commercial_use=True)

    def __init__(self, settings):
        self.factor = settings.factor

    def score(self, clips):
        value = common_dependency.only_in_one() * self.factor
        return [[measured(clip.candidate_id, self.metrics[0], value)] for clip in clips]
"""


def old_environment(folder: Path) -> Path:
    """Python of a new environment with old packages, in which everything else comes from the environment of the tests."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (packages / "product.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    write_module(packages / "common_dependency", "__init__", "MAJOR = 1\ndef only_in_one():\n    return 21\n")
    write_module(packages, "old_scorer", OLD_SCORER)
    return folder / "bin" / "python"


@pytest.mark.slow
def test_a_scorer_with_old_packages_runs_beside_the_others(workplace: Path, ray_cluster: int) -> None:
    write_module(workplace / "new" / "common_dependency", "__init__", "MAJOR = 2\n")
    write_module(
        workplace, "sharpness", "import common_dependency\nassert common_dependency.MAJOR == 2\n" + guide_scorer()
    )
    sys.path.append(str(workplace / "new"))
    executor = executor_with("old", py_executable=str(old_environment(workplace / "old")))
    pools = {
        **executor.pools,
        "sharpness": PoolSettings(runtime_env=RuntimeEnvironment(env_vars={"PYTHONPATH": ":".join(sys.path)})),
    }
    entry = {"use": "old_scorer:OldScorer", "name": "old", "settings": {"factor": 3}}
    job = ScoreJob(
        run=RunSettings(name="t"),
        scoring=ScoringSettings.model_validate({"scorers": ["signal", "sharpness:Sharpness", entry]}),
        executor=executor.model_copy(update={"pools": pools}),
    )
    folder, lost = score_clip_list(clip_list(workplace), job, workplace / "runs")
    scores = folder.tables.read(tables.SCORES).to_pandas()
    assert not lost and (scores[scores.metric == "old_number"].value == 63).all()
    assert scores.groupby("metric").candidate_id.nunique()[["old_number", "sharpness", "visual_quality"]].tolist() == [
        3,
        3,
        3,
    ]
    assert "old_scorer" not in sys.modules


def test_the_declaration_is_read_in_the_environment_of_the_pool(workplace: Path) -> None:
    source = "import os\n" + guide_scorer().replace('"sharpness", "grey levels"', 'os.environ["METRIC"], "grey levels"')
    write_module(workplace / "elsewhere", "wd_named", source)
    scoring = ScoringSettings.model_validate({"scorers": [{"use": "wd_named:Sharpness", "name": "named"}]})
    executor = executor_with("named", working_dir=str(workplace / "elsewhere"), env_vars={"METRIC": "crispness"})
    (found,) = sources(scoring, executor)
    assert [metric.name for metric in found.metrics] == ["crispness"] and "wd_named" not in sys.modules
    changed = executor_with("named", working_dir=str(workplace / "elsewhere"), env_vars={"METRIC": "acuity"})
    assert sources(scoring, changed)[0].metrics[0].name == "acuity"


@pytest.mark.parametrize("python", ["absent", "without ray"])
def test_a_python_that_cannot_be_used_is_one_error_that_names_the_pool(workplace: Path, python: str) -> None:
    write_module(workplace, "sharpness", guide_scorer())
    if python == "without ray":
        venv.create(workplace / "bare", with_pip=False, symlinks=True)
    executor = executor_with("sharpness", py_executable=str(workplace / "bare" / "bin" / "python"))
    with pytest.raises(ConfigError) as caught:
        sources(ScoringSettings(scorers=("sharpness:Sharpness",)), executor)
    assert "executor.pools.sharpness.runtime_env: " in caught.value.found and "ray" in caught.value.expected
    assert ("does not start" if python == "absent" else "No package metadata was found for ray") in caught.value.found


def test_a_module_that_does_not_import_there_is_quoted(workplace: Path) -> None:
    write_module(workplace, "wd_there", "import os\n1 / int(os.environ['ZERO'])\nclass A: pass\n")
    executor = executor_with("there", env_vars={"ZERO": "0"})
    scoring = ScoringSettings.model_validate({"scorers": [{"use": "wd_there:A", "name": "there"}]})
    with pytest.raises(
        ConfigError, match=r"scorer there: the module wd_there does not import:\n[^$]*ZeroDivisionError"
    ):
        sources(scoring, executor)
