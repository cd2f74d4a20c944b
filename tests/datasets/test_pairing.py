from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.selection.candidate_rewards import strategy_label
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRIC_BY_NAME, METRICS, SOUND, Dimension, Metric, Prompt, Split
from avpref.errors import ConfigError, TableError
from avpref.identity import digest

NAMES = [metric.name for metric in METRICS]
GRID = st.sampled_from([0.0, 0.2, 0.4, 0.6, 1.0])
CANDIDATE = st.lists(GRID, min_size=7, max_size=7)
POPULATION = st.lists(st.lists(CANDIDATE, min_size=1, max_size=4), min_size=1, max_size=8)
HOLES = st.lists(st.one_of(GRID, st.none(), st.just(math.nan), st.just(math.inf)), min_size=7, max_size=7)
SETTINGS = st.builds(
    PairSettings,
    strategy=st.sampled_from(["modality", "average", "strict"]),
    average=st.sampled_from(["micro", "macro"]),
    normalise=st.booleans(),
    ground_truth=st.booleans(),
    min_margin=st.sampled_from([0.0, 0.3, 1.0]),
    max_pairs_per_prompt=st.sampled_from([1, 2, 100]),
)
SUBSETS = st.sampled_from([METRICS, METRICS[:2] + METRICS[3:4] + METRICS[5:], (METRICS[0], METRICS[3], METRICS[6])])


def select(found, chosen_settings=None, metrics=METRICS, threads=2):
    matrix = read_matrix(source_of(found, threads=threads), metrics)
    return select_pairs(matrix, chosen_settings or PairSettings(), measure(matrix, "all"))


def sides(selection):
    columns = [selection.pairs[name].to_pylist() for name in ("prompt_id", "chosen", "rejected")]
    return list(zip(*columns, strict=True))


def pair_id(chosen, rejected):
    return "x" + digest("pair", chosen, rejected)


# --- the rule once more, one candidate and one prompt at a time -------------------------------------------------------


def by_hand(population, options: PairSettings, metrics, norm):
    """(prompt, chosen, rejected) in order, from nested lists of complete candidates (index 0 is ground truth)."""
    admitted = [
        (p, i, values)
        for p, group in enumerate(population)
        for i, values in enumerate(group)
        if i > 0 or options.ground_truth
    ]
    normalised = {(p, i): normalised_scores(values, options, metrics, norm) for p, i, values in admitted}
    normalised_or_ranked = normalised if options.average == "micro" else ranks(normalised)
    pairs = []
    for p in range(len(population)):
        mine = [key for key in normalised if key[0] == p]
        found = []
        for a in mine:
            for b in mine:
                margin = compare(a, b, normalised_or_ranked, normalised, options, metrics)
                if margin is not None and margin >= options.min_margin:
                    found.append((-margin, a, b))
        found.sort()
        pairs += [(p, a[1], b[1]) for _, a, b in found[: options.max_pairs_per_prompt]]
    return pairs


def normalised_scores(values, options, metrics, norm):
    out = {}
    for metric in metrics:
        value, sign = values[NAMES.index(metric.name)], 1.0 if metric.higher_is_better else -1.0
        if options.normalise:
            one = norm.find(metric.name)
            value = (value - one.mean) / one.std if one.std else 0.0
        out[metric.name] = sign * value
    return out


def ranks(normalised):
    out: dict = {key: {} for key in normalised}
    for key, mine in normalised.items():
        for name, value in mine.items():
            others = [other[name] for other in normalised.values()]
            below, equal = sum(o < value for o in others), sum(o == value for o in others)
            out[key][name] = below + (equal + 1) / 2
    return out


def mean(normalised_or_ranked, names):
    total = 0.0
    for name in names:
        total += normalised_or_ranked[name]
    return total / len(names)


def compare(a, b, normalised_or_ranked, normalised, options, metrics):
    """The margin by which a is preferred to b; None where it is not."""
    if options.strategy == "average":
        margin = mean(normalised_or_ranked[a], [m.name for m in metrics]) - mean(
            normalised_or_ranked[b], [m.name for m in metrics]
        )
        return margin if margin > 0 else None
    margins = []
    for dimension in Dimension:
        names = [m.name for m in metrics if m.dimension is dimension]
        margins.append(mean(normalised_or_ranked[a], names) - mean(normalised_or_ranked[b], names))
    if options.strategy == "strict":
        is_better = all(normalised[a][m.name] > normalised[b][m.name] for m in metrics)
    else:
        is_better = all(margin > 0 for margin in margins)
    return margins[0] + margins[1] + margins[2] if is_better else None


