"""The rows of a set that a column is computed from: values, the clip that each row belongs to, and the clips without any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from avpref.bench.features.feature_files import Result


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """``values`` [R, D]; ``owner`` [R], ascending, is the position in ``keys`` of the clip of each row.

    Clips without rows are in ``lost``.

    ``remarks``: clips whose features come with a remark, by key.
    """

    keys: tuple[str, ...]
    values: NDArray[np.floating]
    owner: NDArray[np.int64]
    lost: tuple[tuple[str, str], ...] = ()
    remarks: tuple[tuple[str, str], ...] = ()

    @property
    def num_clips(self) -> int:
        """Number of clips with rows."""
        return len(self.keys)

    def of(self, keys: Sequence[str]) -> FeatureRows:
        """The rows of the clips ``keys``, in their order; clips without rows are left out."""
        position = {key: index for index, key in enumerate(self.keys)}
        kept = [key for key in keys if key in position]
        starts = np.searchsorted(self.owner, np.arange(len(self.keys) + 1))
        parts = [np.arange(starts[position[key]], starts[position[key] + 1]) for key in kept]
        rows = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        owner = np.repeat(np.arange(len(kept)), [len(part) for part in parts]).astype(np.int64)
        wanted = set(keys)
        return FeatureRows(
            tuple(kept),
            self.values[rows],
            owner,
            tuple(entry for entry in self.lost if entry[0] in wanted),
            tuple(entry for entry in self.remarks if entry[0] in wanted),
        )

    def first(self, num_clips: int) -> FeatureRows:
        """The rows of the first ``num_clips`` clips."""
        return self.of(self.keys[:num_clips])


def rows_of(results: Sequence[tuple[str, Result]]) -> FeatureRows:
    """Rows from a result per clip key, in order."""
    kept = [(key, result) for key, result in results if result.values is not None]
    arrays = [np.asarray(result.values) for _, result in kept]
    width = arrays[0].shape[1] if arrays else 0
    values = np.concatenate(arrays) if arrays else np.zeros((0, width), np.float32)
    owner = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays]).astype(np.int64)
    lost = tuple((key, result.reason) for key, result in results if result.values is None)
    remarks = tuple((key, result.reason) for key, result in kept if result.reason)
    return FeatureRows(tuple(key for key, _ in kept), values, owner, lost, remarks)
