"""Learned scorers without their packages: one error that says what to install; sources and configuration need none of them."""

from __future__ import annotations

import importlib.util
import pickle
import sys
from pathlib import Path

import pytest

from avpref.config.learned_names import MODULES_OF
from avpref.config.loading import config_to_yaml, identity_hash, load_config
from avpref.config.scoring_settings import ScoringSettings
from avpref.errors import InputError
from avpref.flows.workers.scorers import sources
from avpref.rewards.learned import packaged_weights
from avpref.rewards.learned.learned_catalogue import LEARNED
from avpref.rewards.learned.packaged_weights import Package, PackagedWeights, fingerprint

CONFIGS = Path(__file__).parents[3] / "configs"
ALL = sorted({module for modules in MODULES_OF.values() for module in modules})


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which none of the packages can be found."""
    real = importlib.util.find_spec
    for module in ("avpref.config.learned_names", "avpref.rewards.learned.packaged_weights"):
        monkeypatch.setattr(sys.modules[module], "find_spec", lambda name: None if name in ALL else real(name))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """An installed package ``some-weights`` with one weight file."""
    folder = tmp_path / "some_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "net.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    return Package("some-weights", "some_weights")


def test_the_catalogue_has_the_names_of_the_configuration() -> None:
    assert list(LEARNED) == list(MODULES_OF)
    for name, source in LEARNED.items():
        modules = {weights.package.module for weights in source.weights}
        assert modules <= set(MODULES_OF[name]) and source.trained_on and source.terms.licence


@pytest.mark.parametrize("name", list(LEARNED))
def test_an_absent_package_is_one_error_with_the_command(name: str, bare: None) -> None:
    source = LEARNED[name]
    for attempt in (source.open, lambda: source.fingerprint):
        with pytest.raises(InputError) as caught:
            attempt()
        assert f"scorer {name}: package" in caught.value.found and "is not installed" in caught.value.found
        assert caught.value.fix.startswith("pip install ")


def test_sources_describe_themselves_without_packages(bare: None) -> None:
    (source,) = sources(ScoringSettings(scorers=("speech_quality",)))
    assert source.metrics[0].name == "speech_overall"
    assert pickle.loads(pickle.dumps(source)) == source


def test_packages_are_located_without_being_imported(package: Package) -> None:
    weights = PackagedWeights(package, "net.bin")
    assert weights.path("s").read_bytes() == b"weights"
    assert "some_weights" not in sys.modules


def test_a_package_without_the_file_is_an_error_that_names_it(package: Package) -> None:
    with pytest.raises(InputError, match=r"scorer s: some-weights .*holds no other.bin"):
        PackagedWeights(package, "other.bin").path("s")


def test_the_fingerprint_follows_bytes_version_and_settings(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [PackagedWeights(package, "net.bin")]
    first = fingerprint("s", 1, weights, 0.5)
    assert fingerprint("s", 1, weights, 0.5) == first
    others = {fingerprint("s", 2, weights, 0.5), fingerprint("s", 1, weights, 0.6), fingerprint("t", 1, weights, 0.5)}
    monkeypatch.setattr(packaged_weights, "version", lambda name: "9.9")
    others.add(fingerprint("s", 1, weights, 0.5))
    weights[0].path("s").write_bytes(b"others")
    packaged_weights._sha256.cache_clear()
    others.add(fingerprint("s", 1, weights, 0.5))
    assert len(others | {first}) == 6


def test_optional_scorers_that_are_absent_leave_the_configuration(bare: None) -> None:
    loaded = load_config(CONFIGS / "clips.yaml", environment={})
    assert loaded.settings.scoring.scorers == ("signal",) and loaded.settings.scoring.optional == ()
    assert (
        "not installed" in loaded.origins["scoring.scorers"] and "speech_quality" in loaded.origins["scoring.scorers"]
    )


def test_installed_optional_scorers_are_part_of_the_run(
    bare: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without = load_config(CONFIGS / "clips.yaml", environment={}).settings
    monkeypatch.setattr("avpref.config.optional_scorers.is_installed", lambda name: name in ("speech", "shot_cuts"))
    settings = load_config(CONFIGS / "clips.yaml", environment={}).settings
    assert settings.scoring.scorers == ("signal", "speech", "shot_cuts") and settings.scoring.optional == ()
    assert identity_hash(settings) != identity_hash(without)
    stored = tmp_path / "config.yaml"
    stored.write_text(config_to_yaml(settings))
    monkeypatch.setattr("avpref.config.optional_scorers.is_installed", lambda name: False)
    assert load_config(stored, environment={}).settings == settings


def test_a_listed_scorer_is_not_added_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avpref.config.optional_scorers.is_installed", lambda name: True)
    overrides = ["scoring.scorers=speech,signal", "scoring.optional=shot_cuts,speech"]
    assert load_config(CONFIGS / "clips.yaml", overrides, {}).settings.scoring.scorers == (
        "speech",
        "signal",
        "shot_cuts",
    )