@settings(max_examples=50, deadline=None)
@given(population=POPULATION, options=SETTINGS, metrics=SUBSETS)
def test_every_strategy_agrees_with_the_rule_by_hand(make_tables, population, options, metrics):
    source = source_of(make_tables(population))
    norm = measure(read_matrix(source, METRICS), "all")
    selection = select_pairs(read_matrix(source, metrics), options, norm)
    expected = by_hand(population, options, metrics, norm)
    assert sides(selection) == [(f"p{p:03d}", f"c{p:03d}-{a}", f"c{p:03d}-{b}") for p, a, b in expected]


# --- missing numbers --------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(population=st.lists(st.lists(HOLES, min_size=2, max_size=4), min_size=1, max_size=4), options=SETTINGS)
def test_a_candidate_that_lacks_a_number_is_in_no_pair(make_tables, population, options):
    selection = select(make_tables(population), options)
    holes = {
        (f"c{p:03d}-{i}", name)
        for p, group in enumerate(population)
        for i, values in enumerate(group)
        for name, value in zip(NAMES, values, strict=True)
        if value is None or not math.isfinite(value)
    }
    lacking = {candidate for candidate, _ in holes}
    assert not lacking & {*selection.pairs["chosen"].to_pylist(), *selection.pairs["rejected"].to_pylist()}
    assert not lacking & set(selection.rewards["candidate_id"].to_pylist())
    listed = zip(selection.excluded["candidate_id"].to_pylist(), selection.excluded["metric"].to_pylist(), strict=True)
    assert set(listed) == holes
    together = set(selection.pairs["prompt_id"].to_pylist()) ^ set(selection.skipped["prompt_id"].to_pylist())
    assert together == {f"p{p:03d}" for p in range(len(population))}


def test_exclusions_say_why(make_tables, make_score):
    found = make_tables([[[1.0] * 7, [math.nan, *[2.0] * 6], [3.0] * 7, [4.0] * 7]])
    scores = found["scores"].to_pandas()
    scores = scores[(scores.candidate_id != "c000-0") | (scores.metric != "desync")]
    scores.loc[(scores.candidate_id == "c000-2") & (scores.metric == "text_audio"), ["status", "reason"]] = "skipped"
    scores.loc[(scores.candidate_id == "c000-3") & (scores.metric == "text_video"), ["status", "reason"]] = (
        "quarantined"
    )
    selection = select({**found, "scores": tables.to_arrow(tables.SCORES, scores)})
    assert [tuple(row.values()) for row in selection.excluded.to_pylist()] == [
        ("c000-0", "p000", "desync", "missing", ""),
        ("c000-1", "p000", "visual_quality", "not_finite", ""),
        ("c000-2", "p000", "text_audio", "skipped", "skipped"),
        ("c000-3", "p000", "text_video", "quarantined", "quarantined"),
    ]
    assert selection.skipped.to_pylist() == [
        {"prompt_id": "p000", "reason": "unscored", "detail": "4 of 4 candidates lack a score"}
    ]


def test_metrics_that_are_not_configured_are_not_missed(make_tables):
    without_text = tuple(metric for metric in METRICS if not metric.name.startswith("text"))
    population = [[[float(i), i, None, i, None, i, -i] for i in (1.0, 2.0)]]
    selection = select(make_tables(population), metrics=without_text)
    assert sides(selection) == [("p000", "c000-1", "c000-0")]
    assert selection.pairs["chosen_text_video"].to_pylist() == [None]
    assert select(make_tables(population)).skipped["reason"].to_pylist() == ["unscored"]


# --- why a prompt has no pair -----------------------------------------------------------------------------------------

GOOD, BAD = [2.0] * 6 + [0.0], [1.0] * 6 + [1.0]


def reason(found, **options):
    skipped = select(found, PairSettings(**options)).skipped
    assert skipped.num_rows == 1
    return skipped["reason"][0].as_py()


def test_reasons(make_tables):
    assert reason(make_tables([[]])) == "no_candidates"
    assert reason(make_tables([[GOOD]])) == "one_candidate"
    assert reason(make_tables([[GOOD]]), ground_truth=False) == "no_candidates"
    assert reason(make_tables([[GOOD, BAD]]), ground_truth=False) == "one_candidate"
    assert reason(make_tables([[GOOD, [*BAD[:6], None]]])) == "unscored"
    assert reason(make_tables([[GOOD, GOOD]])) == "no_dominance"
    assert reason(make_tables([[GOOD, BAD]]), normalise=False, min_margin=3.01) == "margin"
    assert reason(make_tables([[GOOD, BAD]]), max_aspect_ratio=0.6) == "shape"


