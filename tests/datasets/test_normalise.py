from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.selection import normalise
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS
from avpref.errors import ConfigError, TableError

NUMBERS = st.one_of(st.none(), st.just(math.nan), st.just(math.inf), st.floats(-1e6, 1e6))
CANDIDATE = st.lists(NUMBERS, min_size=7, max_size=7)


def table_of(population):
    frame = pd.DataFrame([values for group in population for values in group], columns=[m.name for m in METRICS])
    return frame.astype(float).replace([math.inf, -math.inf], math.nan)


@settings(max_examples=25, deadline=None)
@given(population=st.lists(st.lists(CANDIDATE, min_size=1, max_size=3), min_size=1, max_size=5))
def test_statistics_are_those_of_pandas(make_tables, population):
    norm = normalise.measure(read_matrix(source_of(make_tables(population)), METRICS), "all")
    frame = table_of(population)
    for metric in METRICS:
        values, found = frame[metric.name].dropna(), norm.find(metric.name)
        if values.empty:
            assert found is None
            continue
        assert found is not None
        assert found.count == len(values)
        assert found.mean == pytest.approx(values.mean(), rel=1e-12, abs=1e-9)
        if values.nunique() > 1:
            assert found.std == values.std()
            assert found.q25 == pytest.approx(values.quantile(0.25), rel=1e-12, abs=1e-9)
        else:
            assert found.std == 0.0


def test_rows_that_are_not_ok_do_not_count(make_tables):
    found = make_tables([[[1.0] * 7, [3.0] * 7, [100.0] * 7]])
    scores = found["scores"].to_pandas()
    scores.loc[scores.candidate_id == "c000-2", "status"] = "skipped"
    matrix = read_matrix(source_of({**found, "scores": tables.to_arrow(tables.SCORES, scores)}), METRICS)
    assert normalise.measure(matrix, "all").metrics[0].mean == 2.0


def test_a_norm_is_named_by_its_content_and_comes_back(make_tables, tmp_path):
    values = np.random.default_rng(3).normal(size=(4, 3, 7)).tolist()
    norm = normalise.measure(read_matrix(source_of(make_tables(values)), METRICS), "all")
    path = tmp_path / "norms.parquet"
    path.write_bytes(tables.to_bytes(norm.to_arrow()))
    arrow = tables.read(path, tables.NORMS)
    assert normalise.from_arrow(arrow, norm.norm_id) == norm
    values[0][0][0] = np.nextafter(values[0][0][0], 9.0) + 1e-9
    other = normalise.measure(read_matrix(source_of(make_tables(values)), METRICS), "all")
    assert other.norm_id != norm.norm_id
    assert normalise.measure(read_matrix(source_of(make_tables(values)), METRICS), "some").norm_id != other.norm_id


def test_changed_or_absent_norms_are_refused(make_tables):
    norm = normalise.measure(read_matrix(source_of(make_tables([[[1.0] * 7, [2.0] * 7]])), METRICS), "all")
    frame = norm.to_arrow().to_pandas()
    with pytest.raises(TableError, match="no norm"):
        normalise.from_arrow(norm.to_arrow(), "n0")
    frame.loc[0, "mean"] += 1
    with pytest.raises(TableError, match="hash"):
        normalise.from_arrow(tables.to_arrow(tables.NORMS, frame), norm.norm_id)


def test_a_frozen_norm_puts_a_new_batch_on_the_old_scale(make_tables):
    rng = np.random.default_rng(5)
    old, new = rng.normal(size=(6, 3, 7)), rng.normal(loc=4, scale=3, size=(2, 3, 7))
    norm = normalise.measure(read_matrix(source_of(make_tables(old.tolist())), METRICS), "old")
    matrix = read_matrix(source_of(make_tables(new.tolist())), METRICS)
    found = select_pairs(matrix, PairSettings(norm=norm.norm_id), norm).rewards
    z = (new.reshape(-1, 7) - old.reshape(-1, 7).mean(0)) / old.reshape(-1, 7).std(0, ddof=1)
    np.testing.assert_allclose(found["video"].to_numpy(), z[:, :3].mean(1), rtol=1e-12)
    np.testing.assert_allclose(found["av"].to_numpy(), (z[:, 5] - z[:, 6]) / 2, rtol=1e-12)
    assert set(found["norm_id"].to_pylist()) == {norm.norm_id}


def test_the_norm_that_settings_name_is_asked_for(make_tables):
    matrix = read_matrix(source_of(make_tables([[[1.0] * 7, [2.0] * 7]])), METRICS)
    with pytest.raises(ConfigError, match="nffff"):
        select_pairs(matrix, PairSettings(norm="nffff"), normalise.measure(matrix, "all"))


def test_a_norm_that_lacks_a_metric_with_values_is_refused(make_tables):
    matrix = read_matrix(source_of(make_tables([[[1.0] * 7, [2.0] * 7]])), METRICS)
    norm = normalise.measure(replace(matrix, metrics=METRICS[:-1], values=matrix.values[:-1]), "all")
    with pytest.raises(TableError, match="desync"):
        select_pairs(matrix, PairSettings(), norm)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_without_variance_a_metric_decides_nothing_and_says_so(make_tables, average):
    values = np.random.default_rng(7).normal(size=(8, 3, 7))
    values[:, :, 1] = 0.1
    matrix = read_matrix(source_of(make_tables(values.tolist())), METRICS)
    norm = normalise.measure(matrix, "all")
    assert norm.constant == ("motion_quality",)
    selection = select_pairs(matrix, PairSettings(average=average), norm)
    assert selection.pairs.num_rows and not selection.excluded.num_rows
    assert set(selection.pairs["chosen_motion_quality_normalised"].to_pylist()) == {0.0}
    assert len(selection.warnings) == 1 and "motion_quality" in selection.warnings[0]


def test_no_variance_without_normalisation_is_no_warning(make_tables):
    matrix = read_matrix(source_of(make_tables([[[1.0] * 7, [1.0] * 7]])), METRICS)
    assert not select_pairs(matrix, PairSettings(normalise=False), normalise.measure(matrix, "all")).warnings


def test_overflow_is_an_error_and_not_a_nan(make_tables):
    with pytest.raises(TableError, match="finite"):
        normalise.measure(read_matrix(source_of(make_tables([[[1e308] * 7, [-1e308] * 7]])), METRICS), "all")


def test_threads_change_no_bit(make_tables):
    values = np.random.default_rng(9).normal(size=(3000, 3, 7)).tolist()
    found = make_tables(values)
    one, two = (normalise.measure(read_matrix(source_of(found, threads=n), METRICS), "all") for n in (1, 2))
    assert one == two
