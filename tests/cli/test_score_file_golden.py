"""The published ranking's own scores, given as a file: the command line selects its pairs, in every setting."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from avpref.domain import METRICS

pytestmark = pytest.mark.golden

COLUMNS = {
    "ib_tv": "text_video",
    "ib_ta": "text_audio",
    "ib_av": "audio_video",
    "desync_scores": "desync",
    "pred_height": "height_px",
    "pred_width": "width_px",
    "pred_num_frames": "num_frames",
}
PUBLISHED_SHAPE = ("--set", "pairs.min_aspect_ratio=0.5", "--set", "pairs.max_aspect_ratio=0.6")


@pytest.fixture(scope="module")
def published(golden) -> pd.DataFrame:
    frame = pd.read_csv(golden / "rank_scores.csv").rename(columns=COLUMNS)
    return frame.assign(
        candidate_id=frame.pred_video_path,
        prompt_id=frame.path,
        index=frame.groupby("path", sort=False).cumcount(),
        origin=(frame.pred_video_path == frame.path).map({True: "ground_truth", False: "generated"}),
    )


@pytest.fixture(scope="module", params=["wide.csv", "long.parquet"])
def score_file(request, published, tmp_path_factory):
    rest = ["candidate_id", "prompt_id", "origin", "index", "height_px", "width_px", "num_frames"]
    names = [metric.name for metric in METRICS]
    path = tmp_path_factory.mktemp("published") / request.param
    if path.suffix == ".csv":
        published[rest + names].to_csv(path, index=False)
    else:
        published.melt(rest, names, "metric").to_parquet(path)
    return path


def overrides(name: str) -> list[str]:
    options = dict(part.split("=") for part in name.split(","))
    given = {
        "normalise": options["norm"].lower(),
        "average": options["average"],
        "ground_truth": str(options["without_gt"] == "False").lower(),
    }
    return [part for key, value in given.items() for part in ("--set", f"pairs.{key}={value}")]


def test_a_file_of_published_scores_gives_the_published_pairs(call, golden, published, score_file):
    ids = dict(zip(published.path, published.id, strict=True))
    for name, expected in json.loads((golden / "rank_pairs.json").read_text()).items():
        answer = call("pairs", "select", "--scores", score_file, *overrides(name), *PUBLISHED_SHAPE, "--json")
        assert answer.code == 0
        found = {(ids[pair["prompt_id"]], pair["chosen"], pair["rejected"]) for pair in answer.document["pairs"]}
        assert found == {tuple(pair) for pair in expected}, name
