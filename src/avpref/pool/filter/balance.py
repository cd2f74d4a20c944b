"""Quotas per category and diversity: which of the clips that pass all thresholds are one too many. numpy only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avpref.config.pool.filter_settings import QuotaSettings

Vectors = NDArray[np.float32]
ROUNDS = 25
QUOTA, DIVERSITY = "quota", "diversity"
BLOCK = 1024


@dataclass(frozen=True)
class Removal:
    """A clip that a quota or the diversity removes."""

    clip_id: str
    filter: str
    reason: str


def over_quota(ordered: Sequence[str], category_of: Mapping[str, str], settings: QuotaSettings) -> Iterator[Removal]:
    """The clips of each category beyond its quota; ``ordered`` has the preferred clips first."""
    sizes = Counter(category_of[clip_id] for clip_id in ordered)
    if not sizes:
        return
    limit = settings.max_clips or min(sizes.values())
    taken: dict[str, int] = defaultdict(int)
    for clip_id in ordered:
        category = category_of[clip_id]
        taken[category] += 1
        if taken[category] > limit:
            shown = category or "(no category)"
            yield Removal(clip_id, QUOTA, f"category {shown} has {sizes[category]} clips, {limit} are kept")


def clusters(clip_ids: Sequence[str], vectors: Vectors, number: int) -> dict[str, str]:
    """The cluster of each clip by k-means on its vector [N, D].

    It starts from the vector nearest to the mean and then from the vector farthest from all chosen ones, so it draws nothing.
    The result does not depend on the order of the clips.
    """
    order = np.argsort(np.array(clip_ids))
    points = vectors[order].astype(np.float64)
    labels = _labels(points, min(number, len(points)))
    width = len(str(number - 1))
    return {
        clip_ids[index]: f"cluster {label:0{width}d}"
        for index, label in zip(order.tolist(), labels.tolist(), strict=True)
    }


def _labels(points: NDArray[np.float64], number: int) -> NDArray[np.int_]:
    centres = [points[int(np.argmin(_distances(points, points.mean(axis=0))))]]
    nearest = _distances(points, centres[0])
    while len(centres) < number:
        centres.append(points[int(np.argmax(nearest))])
        nearest = np.minimum(nearest, _distances(points, centres[-1]))
    middle = np.stack(centres)
    labels = np.zeros(len(points), int)
    for number_of_round in range(ROUNDS):
        squares = np.stack([_distances(points, centre) for centre in middle], axis=1)
        new = np.argmin(squares, axis=1)
        if number_of_round and np.array_equal(new, labels):
            break
        labels = new
        middle = np.stack(
            [points[labels == k].mean(axis=0) if np.any(labels == k) else middle[k] for k in range(number)]
        )
    return labels


def _distances(points: NDArray[np.float64], centre: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.square(points - centre).sum(axis=1)


def too_similar(ordered: Sequence[str], vectors: Vectors, min_distance: float) -> Iterator[Removal]:
    """The clips that are closer than ``min_distance`` (cosine distance of their vectors [N, D]) to a preferred one that is kept."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    kept = np.empty(0, int)
    for start in range(0, len(ordered), BLOCK):
        block = np.arange(start, min(start + BLOCK, len(ordered)))
        distances, others = _nearest(units[block], units, kept)
        inside = 1.0 - units[block] @ units[block].T
        chosen: list[int] = []
        for row, index in enumerate(block.tolist()):
            distance, other = float(distances[row]), int(others[row])
            if chosen:
                own = inside[row, chosen]
                place = int(own.argmin())
                if own[place] < distance:
                    distance, other = float(own[place]), start + chosen[place]
            if distance < min_distance:
                yield Removal(ordered[index], DIVERSITY, f"at a distance of {distance:.4f} from {ordered[other]}")
            else:
                chosen.append(row)
        kept = np.concatenate([kept, start + np.array(chosen, int)])


def _nearest(block: Vectors, units: Vectors, kept: NDArray[np.int_]) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """The cosine distance of each vector of ``block`` to the nearest kept one, and the index of that; infinite without any."""
    if not len(kept):
        return np.full(len(block), np.inf), np.full(len(block), -1)
    distances = 1.0 - block @ units[kept].T
    return distances.min(axis=1).astype(np.float64), kept[distances.argmin(axis=1)]
