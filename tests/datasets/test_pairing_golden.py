"""Parity with the published ranking, pair for pair. Everything is read from the folder of vectors."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from avpref.config.pairs_settings import PairSettings
from avpref.datasets import tables
from avpref.datasets.selection.normalise import measure
from avpref.datasets.selection.pairing import select_pairs
from avpref.datasets.selection.score_matrix import read_matrix
from avpref.datasets.selection.selection_source import source_of
from avpref.domain import METRICS, Origin

pytestmark = pytest.mark.golden

COLUMNS = {"ib_tv": "text_video", "ib_ta": "text_audio", "ib_av": "audio_video", "desync_scores": "desync"}
PUBLISHED_SHAPE = {"min_aspect_ratio": 0.5, "max_aspect_ratio": 0.6}


@pytest.fixture(scope="module")
def published(golden) -> pd.DataFrame:
    """The original's rows with our ids: prompts are numbered in order of appearance, so sorted ids keep that order."""
    frame = pd.read_csv(golden / "rank_scores.csv").rename(columns=COLUMNS)
    order = frame.groupby("path", sort=False)
    return frame.assign(
        prompt_id="p" + order.ngroup().map("{:08d}".format),
        index=order.cumcount(),
        candidate_id=frame.pred_video_path,
        origin=(frame.pred_video_path == frame.path).map({True: Origin.GROUND_TRUTH, False: Origin.GENERATED}),
    )


@pytest.fixture(scope="module")
def matrix(published):
    candidates = published.assign(
        seed=0,
        checkpoint_hash="",
        sampler_hash="",
        sha256="",
        num_frames=published.pred_num_frames,
        height_px=published.pred_height,
        width_px=published.pred_width,
        fps_hz=published.fps.astype(float),
        sample_rate_hz=published.audio_fps,
        duration_s=published.pred_num_frames / published.fps,
        adapter_hash="",
        sampler="",
        latents_path="",
        elapsed_s=0.0,
    )
    names = [metric.name for metric in METRICS]
    scores = published.melt("candidate_id", names, "metric").assign(
        status="ok",
        reason="",
        scorer="",
        fingerprint="",
        elapsed_ms=0.0,
        gpu_s=0.0,
        licence="",
        commercial_use=True,
        is_meaningful=True,
    )
    return read_matrix(
        source_of(
            {
                "candidates": tables.to_arrow(tables.CANDIDATES, candidates),
                "scores": tables.to_arrow(tables.SCORES, scores),
            }
        ),
        METRICS,
    )


def expectations(golden):
    return json.loads((golden / "rank_pairs.json").read_text())


def as_settings(name: str, min_aspect_ratio: float, max_aspect_ratio: float) -> PairSettings:
    options = dict(part.split("=") for part in name.split(","))
    return PairSettings.model_validate(
        {
            "normalise": options["norm"] == "True",
            "average": options["average"],
            "ground_truth": options["without_gt"] == "False",
            "min_aspect_ratio": min_aspect_ratio,
            "max_aspect_ratio": max_aspect_ratio,
        }
    )


def test_pairs_are_those_of_the_original(golden, published, matrix):
    norm = measure(matrix, "all")
    ids = dict(zip(published.pred_video_path, published.id, strict=True))
    for name, expected in expectations(golden).items():
        selection = select_pairs(matrix, as_settings(name, **PUBLISHED_SHAPE), norm)
        sides = zip(selection.pairs["chosen"].to_pylist(), selection.pairs["rejected"].to_pylist(), strict=True)
        found = [[ids[chosen], chosen, rejected] for chosen, rejected in sides]
        assert sorted(found) == sorted(expected), name
        assert selection.pairs.num_rows + selection.skipped.num_rows == published.path.nunique()


def test_statistics_are_those_of_the_original(published, matrix):
    for one in measure(matrix, "all").metrics:
        assert one.mean == pytest.approx(published[one.metric].mean(), rel=1e-14)
        assert one.std == pytest.approx(published[one.metric].std(), rel=1e-14)


def test_bounds_beside_the_published_shapes_leave_no_pair(golden, published, matrix):
    largest = float((published.pred_height / published.pred_width).max())
    norm = measure(matrix, "all")
    for name in expectations(golden):
        settings = as_settings(name, min_aspect_ratio=largest, max_aspect_ratio=largest + 1)
        selection = select_pairs(matrix, settings, norm)
        assert not selection.pairs.num_rows
        reasons = selection.skipped["reason"].to_pylist()
        assert reasons.count("shape") >= len(expectations(golden)[name])
