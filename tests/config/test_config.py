"""Configuration: precedence, origins, round trips, and errors that say what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from avpref.config.executor_settings import InProcessExecutor, RayExecutor
from avpref.config.loading import config_to_yaml, identity_hash, load_config
from avpref.config.training_settings import SftSettings
from avpref.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
RUN_CONFIGS = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "pool.yaml")
"""Shipped files with the schema of a run; tests/pool/test_pool_guide.py reads that of a pool."""
TINY = CONFIGS / "tiny.yaml"


def edited(tmp_path: Path, old: str, new: str) -> Path:
    text = TINY.read_text()
    assert old in text
    path = tmp_path / "edited.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


TWO_ADAPTERS = "dpo.adapter.layout=two_adapters"


def refusal(path: Path, *overrides: str, **environment: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides, environment)
    assert caught.value.exit_code == 2
    assert caught.value.expected and caught.value.fix
    return caught.value


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.name)
def test_every_shipped_configuration_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    settings = load_config(path, environment={}).settings
    (tmp_path / "again.yaml").write_text(config_to_yaml(settings))
    assert load_config(tmp_path / "again.yaml", environment={}).settings == settings


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("run.sed", "run.seed"),
        ("sampling.num_candidate", "sampling.num_candidates"),
        ("dpo.loop.step", "dpo.loop.steps"),
        ("dpo.loss.beta_vidio", "dpo.loss.beta_video"),
        ("prompts.num_promts", "prompts.num_prompts"),
        ("executor.num_actor", "executor.num_actors"),
        ("evaluation.gate.max_displacment", "evaluation.gate.max_displacement"),
        ("traning", "training"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(wrong: str, meant: str) -> None:
    error = refusal(TINY, f"{wrong}=1")
    assert f"unknown key {wrong}" in error.found
    if meant != "training":  # there is no such section, nor one like it
        assert f"did you mean {meant}?" in error.found


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    error = refusal(TINY, "run.sed=1", "sft.loop.steps=none", "clip.height_px=-1")
    assert all(name in error.found for name in ("run.sed", "sft.loop.steps", "clip.height_px"))


def test_an_unknown_kind_names_the_kinds_that_exist() -> None:
    error = refusal(TINY, "executor.kind=slurm")
    assert "slurm" in error.found and "in_process" in error.found and "ray" in error.found


def test_keys_of_another_kind_of_the_section_are_refused() -> None:
    assert "num_actors" in refusal(TINY, "executor.num_actors=2").found


def test_a_missing_section_and_a_missing_key_are_named(tmp_path: Path) -> None:
    tree = yaml.safe_load(TINY.read_text())
    del tree["clip"], tree["sft"]["loop"]["steps"]
    (tmp_path / "short.yaml").write_text(yaml.safe_dump(tree))
    message = refusal(tmp_path / "short.yaml").found
    assert "clip is missing" in message and "sft.loop.steps is missing" in message


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("run.seed=many", "run.seed"),
        ("run.seed=-1", "run.seed"),
        ("run.seed=1.5", "run.seed"),
        ("run.name=../up", "run.name"),
        ("sampling.ground_truth=perhaps", "sampling.ground_truth"),
        ("network.patch_size=[1, 2]", "network.patch_size"),
        ("clip.fps_hz=0", "clip.fps_hz"),
        ("run=5", "run"),
        ("pairs.strategy=best", "pairs.strategy"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_named_with_what_was_found(override: str, name: str) -> None:
    assert refusal(TINY, override).found.split(": ", 1)[1].startswith(name)


def test_flags_win_over_environment_over_file_over_defaults() -> None:
    environment = {"AVPREF_RUN__SEED": "5", "AVPREF_RUN__NAME": "from-environment", "AVPREF_SFT__LOOP__STEPS": "7"}
    resolved = load_config(TINY, ["run.seed=6"], environment)
    rows = {key: (value, origin) for key, value, origin in resolved.rows()}
    assert rows["run.seed"] == (6, "--set run.seed")
    assert rows["run.name"] == ("from-environment", "environment AVPREF_RUN__NAME")
    assert rows["sft.loop.steps"] == (7, "environment AVPREF_SFT__LOOP__STEPS")
    assert rows["clip.num_frames"] == (16, str(TINY))
    assert rows["dpo.loss.label_smoothing"] == (0.0, "default")


def test_variables_without_a_section_are_no_settings() -> None:
    environment = {"AVPREF_GOLDEN": "x", "AVPREF_MEDIA": "y", "PATH": "z"}
    assert load_config(TINY, environment=environment).settings == load_config(TINY, environment={}).settings


def test_the_process_environment_counts_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AVPREF_RUN__SEED", "11")
    assert load_config(TINY).settings.run.seed == 11
    assert load_config(TINY, environment={}).settings.run.seed == 0


def test_a_wrong_variable_is_named_as_what_it_is() -> None:
    error = refusal(TINY, AVPREF_RUN__SEDE="5")
    assert "AVPREF_RUN__SEDE" in error.found and "run.seed" in error.found


def test_values_of_flags_are_yaml() -> None:
    overrides = [
        "sampling.shift=null",
        "scoring.metrics=[desync]",
        "sampling.ground_truth=false",
        "dpo.optimiser.lr=1e-5",
    ]
    settings = load_config(TINY, overrides, {}).settings
    assert (settings.sampling.shift, settings.scoring.metrics) == (None, ("desync",))
    assert settings.sampling.ground_truth is False
    assert settings.dpo.optimiser.lr == 1e-5


def test_a_flag_can_change_the_kind_of_a_section() -> None:
    settings = load_config(TINY, ["executor.kind=ray", "executor.num_actors=3"], {}).settings
    assert settings.executor == RayExecutor(num_actors=3)
    assert load_config(TINY, environment={}).settings.executor == InProcessExecutor()


@pytest.mark.parametrize("override", ["run.seed", "run.seed.deep=1", "run.seed=[1", "=5", ""])
def test_a_flag_that_is_no_assignment_is_refused(override: str) -> None:
    refusal(TINY, override)


def test_a_missing_file_names_a_file_like_it(tmp_path: Path) -> None:
    (tmp_path / "toyworld.yaml").write_text("")
    error = refusal(tmp_path / "toywrld.yaml")
    assert "toywrld.yaml" in error.found and "toyworld.yaml" in error.fix


@pytest.mark.parametrize("content", ["run: [", "\tx: 1", "- a\n- b\n", "", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "broken.yaml").write_text(content)
    assert "broken.yaml" in refusal(tmp_path / "broken.yaml").found


@pytest.mark.parametrize("make", [lambda path: path.write_bytes(b"\xff\xfe\x00run"), lambda path: path.mkdir()])
def test_a_file_that_is_no_text_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "odd.yaml")
    assert "odd.yaml" in refusal(tmp_path / "odd.yaml").found


def test_a_key_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    path = edited(tmp_path, "  seed: 0\n", "  seed: 0\n  seed: 1\n")
    assert "seed" in refusal(path).found


def test_the_identity_does_not_depend_on_the_executor_and_on_nothing_less() -> None:
    base = identity_hash(load_config(TINY, environment={}).settings)
    executor = load_config(TINY, ["executor.kind=ray", "executor.num_actors=3"], {}).settings
    assert identity_hash(executor) == base
    others = [
        "run.seed=1",
        "run.name=b",
        "sft.loop.steps=13",
        "pairs.strategy=average",
        "evaluation.gate.max_displacement=1",
    ]
    hashes = {identity_hash(load_config(TINY, [override], {}).settings) for override in others}
    assert len(hashes | {base}) == len(others) + 1


def test_a_default_that_is_written_out_is_the_same_configuration() -> None:
    written = load_config(TINY, ["dpo.loss.label_smoothing=0.0"], {}).settings
    assert identity_hash(written) == identity_hash(load_config(TINY, environment={}).settings)


@settings(max_examples=12)
@example(seed=0, name="a", text="next\x85line", rate=1e-5)
@given(
    seed=st.integers(0, 2**63 - 1),
    name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True),
    text=st.text(max_size=20),
    rate=st.floats(1e-9, 1.0),
)
def test_settings_survive_a_round_trip_through_yaml(
    tmp_path_factory: pytest.TempPathFactory, seed: int, name: str, text: str, rate: float
) -> None:
    base = load_config(TINY, environment={}).settings
    assert isinstance(base.sft, SftSettings)
    changed = base.model_copy(
        update={
            "run": base.run.model_copy(update={"seed": seed, "name": name}),
            "sampling": base.sampling.model_copy(update={"negative_prompt": text}),
            "sft": base.sft.model_copy(update={"optimiser": base.sft.optimiser.model_copy(update={"lr": rate})}),
        }
    )
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(config_to_yaml(changed), encoding="utf-8")
    again = load_config(path, environment={}).settings
    assert again == changed
    assert identity_hash(again) == identity_hash(changed)


def test_a_section_given_as_a_whole_replaces_the_files_and_says_where_it_came_from() -> None:
    resolved = load_config(CONFIGS / "toyworld.yaml", ["executor={kind: in_process}"], {})
    origins = {key: origin for key, _, origin in resolved.rows() if key.startswith("executor.")}
    assert origins.pop("executor.kind") == "--set executor"
    assert set(origins) == {"executor.device", "executor.scoring"} and set(origins.values()) == {"default"}


def test_a_key_of_another_kind_is_explained_as_that() -> None:
    with pytest.raises(ConfigError, match=r"executor\.num_actors is no key of executor\.kind in_process") as caught:
        load_config(CONFIGS / "toyworld.yaml", ["executor.kind=in_process"], {})
    assert "did you mean" not in caught.value.found


def test_an_adapter_layout_that_no_stage_can_serve_is_refused_before_a_run_begins() -> None:
    error = refusal(TINY, TWO_ADAPTERS)
    assert "dpo.adapter.layout two_adapters without sft.adapter" in error.found
    assert error.fix == "--set dpo.adapter.layout=merged"


@pytest.mark.parametrize(
    ("overrides", "found", "fix"),
    [
        (["dpo.adapter.dropout=0.05"], "dpo.adapter.dropout 0.05", "--set dpo.adapter.dropout=0"),
        (["sft.adapter={dropout: 0.05}"], "sft.adapter.dropout 0.05", "--set sft.adapter.dropout=0"),
        (["sft.adapter={layout: two_adapters}"], "sft.adapter.layout", "--set sft.adapter.layout=merged"),
        (
            [TWO_ADAPTERS, "sft.adapter={rank: 8, alpha: 2}"],
            "rank 4",
            "--set dpo.adapter.rank=8 --set dpo.adapter.alpha=2",
        ),
        (
            [TWO_ADAPTERS, "sft.adapter={rank: 4, alpha: 4}", "dpo.reference=ema"],
            "ema",
            "--set dpo.adapter.layout=merged",
        ),
        (
            [TWO_ADAPTERS, "sft.adapter={rank: 4, alpha: 4}", "rounds.count=2"],
            "rounds",
            "--set dpo.adapter.layout=merged",
        ),
    ],
)
def test_adapters_that_do_not_go_together_are_refused_before_a_run_begins(
    overrides: list[str], found: str, fix: str
) -> None:
    error = refusal(TINY, *overrides)
    assert found in error.found and error.fix == fix
    load_config(TINY, [*overrides, *fix.replace("--set ", "").split()], {})


def test_an_adapter_to_continue_is_accepted() -> None:
    overrides = ["sft.adapter={rank: 4, alpha: 4}", TWO_ADAPTERS]
    assert load_config(TINY, overrides, {}).settings.dpo.has_reference_adapter
