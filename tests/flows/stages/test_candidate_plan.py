"""The plan of candidates is a function of prompts and settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.domain import Origin, Prompt, Split
from avpref.execution.plan import grouped, plan_stage
from avpref.flows.stages.candidate_plan import CandidateRequest, candidate_requests, sampler_hash

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"
PROMPTS = [Prompt(f"p{n}", f"text {n}", Split.HELD_OUT if n % 4 == 3 else Split.TRAIN) for n in range(12)]


def settings(*overrides: str) -> Settings:
    return load_config(TINY, overrides, {}).settings


def planned(run_settings: Settings, prompts: list[Prompt] = PROMPTS, checkpoint: str = "k") -> list[CandidateRequest]:
    return list(candidate_requests(prompts, run_settings, checkpoint))


def test_training_prompts_get_ground_truth_and_candidates_and_held_out_prompts_one_candidate() -> None:
    requests = planned(settings("sampling.num_candidates=3"))
    for prompt in PROMPTS:
        origins = [item.origin for item in requests if item.prompt == prompt]
        if prompt.split == Split.TRAIN:
            assert origins == [Origin.GROUND_TRUTH] + 3 * [Origin.GENERATED]
        else:
            assert origins == [Origin.GENERATED]
    assert len({item.item_id for item in requests}) == len(requests)
    assert len({item.seed for item in requests if item.origin == Origin.GENERATED}) == sum(i.seed > 0 for i in requests)


def test_without_ground_truth_nothing_else_changes() -> None:
    with_it, without = planned(settings()), planned(settings("sampling.ground_truth=false"))
    assert [item for item in with_it if item.origin == Origin.GENERATED] == without


def test_more_candidates_and_more_prompts_keep_the_ids_that_were_there() -> None:
    few = {item.item_id for item in planned(settings("sampling.num_candidates=2"), PROMPTS[:6])}
    many = {item.item_id for item in planned(settings("sampling.num_candidates=5"))}
    assert few < many


@pytest.mark.parametrize(
    ("change", "is_new_seed"),
    [
        ("run.seed=1", True),
        ("sampling.steps=4", False),
        ("sampling.guidance=3.5", False),
        ("clip.fps_hz=4", False),
        ("codec.audio_bands=16", False),
    ],
)
def test_every_setting_that_a_clip_depends_on_changes_its_id(change: str, is_new_seed: bool) -> None:
    before, after = planned(settings()), planned(settings(change))
    for old, new in zip(before, after, strict=True):
        if old.origin == Origin.GENERATED:
            assert old.item_id != new.item_id
            assert (old.seed != new.seed) == is_new_seed


def test_another_checkpoint_gives_other_candidates_on_the_same_noise_and_the_same_ground_truth() -> None:
    for old, new in zip(planned(settings()), planned(settings(), checkpoint="other"), strict=True):
        assert old.seed == new.seed
        assert (old.item_id == new.item_id) == (old.origin == Origin.GROUND_TRUTH)


@pytest.mark.parametrize(
    "change", ["run.shard_prompts=3", "executor.kind=ray", "scoring.scorers=toy", "dpo.loop.steps=3"]
)
def test_settings_that_no_clip_depends_on_change_no_request(change: str) -> None:
    assert planned(settings()) == planned(settings(change))
    assert sampler_hash(settings()) == sampler_hash(settings(change))


@given(
    sizes=st.lists(st.integers(1, 7), min_size=0, max_size=30),
    shard_prompts=st.integers(1, 9),
    unit_candidates=st.integers(1, 9),
)
def test_shards_and_units_cover_every_item_once_in_order(
    sizes: list[int], shard_prompts: int, unit_candidates: int
) -> None:
    base = settings()
    given_settings = base.model_copy(
        update={"run": base.run.model_copy(update={"shard_prompts": shard_prompts, "unit_candidates": unit_candidates})}
    )
    template = planned(base)[0]
    groups = [[replace(template, item_id=f"{group}.{n}") for n in range(size)] for group, size in enumerate(sizes)]
    plan = plan_stage("generate", "candidates", "f", groups, given_settings.run)
    units = plan.units
    assert [item for unit in units for item in unit.items] == [item for group in groups for item in group]
    assert all(1 <= len(unit.items) <= unit_candidates for unit in units)
    assert [shard.ordinal for shard in plan.shards] == list(range(-(-len(groups) // shard_prompts)))
    assert all(unit.shard == shard.ordinal for shard in plan.shards for unit in shard.units)
    assert plan.num_items == sum(shard.num_items for shard in plan.shards) == sum(sizes)
    assert len({unit.name for unit in units}) == len(units)
    assert plan == plan_stage("generate", "candidates", "f", groups, given_settings.run)


def test_grouping_keeps_the_order_of_first_appearance() -> None:
    assert grouped([1, 2, 3, 4, 5], ["b", "a", "b", "c", "a"]) == [[1, 3], [2, 5], [4]]
    with pytest.raises(ValueError):
        grouped([1], [])
