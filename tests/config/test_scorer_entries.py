"""Entries of ``scoring.scorers`` and of ``executor.pools``: both forms, overrides by name, errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from avpref.config.executor_settings import RayExecutor
from avpref.config.loading import config_to_yaml, identity_hash, load_config, load_sections
from avpref.config.schema import ScoreJob, Settings
from avpref.config.scorer_use import ScorerUse, default_name
from avpref.errors import ConfigError

TINY = Path(__file__).parents[2] / "configs" / "tiny.yaml"
LONG = "scoring.scorers=[fake, {use: 'my.sharp:EdgeSharpness', settings: {step_px: 2, names: [a, b]}}]"


def loaded(*overrides: str) -> Settings:
    return load_config(TINY, overrides, {}).settings


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("signal", "signal"),
        ("speech-quality", "speech_quality"),
        ("a.b:Sharpness", "sharpness"),
        ("a.b:EdgeSharpness", "edge_sharpness"),
        ("a:Outer.HPSv3Score", "hp_sv3_score"),
        ("a:VLM", "vlm"),
    ],
)
def test_the_name_is_derived_from_the_reference(reference: str, name: str) -> None:
    assert default_name(reference) == name and ScorerUse(use=reference).slug == name


def test_a_mapping_carries_settings_and_survives_a_round_trip(tmp_path: Path) -> None:
    settings = loaded(LONG)
    assert [use.slug for use in settings.scoring.uses] == ["fake", "edge_sharpness"]
    assert settings.scoring.uses[1].settings == {"step_px": 2, "names": ["a", "b"]}
    assert hash(settings.scoring.uses[1]) == hash(loaded(LONG).scoring.uses[1])
    (tmp_path / "again.yaml").write_text(config_to_yaml(settings), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml", environment={}).settings == settings


def test_the_long_form_of_a_plain_name_is_the_same_run() -> None:
    plain = identity_hash(loaded())
    assert identity_hash(loaded("scoring.scorers={use: fake}")) == plain
    assert identity_hash(loaded("scoring.scorers=[{use: fake, name: fake, settings: {}}]")) == plain
    assert identity_hash(loaded("scoring.scorers.fake.settings.salt=x")) != plain


def test_an_override_addresses_an_entry_by_its_name() -> None:
    settings = loaded(LONG, "scoring.scorers.edge_sharpness.settings.step_px=5")
    assert settings.scoring.uses[1].settings == {"step_px": 5, "names": ["a", "b"]}
    by_environment = load_config(TINY, [], {"AVPREF_SCORING__SCORERS__FAKE__SETTINGS__SALT": "7"}).settings
    assert by_environment.scoring.uses[0].settings == {"salt": 7}
    with pytest.raises(ConfigError, match=r"scoring\.scorers has no entry called sharpness"):
        loaded(LONG, "scoring.scorers.sharpness.settings.step_px=5")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[{use: fake, nam: x}]", "unknown key scoring.scorers.0.nam (did you mean scoring.scorers.0.name?)"),
        ("[fake, {name: x}]", "scoring.scorers.1.use is missing"),
        ("[fake, 3]", "scoring.scorers.1 = 3: neither a name nor a mapping"),
        ("[fake, 'a.b:9X']", "scoring.scorers.1 = 'a.b:9X'"),
        ("[fake, {use: signal, name: Big}]", "scoring.scorers.1.name = 'Big'"),
        ("[fake, fake]", "fake and fake are both called fake"),
        ("['a.b:X', 'c.d:X']", "a.b:X and c.d:X are both called x"),
        ("[]", "at least one scorer"),
    ],
)
def test_a_wrong_entry_is_one_error_that_names_it(value: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(f"scoring.scorers={value}")
    assert message in caught.value.found


def test_pools_are_added_to_those_of_the_reward_models() -> None:
    executor = loaded(
        "executor={kind: ray}", "executor.pools.sharpness.num_actors=3", "scoring.scorers=[fake, sharpness]"
    ).executor
    assert isinstance(executor, RayExecutor)
    assert {name: pool.num_actors for name, pool in executor.pools.items()} == {
        **dict.fromkeys(("audiobox", "imagebind", "synchformer", "videoalign", "javis_score", "clap"), 1),
        "sharpness": 3,
    }
    with pytest.raises(ConfigError, match=r"unknown key executor\.pools\.sharpness\.num_actor "):
        loaded("executor={kind: ray}", "executor.pools.sharpness.num_actor=3")


RAY = "executor={kind: ray, pools: {POOL: {num_actors: 2}}}"


@pytest.mark.parametrize("pool", ["imagebind", "speech", "edge_sharpness", "second"])
def test_a_pool_of_a_known_scorer_is_accepted(pool: str) -> None:
    judge = "evaluation.judges=[{use: 'my.judge:Judge', name: second}]"
    executor = loaded(LONG, judge, RAY.replace("POOL", pool)).executor
    assert isinstance(executor, RayExecutor) and executor.pools[pool].num_actors == 2


def test_a_pool_that_no_scorer_uses_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"executor\.pools\.edge_sharpnes without a scorer") as refusal:
        loaded(LONG, RAY.replace("POOL", "edge_sharpnes"))
    assert "rename executor.pools.edge_sharpnes to edge_sharpness" in str(refusal.value)
    with pytest.raises(ConfigError, match=r"delete executor\.pools\.qqqq"):
        loaded(LONG, RAY.replace("POOL", "qqqq"))


def test_a_pool_of_the_commands_without_a_file_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"executor\.pools\.imagebnd without a scorer"):
        load_sections(ScoreJob, [RAY.replace("POOL", "imagebnd")], {})
    assert load_sections(ScoreJob, [RAY.replace("POOL", "imagebind")], {}).executor.kind == "ray"
