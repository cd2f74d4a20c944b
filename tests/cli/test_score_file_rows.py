"""pairs select --scores FILE: a row with a bad value is refused with its line, column and reason, and the others go on."""

from __future__ import annotations

import csv
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from avpref.domain import METRICS

NAMES = [metric.name for metric in METRICS]
WIDE = ["candidate_id", "prompt_id", *NAMES]
LONG = ["candidate_id", "prompt_id", "metric", "value"]
BEST = [9.0] * 6 + [0.1]
WORST = [1.0] * 6 + [0.9]
GOOD = [["a1", "a", *BEST], ["a2", "a", *WORST], ["b1", "b", *BEST], ["b2", "b", *WORST]]
SIZED = [*WIDE, "index", "height_px", "width_px", "num_frames", "duration_s", "origin"]


def write_csv(path, header, rows, delimiter=",", encoding="utf-8"):
    with open(path, "w", newline="", encoding=encoding) as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows])
    return path


def long_rows():
    return [[row[0], row[1], name, value] for row in GOOD for name, value in zip(NAMES, row[2:], strict=True)]


def sized(**changes):
    """Five candidates with every optional column; ``changes`` are made to the last one, c1."""
    plain = {"index": 0, "height_px": 240, "width_px": 320, "num_frames": 16, "duration_s": 2.0, "origin": "generated"}
    rows = [[*row, *plain.values()] for row in GOOD]
    return [*rows, ["c1", "a", *BEST, *{**plain, **changes}.values()]]


@pytest.fixture
def select(call):
    def run(path, *more):
        return call("pairs", "select", "--scores", path, *more, "--json")

    return run


def sides(answer):
    return [(pair["chosen"], pair["rejected"]) for pair in answer.document["pairs"]]


