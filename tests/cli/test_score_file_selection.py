"""pairs select --scores FILE: anyone's numbers, good and bad."""

from __future__ import annotations

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.pairs_settings import PairSettings
from avpref.datasets.selection.score_table_import import read_scores
from avpref.domain import METRICS
from avpref.errors import TableError

NAMES = [metric.name for metric in METRICS]
WIDE = ["candidate_id", "prompt_id", *NAMES]
BEST = [9.0] * 6 + [0.1]
WORST = [1.0] * 6 + [0.9]
MIDDLE = [5.0] * 6 + [0.5]
GOOD = [["a1", "a", *BEST], ["a2", "a", *WORST], ["b1", "b", *MIDDLE], ["b2", "b", *WORST]]


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def long_rows(rows):
    return [[row[0], row[1], name, value] for row in rows for name, value in zip(NAMES, row[2:], strict=True)]


@pytest.fixture
def select(call):
    def run(path, *more):
        return call("pairs", "select", "--scores", path, *more, "--json")

    return run


@pytest.fixture
def wide(tmp_path):
    return write_csv(tmp_path / "wide.csv", WIDE, GOOD)


def sides(answer):
    return [(pair["chosen"], pair["rejected"]) for pair in answer.document["pairs"]]


def test_wide_columns(select, wide):
    answer = select(wide)
    assert answer.code == 0
    assert sides(answer) == [("a1", "a2"), ("b1", "b2")]
    assert answer.document["pairs"][0]["chosen_scores"]["desync"] == 0.1
    assert answer.document["pairs"][0]["chosen_path"] is None


def test_long_columns_and_parquet_select_the_same(select, wide, tmp_path):
    long = write_csv(tmp_path / "long.csv", ["candidate_id", "prompt_id", "metric", "value"], long_rows(GOOD))
    columns = dict(zip(WIDE, zip(*GOOD, strict=True), strict=True))
    pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), tmp_path / "wide.parquet")
    expected = select(wide).document["pairs"]
    assert select(long).document["pairs"] == expected
    assert select(tmp_path / "wide.parquet").document["pairs"] == expected


def test_row_order_changes_nothing(select, wide, tmp_path):
    turned = write_csv(tmp_path / "turned.csv", WIDE, GOOD[::-1])
    assert select(turned).document["pairs"] == select(wide).document["pairs"]


def test_ids_stay_as_they_are_written(select, tmp_path):
    path = write_csv(tmp_path / "ids.csv", WIDE, [["007", "01", *BEST], ["08", "01", *WORST]])
    assert sides(select(path)) == [("007", "08")]


def test_optional_columns_are_used(select, tmp_path):
    header = [*WIDE, "origin", "index", "height_px", "width_px", "duration_s"]
    rows = [
        ["a0", "a", *BEST, "ground_truth", 0, 480, 640, 2.0],
        ["a1", "a", *WORST, "generated", 1, 480, 640, 8.0],
        ["a2", "a", *MIDDLE, "generated", 2, 480, 640, 2.0],
    ]
    path = write_csv(tmp_path / "sizes.csv", header, rows)
    assert sides(select(path)) == [("a0", "a1")]
    assert select(path).document["pairs"][0]["chosen_origin"] == "ground_truth"
    assert sides(select(path, "--set", "pairs.ground_truth=false")) == [("a2", "a1")]
    too_long = select(path, "--set", "pairs.max_length_ratio=3").document
    assert (too_long["num_pairs"], too_long["skipped"]) == (0, {"length": 1})
    too_wide = select(path, "--set", "pairs.min_aspect_ratio=0.8").document
    assert too_wide["skipped"] == {"shape": 1}


@pytest.mark.parametrize(
    ("override", "column"), [("pairs.min_aspect_ratio=0.5", "height_px"), ("pairs.max_length_ratio=2", "num_frames")]
)
def test_rules_about_shape_need_the_columns(select, wide, override, column):
    answer = select(wide, "--set", override)
    assert answer.code == 4
    assert column in answer.err


def test_missing_metrics_are_named_all_at_once(select, tmp_path):
    path = write_csv(tmp_path / "two.csv", WIDE[:-2], [row[:-2] for row in GOOD])
    answer = select(path)
    assert answer.code == 4
    first = answer.err.splitlines()[0]
    assert "audio_video, desync" in first and "found visual_quality" in first
    assert "scoring.metrics" in answer.err


