"""Distances and class scores against the numbers of the published tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from avpref.datasets.distances.class_probabilities import divergence, inception_score
from avpref.datasets.distances.frechet import frechet_distance, moments
from avpref.datasets.distances.kernel_distance import SubsetSettings, kernel_distance, kernel_inception_distance
from avpref.errors import InputError

pytestmark = pytest.mark.golden
Arrays = dict[str, np.ndarray]


@pytest.fixture
def tools(golden: Path) -> tuple[dict[str, Any], Arrays]:
    folder = golden / "evaluation" / "reductions"
    arrays = {name: values.astype(np.float32) for name, values in np.load(folder / "io.npz").items()}
    return json.loads((folder / "config.json").read_text()), arrays


@pytest.fixture
def javisbench(golden: Path) -> tuple[dict[str, Any], Arrays]:
    folder = golden / "javisbench"
    return json.loads((folder / "distribution.json").read_text()), dict(np.load(folder / "distribution.npz"))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    return frechet_distance(moments(first), moments(second))


def test_frechet_distance_of_both_tools(tools: tuple[dict[str, Any], Arrays]) -> None:
    config, arrays = tools
    for case in config["fd"]:
        name = case["case"]
        own = distance(arrays[f"fd_{name}_pred"], arrays[f"fd_{name}_gt"])
        assert own == pytest.approx(case["av_benchmark"], rel=1e-5, abs=1e-6), name


def test_inception_score_of_both_tools(tools: tuple[dict[str, Any], Arrays]) -> None:
    config, arrays = tools
    for case in config["isc"]:
        logits = arrays[f"isc_{case['case']}"]
        if case["av_benchmark"]["inception_score_mean"] is None:
            with pytest.raises(InputError, match="at least 10 clips"):
                inception_score(logits)
            continue
        own = inception_score(logits)
        assert own.mean == pytest.approx(case["av_benchmark"]["inception_score_mean"], abs=1e-9)
        assert own.std == pytest.approx(case["av_benchmark"]["inception_score_std"], abs=1e-9)


def test_divergence_of_each_tool(tools: tuple[dict[str, Any], Arrays]) -> None:
    config, arrays = tools
    for case in config["kl"]:
        name = case["case"]
        generated, reference = arrays[f"kl_{name}_pred"], arrays[f"kl_{name}_gt"]
        for activation in ("softmax", "sigmoid"):
            exact = divergence(generated, reference, "av_benchmark", activation)
            assert exact == pytest.approx(case["av_benchmark"][f"kl_{activation}"], rel=1e-5)
            offset = divergence(generated, reference, "audioldm_eval", activation)
            expected = case["audioldm_eval"][f"kullback_leibler_divergence_{activation}"]
            assert offset == pytest.approx(expected, rel=1e-5)


def test_kernel_inception_distance_of_both_tools(tools: tuple[dict[str, Any], Arrays]) -> None:
    config, arrays = tools
    for case in config["kid"]:
        name = case["case"]
        settings = SubsetSettings(case["subsets"], case["subset_size"], case["rng_seed"])
        mean, std = kernel_inception_distance(arrays[f"fd_{name}_pred"], arrays[f"fd_{name}_gt"], settings)
        assert mean == pytest.approx(case["av_benchmark"]["kernel_inception_distance_mean"], abs=1e-5)
        assert std == pytest.approx(case["av_benchmark"]["kernel_inception_distance_std"], abs=1e-5)


def test_frechet_and_kernel_distance_of_javisbench(javisbench: tuple[dict[str, Any], Arrays]) -> None:
    config, arrays = javisbench
    for case in config["frechet_cases"]:
        real, fake = arrays[f"{case['case']}_real"], arrays[f"{case['case']}_fake"]
        assert distance(real, fake) == pytest.approx(case["frechet_float64"], rel=1e-9)
        assert distance(real, fake) == pytest.approx(case["frechet"], rel=2e-4)
        assert kernel_distance(real, fake, centred=False) == pytest.approx(case["kvd_float64"], abs=1e-9)
        assert kernel_distance(real, fake, centred=True) == pytest.approx(case["kvd_centred"], abs=1e-5)


def test_the_whole_step_of_javisbench_on_selected_rows(javisbench: tuple[dict[str, Any], Arrays]) -> None:
    config, arrays = javisbench
    video, sound = (tuple(arrays[f"{name}_{side}"] for side in ("real", "fake")) for name in ("d400", "d1024"))
    for case in config["pipeline_cases"]:
        rows = slice(None) if case["rows"] is None else case["rows"]
        (real, fake), (real_sound, fake_sound) = ([side[rows] for side in pair] for pair in (video, sound))
        assert distance(real, fake) == pytest.approx(case["fvd_float64"], rel=1e-9)
        assert config["fad_scale"] * distance(real_sound, fake_sound) == pytest.approx(case["fad_float64"], rel=1e-9)
        assert kernel_distance(real, fake, centred=True) == pytest.approx(case["kvd"], abs=1e-5)
        uncentred = kernel_distance(real, fake, centred=False)
        assert uncentred == pytest.approx(case["kvd_on_uncentred_features"], abs=1e-5)
