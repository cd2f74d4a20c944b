"""Results per category of an aspect: every column over the clips that carry the category's label, with several labels in each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from avpref.bench.clips.prompt_rows import Labels
from avpref.bench.measures.column_values import ColumnRows, ColumnValue, column_value
from avpref.bench.measures.intervals import BootstrapPlan
from avpref.bench.preset_files import AspectCategories, Column

POINT = BootstrapPlan(mean_samples=200, distance_samples=2)
"""Categories have intervals of means alone: a distance of a part of the clips is small-sample as it is."""


@dataclass(frozen=True)
class CategoryResult:
    """A category of an aspect: its clips, and a value per column."""

    aspect: str
    category: str
    num_clips: int
    columns: Mapping[str, ColumnValue]

    def document(self) -> dict[str, Any]:
        """Plain values, for JSON: the categories without a clip have null in every column."""
        values = {
            name: {"value": value.value, "num_clips": value.num_clips, "reason": value.reason}
            for name, value in self.columns.items()
        }
        return {"aspect": self.aspect, "category": self.category, "num_clips": self.num_clips, "columns": values}


def category_results(
    aspects: Sequence[AspectCategories],
    labels: Mapping[str, Mapping[str, Labels]],
    columns: Sequence[tuple[Column, ColumnRows]],
    plan: BootstrapPlan,
) -> list[CategoryResult]:
    """Results of every category; ``labels`` are those of each sample by its key, by the aspect's column."""
    results = []
    small = replace(plan, mean_samples=POINT.mean_samples, distance_samples=POINT.distance_samples)
    for aspect in aspects:
        for index, category in enumerate(aspect.categories):
            keys = [key for key, own in labels.items() if index in own.get(aspect.column, ())]
            values = {column.name: _of_keys(column, rows, keys, small) for column, rows in columns}
            results.append(CategoryResult(aspect.aspect, category, len(keys), values))
    return results


def _of_keys(column: Column, rows: ColumnRows, keys: Sequence[str], plan: BootstrapPlan) -> ColumnValue:
    if not keys:
        return ColumnValue(column.name, None, "no clip of this category")
    reference = None if rows.reference is None else rows.reference.of(keys)
    return column_value(column, ColumnRows(rows.generated.of(keys), reference, rows.takes_smaller), plan)
