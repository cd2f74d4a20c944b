"""The estimates of a dry run agree with the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from avpref.config.data_settings import ToyWorldPrompts
from avpref.config.loading import load_config
from avpref.datasets import tables
from avpref.flows.dry_run import estimate, latent_bytes, network_values

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "tiny.yaml")


@pytest.fixture(scope="module")
def stages(tiny_run):
    return {stage["name"]: stage for stage in estimate(tiny_run.settings).document()["stages"]}


def test_counts_are_those_of_the_run(stages, tiny_run):
    assert stages["prompts"]["items"] == tiny_run.tables.num_rows(tables.PROMPTS)
    assert stages["generate"]["items"] == tiny_run.tables.num_rows(tables.CANDIDATES)
    assert stages["score"]["items"] == tiny_run.tables.num_rows(tables.SCORES)
    assert stages["train"]["items"] == tiny_run.settings.dpo.loop.steps
    assert stages["encode"]["items"] >= 2 * tiny_run.tables.num_rows(tables.PAIRS)


def test_clips_take_no_more_bytes_than_estimated(stages, tiny_run):
    written = sum(path.stat().st_size for path in tiny_run.root.glob("clips/*/*.mp4"))
    assert written <= stages["generate"]["bytes"] + stages["evaluate"]["bytes"]


def test_the_networks_size_is_that_of_its_file(tiny_run):
    values, adapter = network_values(tiny_run.settings)
    (network,) = tiny_run.root.glob("models/sft-*/network.safetensors")
    (weights,) = tiny_run.root.glob("models/dpo-*/adapter/adapter_model.safetensors")
    for path, count in ((network, values), (weights, adapter)):
        header = int.from_bytes(path.read_bytes()[:8], "little")
        assert path.stat().st_size == 8 + header + 4 * count


def test_more_candidates_are_more_bytes_and_nothing_else_changes():
    settings = load_config(TINY).settings
    assert isinstance(settings.prompts, ToyWorldPrompts)
    more = load_config(TINY, ["sampling.num_candidates=5"]).settings
    before, after = (
        {stage["name"]: stage for stage in estimate(each).document()["stages"]} for each in (settings, more)
    )
    assert after["generate"]["items"] - before["generate"]["items"] == 2 * settings.prompts.num_prompts
    assert after["generate"]["bytes"] > before["generate"]["bytes"]
    assert all(before[name] == after[name] for name in before if name not in ("generate", "score"))


def test_the_total_is_the_sum_of_what_is_known():
    document = estimate(load_config(TINY).settings).document()
    assert document["total_bytes"] == sum(stage["bytes"] or 0 for stage in document["stages"])


def test_each_delayed_version_adds_the_same_number_of_bytes():
    settings = load_config(TINY).settings
    assert latent_bytes(settings, 2) - latent_bytes(settings, 1) == latent_bytes(settings, 1) - latent_bytes(settings)
