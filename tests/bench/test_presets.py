"""Presets: published columns, named settings with both values, and errors that name the right setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avpref.bench.networks.network_sources import MODELS
from avpref.bench.preset_files import choose, load_preset, preset_names, taxonomy
from avpref.errors import ConfigError


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_complete(name: str) -> None:
    preset = load_preset(name)
    chosen = choose(preset)
    assert {column.network for column in chosen.columns} - {""} <= set(chosen.networks) <= set(MODELS)
    assert {column.scorer for column in chosen.columns} - {""} == set(chosen.scorers)
    assert len({column.name for column in chosen.columns}) == len(chosen.columns)
    for setting in preset.settings.values():
        assert setting.meaning and (not setting.choices or setting.published in setting.choices)
        assert setting.corrected is None or setting.corrected != setting.published
    assert all(row["is_published"] for row in chosen.documented())
    unused = [setting for setting in preset.settings if f'"={setting}"' not in preset.model_dump_json()]
    assert (
        set(unused) <= {"set_sizes", "cut_s"}
        and '"=' not in chosen.model_copy(update={"preset": None}).model_dump_json()
    )


def test_the_columns_of_javisbench_are_the_published_ones(golden: Path) -> None:
    published = json.loads((golden / "javisbench" / "taxonomy.json").read_text())
    expected = [name for group in published["default_groups"] for name in published["metric_groups"][group]]
    for name in ("javisbench", "javisbench-mini"):
        columns = [column.name for column in load_preset(name).columns]
        assert sorted(columns) == sorted(expected) and len(columns) == 16
    assert (load_preset("javisbench").expected_rows, load_preset("javisbench-mini").expected_rows) == (10140, 1000)


def test_the_taxonomy_is_the_published_one(golden: Path) -> None:
    published = json.loads((golden / "javisbench" / "taxonomy.json").read_text())["aspects"]
    own = [(aspect.column, aspect.aspect, list(aspect.categories)) for aspect in taxonomy()]
    assert own == [(a["column"], a["name"], [c["name"] for c in a["categories"]]) for a in published]


def test_quirks_have_a_published_and_a_corrected_value() -> None:
    preset = load_preset("javisbench")
    published, corrected = choose(preset), choose(preset, ["corrected"])
    assert published.networks["i3d"] == {"frames": 16, "range": "published"}
    assert choose(preset, ["fvd_frames=24"]).networks["i3d"]["frames"] == 24
    assert published.scorers["clip_score"].settings == {"channels": "bgr"}
    assert corrected.scorers["clip_score"].settings == {"channels": "rgb"}
    assert published.scorers["clap"].settings == {"short_clips": "zeros"}
    assert (published.scorers["clap"].resampler, corrected.scorers["clap"].resampler) == ("kaiser_best", "sinc")
    kvd = {column.name: column.centring for column in published.columns}
    assert kvd["kvd"] == "centred" and {c.name: c.centring for c in corrected.columns}["kvd"] == "uncentred"
    assert choose(preset, ["cut_s=8"]).cut_s == 8.0
    used = {row["setting"]: row["value"] for row in choose(preset, ["corrected", "kvd_centring=centred"]).documented()}
    assert used["kvd_centring"] == "centred" and used["clip_channels"] == "rgb"


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("fvd_frame=24", "did you mean fvd_frames"),
        ("fvd_frames=20", "fvd_frames is one of 16, 24"),
        ("cut_s=-1", "cut_s is a positive number"),
        ("cut_s=four", "cut_s is a positive number"),
        ("fvd_frames", "SETTING=VALUE"),
    ],
)
def test_wrong_settings_are_named(override: str, found: str) -> None:
    with pytest.raises(ConfigError, match=r"--with") as caught:
        choose(load_preset("javisbench"), [override])
    assert found in str(caught.value)


def test_an_unknown_preset_is_named() -> None:
    with pytest.raises(ConfigError, match="no preset 'javis'") as caught:
        load_preset("javis")
    assert "av-benchmark" in caught.value.expected
