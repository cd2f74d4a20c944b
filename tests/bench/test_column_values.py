"""Columns from rows: published rules, counts, and sets that have no number, each with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avpref.bench.features.feature_files import Result
from avpref.bench.measures.category_means import category_results
from avpref.bench.measures.column_values import NO_REFERENCE, ColumnRows, column_value
from avpref.bench.measures.feature_rows import FeatureRows, rows_of
from avpref.bench.measures.intervals import BootstrapPlan
from avpref.bench.preset_files import Column, taxonomy

PLAN = BootstrapPlan(mean_samples=200, distance_samples=20)
FVD = Column(name="fvd", kind="frechet", network="i3d", array="logits")
KVD = Column(name="kvd", kind="kernel", network="i3d", array="logits")
IS = Column(name="is", kind="inception_mean", network="panns", array="logits")
KL = Column(name="kl", kind="divergence", network="panns", array="logits")
MEAN = Column(name="score", kind="mean", scorer="s", metric="m")


def rows(count: int, dims: int = 6, seed: int = 0, prefix: str = "k") -> FeatureRows:
    values = np.random.default_rng(seed).standard_normal((count, dims)).astype(np.float32)
    return FeatureRows(tuple(f"{prefix}{index}" for index in range(count)), values, np.arange(count))


def scores(values: list[float | None], reason: str = "silent") -> FeatureRows:
    results = [
        Result(None if value is None else np.array([[value]]), "" if value is not None else reason) for value in values
    ]
    return rows_of([(f"k{index}", result) for index, result in enumerate(results)])


@pytest.mark.golden
def test_the_pipeline_of_javisbench(golden: Path) -> None:
    """FVD, KVD (as published, and on uncentred features) and FAD of the whole step."""
    document = json.loads((golden / "javisbench" / "distribution.json").read_text())
    arrays = np.load(golden / "javisbench" / "distribution.npz")
    for case in document["pipeline_cases"]:
        _check_pipeline(case, arrays, float(document["fad_scale"]))


def _check_pipeline(case: dict[str, Any], arrays: Mapping[str, np.ndarray], scale: float) -> None:

    def set_of(name: str, side: str) -> FeatureRows:
        values = arrays[f"{name}_{side}"]
        if case["rows"] is not None:
            values = values[[row for row in case["rows"] if row < len(values)]]
        return FeatureRows(tuple(f"k{row}" for row in range(len(values))), values, np.arange(len(values)))

    def value(column: Column, name: str) -> float | None:
        return column_value(
            column, ColumnRows(set_of(name, "fake"), set_of(name, "real"), takes_smaller=case["rows"] is not None), PLAN
        ).value

    assert value(FVD, "d400") == pytest.approx(case["fvd"], rel=2e-4)
    assert value(KVD.model_copy(update={"centring": "centred"}), "d400") == pytest.approx(
        case["kvd"], rel=1e-4, abs=1e-5
    )
    assert value(KVD, "d400") == pytest.approx(case["kvd_on_uncentred_features"], rel=1e-4, abs=1e-5)
    assert value(FVD.model_copy(update={"scale": scale}), "d1024") == pytest.approx(case["fad"], rel=2e-4)


def test_a_mean_counts_its_clips_and_says_what_was_left_out() -> None:
    value = column_value(MEAN, ColumnRows(scores([1.0, None, 3.0, 2.0, None])), PLAN)
    assert (value.value, value.num_clips, value.num_lost) == (2.0, 3, 2)
    assert value.interval is not None and value.interval.low < 2.0 < value.interval.high
    assert value.warnings == ("generated: 2 clips left out: silent",)


def test_one_clip_has_a_mean_without_interval_and_no_distance() -> None:
    mean = column_value(MEAN, ColumnRows(scores([1.5])), PLAN)
    assert (mean.value, mean.interval) == (1.5, None) and "one clip: no interval" in mean.warnings
    for column in (FVD, KVD):
        alone = column_value(column, ColumnRows(rows(1), rows(8, seed=1)), PLAN)
        assert alone.value is None and alone.reason == "1 generated and 8 reference clips: a distance needs 2 of each"
        assert column_value(column, ColumnRows(rows(8), rows(1)), PLAN).value is None


def test_sets_without_values_have_reasons() -> None:
    silent = column_value(MEAN, ColumnRows(scores([None, None])), PLAN)
    assert (silent.value, silent.reason, silent.num_lost) == (None, "no generated clip has a value: silent", 2)
    assert column_value(FVD, ColumnRows(rows(4)), PLAN).reason == NO_REFERENCE
    empty = rows_of([("k0", Result(None, "no video track"))])
    assert column_value(FVD, ColumnRows(rows(4), empty), PLAN).reason == "no reference clip has a value: no video track"
    assert column_value(IS, ColumnRows(rows(9)), PLAN).value is None
    assert column_value(KL, ColumnRows(rows(3), rows(3, prefix="other")), PLAN).reason.startswith(
        "no generated clip has the name"
    )


def test_features_that_are_not_finite_give_no_number() -> None:
    broken = rows(12)
    broken.values[3, 2] = np.nan
    value = column_value(FVD, ColumnRows(broken, rows(12, seed=1)), PLAN)
    assert value.value is None and "1 of 12 rows of features with NaN" in value.reason


def test_sets_of_different_sizes_follow_the_rule_and_say_so() -> None:
    generated, reference = rows(30), rows(40, seed=1)
    cut = column_value(FVD, ColumnRows(generated, reference, takes_smaller=True), PLAN)
    whole = column_value(FVD, ColumnRows(generated, reference), PLAN)
    assert (cut.num_reference, whole.num_reference) == (30, 40) and cut.value != whole.value
    assert "30 generated and 40 reference clips: the first 30 of both are compared" in cut.warnings[0]
    assert "all are compared" in whole.warnings[0]


def test_a_small_sample_is_warned_of() -> None:
    few = column_value(FVD, ColumnRows(rows(5), rows(5, seed=1)), PLAN)
    assert any("no full rank" in warning for warning in few.warnings) and any("bias" in w for w in few.warnings)
    far = FeatureRows(rows(400, 2).keys, rows(400, 2).values + 30, np.arange(400))
    many = column_value(FVD, ColumnRows(rows(400, 2, seed=1), far), PLAN)
    assert many.warnings == () and many.size_bias is not None and many.interval is not None


def test_categories_are_the_published_means(golden: Path) -> None:
    case = json.loads((golden / "javisbench" / "taxonomy.json").read_text())["category_case"]
    count = len(case["scores"])
    labels = {
        f"k{row}": {
            column: tuple(int(part) for part in str(cells[row]).split(",")) for column, cells in case["columns"].items()
        }
        for row in range(count)
    }
    results = category_results(taxonomy(), labels, [(MEAN, ColumnRows(scores(case["scores"])))], PLAN)
    own: dict[str, list[float | None]] = {}
    for result in results:
        own.setdefault(result.aspect, []).append(result.columns["score"].value)
    for values, expected in zip(own.values(), case["per_aspect"], strict=True):
        assert values == [None if number is None else pytest.approx(number, abs=1e-9) for number in expected]
    empty = next(result for result in results if result.num_clips == 0)
    assert empty.document()["columns"]["score"] == {"value": None, "num_clips": 0, "reason": "no clip of this category"}
