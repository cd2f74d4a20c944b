"""Score tables from nested lists of numbers, for all tests of this room."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pytest

from avpref.datasets.rows import ScoreRow
from avpref.datasets.tables import CANDIDATES, PROMPTS, SCORES, to_arrow
from avpref.domain import METRICS, Candidate, Metric, Origin, Prompt, ScoreStatus, Split

Values = Sequence[float | None]
Population = Sequence[Sequence[Values]]
Tables = dict[str, pa.Table]


def candidate(prompt: int, index: int, origin: Origin, height: int = 48, width: int = 64, frames: int = 9) -> Candidate:
    return Candidate(
        candidate_id=f"c{prompt:03d}-{index}",
        prompt_id=f"p{prompt:03d}",
        index=index,
        origin=origin,
        seed=index,
        checkpoint_hash="h",
        sampler_hash="h",
        path=f"clips/{prompt}-{index}.mp4",
        sha256="0" * 64,
        num_frames=frames,
        height_px=height,
        width_px=width,
        fps_hz=8.0,
        sample_rate_hz=8000,
        duration_s=frames / 8,
    )


def score(candidate_id: str, metric: str, value: float | None, status: str = "ok") -> ScoreRow:
    return ScoreRow(
        candidate_id, metric, value, ScoreStatus(status), "", "scorer", "f", 1.0, 0.0, "Apache-2.0", True, True
    )


def build(population: Population, ground_truth: bool = True, metrics: Sequence[Metric] = METRICS) -> Tables:
    """One prompt per entry, one candidate per inner entry, one value per metric; None leaves the row out.

    Index 0 is ground truth where ``ground_truth`` is true.
    """
    prompts, candidates, scores = [], [], []
    for prompt, group in enumerate(population):
        prompts.append(Prompt(f"p{prompt:03d}", f"text {prompt}", Split.TRAIN))
        for index, values in enumerate(group):
            origin = Origin.GROUND_TRUTH if ground_truth and index == 0 else Origin.GENERATED
            candidates.append(candidate(prompt, index, origin))
            named = zip(metrics, values, strict=True)
            scores += [score(candidates[-1].candidate_id, m.name, v) for m, v in named if v is not None]
    return {
        "prompts": to_arrow(PROMPTS, prompts),
        "candidates": to_arrow(CANDIDATES, candidates),
        "scores": to_arrow(SCORES, scores),
    }


@pytest.fixture(scope="session")
def make_tables() -> Callable[..., Tables]:
    return build


@pytest.fixture(scope="session")
def make_candidate() -> Callable[..., Candidate]:
    return candidate


@pytest.fixture(scope="session")
def make_score() -> Callable[..., ScoreRow]:
    return score
