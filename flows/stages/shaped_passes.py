"""One pass of a stage per shape of clips, with the units and counts of all passes together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from avpref.config.schema import Settings
from avpref.execution.contract import WorkerSpec
from avpref.execution.item_counts import ItemCounts
from avpref.execution.plan import StagePlan
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.shapes import settings_of, shape_name, shapes_of
from avpref.media.geometry import ClipShape
from avpref.storage.unit import ItemT, Unit
from avpref.storage.unit_files import CommittedUnits

MemberT = TypeVar("MemberT")


@dataclass(frozen=True)
class StagePass(Generic[ItemT]):
    """Plan, files, workers and reuse of one pass; see :func:`avpref.execution.run_units.run_stage`."""

    plan: StagePlan[ItemT]
    files: CommittedUnits
    spec: WorkerSpec[ItemT]
    reuse: Reuse[ItemT] | None = None


@dataclass(frozen=True)
class FinishedPasses(Generic[ItemT]):
    """The finished units of all passes, shape by shape, and the counts of each pass."""

    units: list[Unit[ItemT]]
    counts: tuple[ItemCounts, ...]


def run_by_shape(
    run: Run,
    members: Sequence[MemberT],
    shape_of: Callable[[MemberT], ClipShape],
    pass_of: Callable[[Settings, Sequence[MemberT]], StagePass[ItemT]],
) -> FinishedPasses[ItemT]:
    """Run one pass per shape of the run for the ``members`` of that shape; with one shape, one pass for all.

    ``pass_of(settings, members)`` makes a pass from the settings of a run of that shape; passes are named after their shape.
    Raises as :func:`avpref.execution.run_units.run_stage`.
    """
    shapes = shapes_of(run.settings)
    units: list[Unit[ItemT]] = []
    counts: list[ItemCounts] = []
    for shape in shapes:
        own = list(members) if len(shapes) == 1 else [member for member in members if shape_of(member) == shape]
        if not own and len(shapes) > 1:
            continue
        one = pass_of(settings_of(run.settings, shape), own)
        plan = one.plan if len(shapes) == 1 else replace(one.plan, name=f"{one.plan.name}-{shape_name(shape)}")
        finished = run_stage(run, plan, one.files, lambda spec=one.spec: spec, one.reuse, reporting.observer())
        units += finished.units
        counts.append(finished.counts)
    return FinishedPasses(units, tuple(counts))