def test_the_fix_for_missing_metrics_works(select, tmp_path):
    path = write_csv(tmp_path / "six.csv", WIDE[:-1], [row[:-1] for row in GOOD])
    names = ", ".join(NAMES[:-1])
    assert f"--set 'scoring.metrics=[{names}]'" in select(path).err
    answer = select(path, "--set", f"scoring.metrics=[{names}]")
    assert (answer.code, len(answer.document["pairs"])) == (0, 2)


def test_a_misspelt_metric_column_is_recognised(select, tmp_path):
    path = write_csv(tmp_path / "typo.csv", ["candidate_id", "prompt_id", "visual_qualty", *NAMES[1:]], GOOD)
    answer = select(path)
    assert answer.code == 4
    assert "is visual_qualty meant to be visual_quality?" in answer.err


def test_long_files_that_lack_a_metric_are_refused(select, tmp_path):
    rows = [row for row in long_rows(GOOD) if row[2] != "text_audio"]
    answer = select(write_csv(tmp_path / "long.csv", ["candidate_id", "prompt_id", "metric", "value"], rows))
    assert answer.code == 4
    assert "lacks metric(s) text_audio" in answer.err


@pytest.mark.parametrize("cell", ["", "  ", "NA", "null"])
def test_an_empty_cell_excludes_its_candidate_and_the_rest_goes_on(select, tmp_path, cell):
    rows = [[*GOOD[0][:2], cell, *GOOD[0][3:]], *GOOD[1:]]
    answer = select(write_csv(tmp_path / "empty.csv", WIDE, rows))
    assert answer.code == 5
    (excluded,) = answer.document["excluded"]
    assert (excluded["candidate_id"], excluded["metric"], excluded["reason"]) == ("a1", "visual_quality", "missing")
    assert sides(answer) == [("b1", "b2")]
    assert answer.document["skipped"] == {"unscored": 1}


@pytest.mark.parametrize("cell", ["nan", "NaN", "inf", "-inf"])
def test_a_number_that_is_not_finite_excludes_its_candidate(select, tmp_path, cell):
    rows = [[*GOOD[0][:2], cell, *GOOD[0][3:]], *GOOD[1:]]
    answer = select(write_csv(tmp_path / "nan.csv", WIDE, rows))
    assert answer.code == 5
    assert [row["reason"] for row in answer.document["excluded"]] == ["not_finite"]
    assert sides(answer) == [("b1", "b2")]


def test_nulls_and_nan_of_parquet(select, tmp_path):
    columns = {name: [row[place] for row in GOOD] for place, name in enumerate(WIDE)}
    columns["desync"][0], columns["text_video"][2] = None, float("nan")
    pq.write_table(pa.table(columns), tmp_path / "holes.parquet")
    answer = select(tmp_path / "holes.parquet")
    found = {(row["candidate_id"], row["metric"], row["reason"]) for row in answer.document["excluded"]}
    assert (answer.code, found) == (5, {("a1", "desync", "missing"), ("b1", "text_video", "not_finite")})


def test_long_rows_that_are_not_there_exclude_their_candidate(select, tmp_path):
    rows = [row for row in long_rows(GOOD) if (row[0], row[2]) != ("b2", "desync")]
    answer = select(write_csv(tmp_path / "long.csv", ["candidate_id", "prompt_id", "metric", "value"], rows))
    assert answer.code == 5
    assert [(row["candidate_id"], row["reason"]) for row in answer.document["excluded"]] == [("b2", "missing")]