WRONG = {
    "text in a metric": (WIDE, [*GOOD, ["c1", "a", "high", *BEST[1:]]], "has visual_quality 'high': no number"),
    "underscores": (WIDE, [*GOOD, ["c1", "a", "1_0", *BEST[1:]]], "has visual_quality '1_0': no number"),
    "a score too large": (WIDE, [*GOOD, ["c1", "a", "1e200", *BEST[1:]]], "has visual_quality '1e200': beyond 1e+150"),
    "no prompt": (WIDE, [*GOOD, ["c1", "", *BEST]], "has no prompt_id"),
    "no candidate": (WIDE, [*GOOD, [" ", "a", *BEST]], "has no candidate_id"),
    "a large index": (SIZED, sized(index=10**20), "has index '100000000000000000000': no whole index"),
    "a fractional index": (SIZED, sized(index=1.5), "has index '1.5': no whole index"),
    "an infinite index": (SIZED, sized(index="inf"), "has index 'inf': no whole index"),
    "no index": (SIZED, sized(index=""), "has index '': no whole index"),
    "a large height": (SIZED, sized(height_px=2**31), "has height_px '2147483648': no usable height_px"),
    "a fractional width": (SIZED, sized(width_px="3.2"), "has width_px '3.2': no usable width_px"),
    "negative frames": (SIZED, sized(num_frames=-1), "has num_frames '-1': no usable num_frames"),
    "a long duration": (SIZED, sized(duration_s="1e300"), "has duration_s '1e300': no usable duration_s"),
    "an infinite duration": (SIZED, sized(duration_s="inf"), "has duration_s 'inf': no usable duration_s"),
    "text for a duration": (SIZED, sized(duration_s="2 s"), "has duration_s '2 s': no usable duration_s"),
    "an unknown origin": (SIZED, sized(origin="gt"), "has origin 'gt': none of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_row_with_a_wrong_value_is_refused_and_the_others_go_on(select, tmp_path, name):
    header, rows, reason = WRONG[name]
    answer = select(write_csv(tmp_path / "scores.csv", header, rows))
    assert answer.code == 5, answer.err
    (refused,) = answer.document["refused"]
    assert (refused["line"], refused["row"]) == (6, 5)
    assert refused["reason"].startswith(reason)
    assert sides(answer) == [("a1", "a2"), ("b1", "b2")]


@pytest.mark.parametrize("last", ["c1", "c1,a,1,2", 'c1,a,"1'])
def test_a_row_of_another_length_or_with_an_open_quote_is_refused(select, tmp_path, last):
    path = write_csv(tmp_path / "scores.csv", WIDE, GOOD)
    path.write_text(path.read_text() + last + "\n")
    answer = select(path)
    assert answer.code == 5
    (refused,) = answer.document["refused"]
    assert refused["line"] == 6 and "cannot be read" in refused["reason"]
    assert sides(answer) == [("a1", "a2"), ("b1", "b2")]


def test_an_open_quote_in_the_middle_costs_one_row(select, tmp_path):
    path = write_csv(tmp_path / "scores.csv", WIDE, GOOD[:2])
    lines = path.read_text().splitlines()
    more = write_csv(tmp_path / "more.csv", WIDE, GOOD[2:]).read_text().splitlines()[1:]
    path.write_text("\n".join([*lines, 'c1,"a,1,2,3,4,5,6,7', *more]) + "\n")
    answer = select(path)
    assert answer.code == 5
    assert [row["line"] for row in answer.document["refused"]] == [4]
    assert sides(answer) == [("a1", "a2"), ("b1", "b2")]


def test_rows_that_contradict_each_other_are_all_refused(select, tmp_path):
    doubled = select(write_csv(tmp_path / "doubled.csv", WIDE, [*GOOD, GOOD[0]]))
    assert doubled.code == 5 and sides(doubled) == [("b1", "b2")]
    assert [(row["row"], row["candidate_id"]) for row in doubled.document["refused"]] == [(1, "a1"), (5, "a1")]
    scores = select(write_csv(tmp_path / "long.csv", LONG, [*long_rows(), ["a1", "a", "desync", 1.0]]))
    assert scores.code == 5 and sides(scores) == [("b1", "b2")]
    assert all("a1 desync" in row["reason"] for row in scores.document["refused"])
    prompts = select(write_csv(tmp_path / "prompts.csv", LONG, [*long_rows()[:-1], ["b2", "a", "desync", 0.1]]))
    assert prompts.code == 5 and sides(prompts) == [("a1", "a2")]
    assert len(prompts.document["refused"]) == len(NAMES) and "disagree" in prompts.document["refused"][0]["reason"]


def test_an_unknown_metric_in_one_row_costs_that_row(select, tmp_path):
    rows = long_rows()
    rows[0][2] = "visual_qualty"
    answer = select(write_csv(tmp_path / "long.csv", LONG, rows))
    assert answer.code == 5
    assert "did you mean visual_quality?" in answer.document["refused"][0]["reason"]
    assert sides(answer) == [("b1", "b2")]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_separators_and_encodings_of_spreadsheet_programs(select, tmp_path, delimiter, encoding):
    answer = select(write_csv(tmp_path / "scores.csv", WIDE, GOOD, delimiter, encoding))
    assert (answer.code, sides(answer)) == (0, [("a1", "a2"), ("b1", "b2")])


def test_whole_numbers_keep_every_digit(tmp_path):
    from avpref.config.pairs_settings import PairSettings
    from avpref.datasets.selection.score_table_import import read_scores

    largest = 2**63 - 1
    for header, index in (("text", str(largest)), ("number", largest)):
        rows = [[*row, index] for row in GOOD]
        if header == "text":
            path = write_csv(tmp_path / "scores.csv", [*WIDE, "index"], rows)
        else:
            path = tmp_path / "scores.parquet"
            columns = dict(zip([*WIDE, "index"], zip(*rows, strict=True), strict=True))
            pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
        assert set(read_scores(path, METRICS, PairSettings()).candidates["index"].to_pylist()) == {largest}


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ([0, 0, 0, 2**64 - 1], pa.uint64(), "no whole index"),
        ([0.0, 0.0, 0.0, float("nan")], pa.float64(), "no whole index"),
        ([0.0, 0.0, 0.0, 1e30], pa.float64(), "no whole index"),
        ([0, 0, 0, None], pa.int32(), "no whole index"),
    ],
)
def test_types_of_parquet(select, tmp_path, values, kind, reason):
    columns = {name: [row[place] for row in GOOD] for place, name in enumerate(WIDE)}
    table = pa.table({**columns, "index": pa.array(values, kind)})
    pq.write_table(
        table.set_column(0, "candidate_id", table["candidate_id"].dictionary_encode()), tmp_path / "x.parquet"
    )
    answer = select(tmp_path / "x.parquet")
    assert answer.code == 5
    (refused,) = answer.document["refused"]
    assert (refused["line"], refused["row"], refused["candidate_id"]) == (None, 4, "b2") and reason in refused["reason"]


def test_a_column_of_another_type_is_named(select, tmp_path):
    columns = {name: [row[place] for row in GOOD] for place, name in enumerate(WIDE)}
    pq.write_table(pa.table({**columns, "desync": [[1.0]] * 4}), tmp_path / "x.parquet")
    answer = select(tmp_path / "x.parquet")
    assert answer.code == 4 and "column desync is of type list" in answer.err


def test_refused_rows_are_printed(call, tmp_path):
    path = write_csv(tmp_path / "scores.csv", WIDE, [*GOOD, ["c1", "a", "high", *BEST[1:]]])
    answer = call("pairs", "select", "--scores", path)
    assert answer.code == 5 and "refused rows" in answer.out and "'high'" in answer.out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_the_command_for_wrong_capitals_works(select, tmp_path, encoding):
    path = write_csv(tmp_path / "scores.csv", ["Candidate ID", "PROMPT_ID", *NAMES], GOOD, ";", encoding)
    answer = select(path)
    assert answer.code == 4 and "is 'Candidate ID' meant to be candidate_id?" in answer.err
    subprocess.run(["bash", "-c", answer.err.rpartition("fix: ")[2]], check=True)
    assert sides(select(tmp_path / "scores-fixed.csv")) == [("a1", "a2"), ("b1", "b2")]