def test_a_margin_at_the_bound_is_kept(make_tables):
    assert len(sides(select(make_tables([[GOOD, BAD]]), PairSettings(normalise=False, min_margin=3.0)))) == 1


def test_held_out_prompts_are_never_paired(make_tables):
    found = make_tables([[GOOD, BAD], [GOOD, BAD]])
    prompts = [Prompt(**row) for row in found["prompts"].to_pylist()]
    prompts[0] = replace(prompts[0], split=Split.HELD_OUT)
    selection = select({**found, "prompts": tables.to_arrow(tables.PROMPTS, prompts)})
    assert [pair[0] for pair in sides(selection)] == ["p001"]
    assert selection.skipped["reason"].to_pylist() == ["held_out"]
    assert selection.rewards.num_rows == 4


def test_without_a_prompt_table_every_candidate_counts(make_tables):
    found = make_tables([[GOOD, BAD], [GOOD]])
    selection = select({"candidates": found["candidates"], "scores": found["scores"]})
    assert [pair[0] for pair in sides(selection)] == ["p000"]
    assert selection.skipped["prompt_id"].to_pylist() == ["p001"]


def reshaped(found, candidates):
    return {**found, "candidates": tables.to_arrow(tables.CANDIDATES, candidates)}


def shapes(make_candidate, *sizes):
    return [make_candidate(0, index, "generated", *size) for index, size in enumerate(sizes)]


def test_the_side_with_fewer_pixels_gives_the_aspect_ratio(make_tables, make_candidate):
    found, options = make_tables([[GOOD, BAD]]), PairSettings(min_aspect_ratio=0.5, max_aspect_ratio=0.6)
    wide, square = (54, 96, 9), (96, 96, 9)
    assert sides(select(reshaped(found, shapes(make_candidate, wide, square)), options))
    assert sides(select(reshaped(found, shapes(make_candidate, square, wide)), options))
    assert not sides(select(reshaped(found, shapes(make_candidate, square, (108, 192, 9))), options))
    equal = shapes(make_candidate, (50, 100, 9), (100, 50, 9))
    assert not sides(select(reshaped(found, equal), PairSettings(max_aspect_ratio=1.0))), "ties: the rejected side's"
    assert not sides(select(reshaped(found, shapes(make_candidate, (50, 100, 9), (50, 100, 9))), options)), (
        "open bounds"
    )


def test_shape_is_looked_at_after_the_margin(make_tables, make_candidate):
    middle = [1.5] * 6 + [0.5]
    found = make_tables([[GOOD, middle, BAD]])
    candidates = shapes(make_candidate, (54, 96, 9), (54, 96, 9), (48, 48, 9))
    options = PairSettings(max_aspect_ratio=0.6)
    assert reason(reshaped(found, candidates), max_aspect_ratio=0.6) == "shape"
    several = select(reshaped(found, candidates), options.model_copy(update={"max_pairs_per_prompt": 3}))
    assert sides(several) == [("p000", "c000-0", "c000-1")]


def test_length_ratio(make_tables, make_candidate):
    found = reshaped(make_tables([[GOOD, BAD]]), shapes(make_candidate, (48, 64, 18), (48, 64, 9)))
    assert sides(select(found, PairSettings(max_length_ratio=2.0)))
    assert reason(found, max_length_ratio=1.9) == "length"


# --- determinism, ids, columns ----------------------------------------------------------------------------------------


def shuffled(table: pa.Table, seed: int) -> pa.Table:
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))


def gridded(prompts, seed=0):
    return np.random.default_rng(seed).integers(0, 4, size=(prompts, 4, 7)).astype(float).tolist()


@pytest.mark.parametrize("average", ["micro", "macro"])
@pytest.mark.parametrize("strategy", ["modality", "average", "strict"])
def test_row_order_and_threads_change_no_byte(make_tables, strategy, average):
    found = make_tables(gridded(900))
    options = PairSettings(strategy=strategy, average=average, max_pairs_per_prompt=2)
    first = select(found, options, threads=1)
    mixed = {name: shuffled(table, 1) for name, table in found.items()}
    second = select(mixed, options, threads=2)
    for name in ("pairs", "skipped", "excluded", "rewards"):
        assert tables.to_bytes(getattr(first, name)) == tables.to_bytes(getattr(second, name)), name
    assert first.norm == second.norm