BAD = {
    "no rows": (WIDE, [], "no rows"),
    "column twice": ([*WIDE, "desync"], [[*row, 1.0] for row in GOOD], "listed twice: desync"),
    "no candidate column": (WIDE[1:], [row[1:] for row in GOOD], "lacks column(s) candidate_id"),
    "capitals": (["Candidate_ID", *WIDE[1:]], GOOD, "is 'Candidate_ID' meant to be candidate_id?"),
    "long without value": (["candidate_id", "prompt_id", "metric"], [["a", "a", "desync"]], "lacks column(s) value"),
    "unknown metric": (
        ["candidate_id", "prompt_id", "metric", "value"],
        [["a", "a", "visual_qualty", 1.0]],
        "did you mean visual_quality",
    ),
    "odd origin": ([*WIDE, "origin"], [[*row, "gt"] for row in GOOD], "row 1 has origin 'gt'"),
    "odd size": ([*WIDE, "height_px"], [[*row, 0] for row in GOOD], "no usable height_px"),
    "odd index": ([*WIDE, "index"], [[*row, 0.5] for row in GOOD], "row 1 has index '0.5': no whole index"),
    "large index": ([*WIDE, "index"], [[*row, 10**20] for row in GOOD], "row 1 has index '100000000000000000000'"),
    "decimal commas": (WIDE, [[*row[:2], "1,5", *row[3:]] for row in GOOD], "decimal comma"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_with_what_is_wrong(select, tmp_path, name):
    header, rows, expected = BAD[name]
    answer = select(write_csv(tmp_path / f"{name.replace(' ', '_')}.csv", header, rows))
    assert (answer.code, answer.out) == (4, "")
    assert expected in answer.err
    assert "expected:" in answer.err and "fix:" in answer.err


@pytest.mark.parametrize(
    ("name", "content"),
    [("empty.csv", b""), ("latin.csv", "candidate_id,prompt_id\né,a\n".encode("latin-1")), ("bad.parquet", b"PAR1")],
)
def test_files_that_cannot_be_read(select, tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert select(path).code == 4


def test_a_missing_file_is_missing_input_and_a_strange_one_a_usage_error(select, tmp_path):
    assert select(tmp_path / "none.csv").code == 4
    assert select(tmp_path / "scores.xlsx").code == 2


def test_a_byte_order_mark_and_quoted_fields(select, tmp_path):
    path = tmp_path / "bom.csv"
    text = ",".join(WIDE) + "\n" + "\n".join(f'"{row[0]}","{row[1]}",' + ",".join(map(str, row[2:])) for row in GOOD)
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert sides(select(path)) == [("a1", "a2"), ("b1", "b2")]


def test_columns_that_are_not_used_are_said(select, tmp_path):
    path = write_csv(tmp_path / "more.csv", [*WIDE, "caption"], [[*row, "a dog, barking"] for row in GOOD])
    answer = select(path)
    assert answer.code == 0
    assert "not used: caption" in answer.err


def test_a_constant_metric_is_a_warning(select, tmp_path):
    rows = [[*row[:2], 3.0, *row[3:]] for row in GOOD]
    answer = select(write_csv(tmp_path / "flat.csv", WIDE, rows))
    assert answer.code == 0
    assert any("visual_quality" in warning for warning in answer.document["warnings"])


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--run", "x"], "both --scores and --run"),
        (["--set", "pairs.norm=n1"], "pairs.norm"),
        (["--set", "scoring.metrics=[loudness]"], "loudness"),
        (["--set", "scoring.metrics=[desync]"], "no metric for dimension"),
        (["--set", "pairs.stratgy=average"], "did you mean pairs.strategy"),
        (["--set", "dpo.loop.steps=1"], "pairs.KEY=VALUE"),
    ],
)
def test_configuration_mistakes_are_usage_errors(select, wide, more, expected):
    answer = select(wide, *more)
    assert answer.code == 2
    assert expected in answer.err


def test_environment_counts_for_files(select, wide, monkeypatch):
    monkeypatch.setenv("AVPREF_PAIRS__STRATEGY", "average")
    assert select(wide).document["strategy"].startswith("average")
    assert select(wide, "--strategy", "modality").document["strategy"].startswith("modality")


def test_text_output_lists_pairs_and_exclusions(call, tmp_path):
    rows = [[*GOOD[0][:2], "", *GOOD[0][3:]], *GOOD[1:]]
    answer = call("pairs", "select", "--scores", write_csv(tmp_path / "x.csv", WIDE, rows))
    assert answer.code == 5
    assert "b1" in answer.out and "in no pair" in answer.out and "missing" in answer.out


CELLS = st.one_of(st.none(), st.floats(-1e6, 1e6))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=7, max_size=7), min_size=1, max_size=6))
def test_every_cell_is_a_score_or_is_missing(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("cells") / "scores.csv"
    rows = [[f"c{n}", "p", *("" if cell is None else repr(cell) for cell in row)] for n, row in enumerate(cells)]
    found = read_scores(write_csv(path, WIDE, rows), METRICS, PairSettings())
    scores = {(row["candidate_id"], row["metric"]): row["value"] for row in found.scores.to_pylist()}
    expected = {
        (f"c{n}", name): cell
        for n, row in enumerate(cells)
        for name, cell in zip(NAMES, row, strict=True)
        if cell is not None
    }
    assert scores == expected
    assert found.candidates["candidate_id"].to_pylist() == [f"c{n}" for n in range(len(cells))]


def test_reading_raises_table_errors_for_library_users(tmp_path):
    with pytest.raises(TableError, match="no rows"):
        read_scores(write_csv(tmp_path / "none.csv", WIDE, []), METRICS, PairSettings())
