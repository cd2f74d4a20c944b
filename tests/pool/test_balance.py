"""Quotas, clusters and diversity from kept numbers alone; none depends on the order of the clips."""

from __future__ import annotations

import numpy as np
import pytest

from avpref.config.pool.filter_settings import QuotaSettings
from avpref.pool.filter.balance import BLOCK, clusters, over_quota, too_similar

RANDOM = np.random.default_rng(5)


def test_a_quota_keeps_the_preferred_clips_of_each_category() -> None:
    category_of = {"a": "x", "b": "x", "c": "x", "d": "y"}
    removed = list(over_quota(["c", "a", "b", "d"], category_of, QuotaSettings(by="taxonomy", max_clips=2)))
    assert [(removal.clip_id, removal.filter) for removal in removed] == [("b", "quota")]
    assert "category x has 3 clips, 2 are kept" in removed[0].reason
    smallest = over_quota(["c", "a", "b", "d"], category_of, QuotaSettings(by="taxonomy"))
    assert [removal.clip_id for removal in smallest] == ["a", "b"]


def test_clusters_are_those_of_the_points_whatever_their_order() -> None:
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    labels = RANDOM.integers(0, 3, 60)
    points = (centres[labels] + RANDOM.normal(0, 0.3, (60, 2))).astype(np.float32)
    ids = [f"k{number:02d}" for number in range(60)]
    named = clusters(ids, points, 3)
    assert len({(named[clip_id], label) for clip_id, label in zip(ids, labels.tolist(), strict=True)}) == 3
    order = RANDOM.permutation(60)
    assert clusters([ids[index] for index in order], points[order], 3) == named
    assert len(set(clusters(ids[:2], points[:2], 8).values())) <= 2


@pytest.mark.parametrize("number", [40, BLOCK + 50])
def test_every_removed_clip_is_near_a_kept_one_and_kept_ones_are_apart(number: int) -> None:
    vectors = RANDOM.normal(size=(number, 6)).astype(np.float32)
    ids, limit = [f"k{index}" for index in range(number)], 0.15
    removed = {removal.clip_id: removal.reason for removal in too_similar(ids, vectors, limit)}
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = np.array([clip_id not in removed for clip_id in ids])
    distances = 1.0 - units @ units[kept].T
    assert kept[0] and 0 < len(removed) < number
    assert np.all(distances[~kept].min(axis=1) < limit + 1e-5)
    among = 1.0 - units[kept] @ units[kept].T
    assert among[~np.eye(len(among), dtype=bool)].min() >= limit - 1e-5
    index, reason = next((ids.index(clip_id), reason) for clip_id, reason in removed.items())
    other = ids.index(reason.rpartition(" ")[2])
    assert kept[other] and 1.0 - float(units[index] @ units[other]) < limit + 1e-4