def test_ranks_and_ids_of_several_pairs(make_tables):
    selection = select(make_tables([[GOOD, [1.5] * 6 + [0.5], BAD]]), PairSettings(max_pairs_per_prompt=3))
    assert selection.pairs["rank"].to_pylist() == [1, 2, 3]
    assert selection.pairs["margin_total"].to_pylist() == sorted(selection.pairs["margin_total"].to_pylist())[::-1]
    expected = [pair_id(chosen, rejected) for _, chosen, rejected in sides(selection)]
    assert selection.pairs["pair_id"].to_pylist() == expected


@settings(max_examples=10, deadline=None)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["C"]), min_size=1), min_size=2, max_size=2, unique=True)
)
def test_pair_ids_are_digests_of_any_two_names(make_tables, names):
    found = make_tables([[GOOD, BAD]])
    renamed = dict(zip(("c000-0", "c000-1"), names, strict=True))
    for name, table in (("candidates", tables.CANDIDATES), ("scores", tables.SCORES)):
        frame = found[name].to_pandas()
        frame["candidate_id"] = frame["candidate_id"].map(renamed)
        found[name] = tables.to_arrow(table, frame)
    assert select(found).pairs["pair_id"].to_pylist() == [pair_id(*names)]


def test_pairs_carry_both_sides_scores(make_tables):
    options = PairSettings(normalise=False)
    row = select(make_tables([[GOOD, BAD]]), options).pairs.to_pylist()[0]
    assert (row["chosen_desync"], row["chosen_desync_normalised"]) == (0.0, -0.0)
    assert (row["rejected_desync"], row["rejected_desync_normalised"]) == (1.0, -1.0)
    assert [row[f"rejected_{name}"] for name in NAMES] == BAD
    assert (row["margin_video"], row["margin_audio"], row["margin_av"], row["margin_total"]) == (1.0, 1.0, 1.0, 3.0)
    assert (row["chosen_origin"], row["rejected_origin"]) == ("ground_truth", "generated")
    assert (row["strategy"], row["norm_id"]) == ("modality-micro no-norm", "")


def test_direction_comes_from_the_metric(make_tables):
    upside_down = (*METRICS[:-1], replace(METRIC_BY_NAME["desync"], higher_is_better=True))
    assert sides(select(make_tables([[GOOD, [*BAD[:6], 0.0]], [GOOD, BAD]]), metrics=upside_down))[0][1] == "c000-0"
    assert select(make_tables([[GOOD, BAD]]), metrics=upside_down, chosen_settings=PairSettings(normalise=False)).pairs[
        "chosen_desync_normalised"
    ].to_pylist() in ([], [0.0])


def test_labels_name_whatever_is_not_the_default():
    assert strategy_label(PairSettings()) == "modality-micro"
    settings_ = PairSettings(strategy="strict", average="macro", ground_truth=False, min_margin=0.5, norm="n1")
    assert strategy_label(settings_) == "strict-macro no-gt min_margin=0.5"


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_a_dimension_without_metric_is_a_mistake(make_tables):
    with pytest.raises(ConfigError, match="'audio'"):
        select(make_tables([[GOOD, BAD]]), metrics=METRICS[:3] + METRICS[5:])


def test_doubled_metrics_and_names_that_cannot_be_columns_are_mistakes(make_tables):
    foreign = replace(METRIC_BY_NAME["desync"], dimension="speech")
    unnamed = Metric("loud ness", "dB", True, Dimension.AUDIO, SOUND)
    reserved = Metric("loudness", "dB", True, "total", SOUND)
    for metrics in ((*METRICS, METRICS[0]), (*METRICS[:6], foreign), (*METRICS, unnamed), (*METRICS, reserved)):
        with pytest.raises(ConfigError):
            select(make_tables([[GOOD, BAD]]), metrics=metrics)


@pytest.mark.parametrize("name", ["prompts", "candidates", "scores"])
def test_doubled_rows_are_refused(make_tables, name):
    found = make_tables([[GOOD, BAD]])
    with pytest.raises(TableError, match="doubled"):
        select({**found, name: pa.concat_tables([found[name], found[name].slice(0, 1)])})


@pytest.mark.parametrize(("name", "orphans"), [("prompts", "candidates"), ("candidates", "scores")])
def test_tables_that_do_not_belong_together_are_refused(make_tables, name, orphans):
    found = make_tables([[GOOD, BAD], [GOOD, BAD]])
    with pytest.raises(TableError, match=f"orphan {orphans}"):
        select({**found, name: found[name].slice(1)})
