"""docs/pool.md names every section, key and default of a pool's own sections, every measurer and every measure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from avpref.config.pool.filter_settings import PRESETS
from avpref.config.pool.pool_loading import load_pool, pool_to_yaml
from avpref.config.pool.pool_settings import PoolConfig
from avpref.config.section import Section
from avpref.errors import ConfigError
from avpref.pool.measure.flow_measures import METRICS as FLOW
from avpref.pool.measure.frame_measures import METRICS as FRAME
from avpref.pool.measure.measurers import BUILT_IN, measurers
from avpref.pool.measure.sound_measures import METRICS as SOUND
from avpref.pool.measure.sync_measures import METRICS as SYNC

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "pool.md").read_text(encoding="utf-8")
CONFIG = ROOT / "configs" / "pool.yaml"
OWN = ("scan", "cut", "measure", "caption", "filter", "write")


def models_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Section) else []
    return [model for argument in getattr(annotation, "__args__", ()) for model in models_in(argument)]


def sections(model: type[Section], path: str) -> Iterator[tuple[str, type[Section]]]:
    yield path, model
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            if inner.__module__.startswith("avpref.config.pool"):
                yield from sections(inner, f"{path}.{name}")


SECTIONS = dict(item for name in OWN for item in sections(models_in(PoolConfig.model_fields[name].annotation)[0], name))


def default_of(model: type[Section], key: str) -> object:
    field = model.model_fields[key]
    if field.is_required():
        return "required"
    if isinstance(field.default, tuple):
        return list(field.default)
    return "section" if models_in(field.annotation) else field.default


def documented(path: str) -> dict[str, object]:
    words = {"none": None, "empty": "", "section": "section", "required": "required"}
    body = GUIDE.split(f"### `{path}`\n")[1].split("\n### ")[0]
    cells = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| \S", body, re.MULTILINE)
    return {key: words[cell] if cell in words else yaml.safe_load(cell.strip("`")) for key, cell in cells}


@pytest.mark.parametrize("path", SECTIONS)
def test_the_guide_gives_every_key_with_its_default(path: str) -> None:
    model = SECTIONS[path]
    assert documented(path) == {key: default_of(model, key) for key in model.model_fields}


def test_the_guide_has_no_other_section_and_names_every_measure() -> None:
    assert set(re.findall(r"^### `([a-z_.]+)`$", GUIDE, re.MULTILINE)) == set(SECTIONS)
    assert all(f"`{metric.name}`" in GUIDE for metric in (*FRAME, *SOUND, *FLOW, *SYNC))
    assert all(f"`{name}`" in GUIDE for name in BUILT_IN)


def test_the_shipped_file_loads_and_comes_back_from_its_own_text(tmp_path: Path) -> None:
    config = load_pool(CONFIG, environment={})
    (tmp_path / "again.yaml").write_text(pool_to_yaml(config), encoding="utf-8")
    assert load_pool(tmp_path / "again.yaml", environment={}) == config
    assert not config.measure.optional


def test_presets_have_the_published_thresholds() -> None:
    limits = {entry.label: (entry.measure, entry.min, entry.max) for entry in PRESETS["javisbench"]}
    assert limits == {
        "length": ("duration_s", 2.0, 60.0),
        "aesthetics": ("aesthetic_score", 4.5, None),
        "motion": ("flow_px", 0.1, None),
        "text": ("text_regions", None, 5.0),
        "no_speech": ("speech_share", None, 0.0),
    }
    assert next(entry.label for entry in PRESETS["javisdit++"]) == "no_speech"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("cut.detectr=content", "detector"),
        ("filter.filters=[{measure: x}]", "without a limit"),
        ("filter.filters=[{measure: x, min: 1}, {measure: x, max: 2}]", "two filters"),
        ("filter.filters=[{measure: x, min: 1, min_quantile: 0.5}]", "choose one"),
        ("cut.min_s=90", "max_s"),
        ("write.width_px=64", "height_px"),
        ("scan.sources=7", "sources"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_right_ones(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_pool(CONFIG, [override], environment={})


def test_an_own_filter_replaces_that_of_the_preset() -> None:
    own = "filter.filters=[{name: aesthetics, measure: brightness, min: 0.1}]"
    config = load_pool(CONFIG, ["filter.preset=javisbench", own], environment={})
    assert [entry.measure for entry in config.filter.all_filters if entry.label == "aesthetics"] == ["brightness"]
    assert len(config.filter.all_filters) == 5


def test_measurers_are_named_once_and_two_of_one_measure_are_an_error() -> None:
    config = load_pool(CONFIG, ["measure.scorers=[sound_measures, signal]", "measure.optional=[]"], environment={})
    assert [source.slug for source in measurers(config.measure, config.executor)] == ["soundmeasures", "signalscorer"]
    twice = load_pool(
        CONFIG, ["measure.scorers=[imagebind, signal]", "measure.optional=[]", "measure.preset=tiny"], environment={}
    )
    with pytest.raises(ConfigError, match="audio_video"):
        measurers(twice.measure, twice.executor)
