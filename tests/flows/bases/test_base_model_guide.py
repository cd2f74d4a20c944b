"""The base model of the guide: written into an empty folder, ``retrain`` uses it without a change in the product."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from outside_modules import write_module

from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.errors import ConfigError
from avpref.flows.dry_run import estimate
from avpref.flows.retrain import retrain
from avpref.flows.workers.generator import base_of
from avpref.models.bases.base_opening import open_base
from avpref.storage.run_folder import open_root

GUIDE = (Path(__file__).parents[3] / "docs" / "write-a-base-model.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[0]


@pytest.fixture
def folder(workplace: Path) -> Path:
    open_base.cache_clear()
    write_module(workplace, "cells", block("python"))
    (workplace / "mine.yaml").write_text(block("yaml"), encoding="utf-8")
    return workplace


def test_the_whole_loop_runs_on_a_base_model_of_ones_own(folder: Path) -> None:
    first = retrain.fn("mine.yaml")
    run = open_root(Path(first["run_dir"]))
    (adapter,) = run.root.glob("models/dpo-*/adapter/adapter_config.json")
    assert sorted(json.loads(adapter.read_text())["target_modules"]) == ["narrow", "wide"]
    assert run.tables.num_rows(tables.PAIRS) >= 1 and run.tables.num_rows(tables.EVALUATIONS) > 0
    again = retrain.fn("mine.yaml")
    assert not again["changed"] and again["run_id"] == first["run_id"]
    stages = {stage["name"]: stage for stage in estimate(run.settings).document()["stages"]}
    assert stages["generate"]["items"] == run.tables.num_rows(tables.CANDIDATES)


def test_another_version_of_the_class_reuses_nothing_of_the_old_one(folder: Path) -> None:
    versions = []
    for width in (24, 25):
        settings = load_config("mine.yaml", [f"base.settings.width={width}"], environment={}).settings
        versions.append(base_of(settings).version)
    assert versions[0] != versions[1]


def test_a_setting_that_the_class_does_not_declare_is_one_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match="depth") as caught:
        retrain.fn("mine.yaml", overrides=["base.settings.depth=3"])
    assert "width, num_blocks, cell_px" in caught.value.expected and not (folder / "runs").exists()
