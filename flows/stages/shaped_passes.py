"""One pass of a stage per shape of clips, with the units and counts of all passes together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

from avpref.config.schema import Settings
from avpref.execution.contract import WorkerSpec
from avpref.execution.item_counts import ItemCounts
from avpref.execution.plan import StagePlan
from avpref.execution.reuse import Reuse
from avpref.execution.run_units import FinishedUnits, run_stage
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.run import Run
from avpref.flows.shapes import settings_of, shape_name
from avpref.flows.stages.same_base import on_same_base
from avpref.flows.workers.prompt_sources import clip_shape, shapes_of
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
    units: list[Unit[ItemT]] = []
    counts: list[ItemCounts] = []
    for settings, own in members_by_shape(run, members, shape_of):
        one = pass_of(settings, own)
        plan = replace(one.plan, name=one.plan.name + pass_suffix(run.settings, settings))
        finished = finish(run, replace(one, plan=plan))
        units += finished.units
        counts.append(finished.counts)
    return FinishedPasses(units, tuple(counts))


def finish(run: Run, stage_pass: StagePass[ItemT]) -> FinishedUnits[ItemT]:
    """Run one pass. Raises as :func:`avpref.execution.run_units.run_stage`."""
    spec = partial(on_same_base, stage_pass.spec, run.settings)
    return run_stage(run, stage_pass.plan, stage_pass.files, spec, stage_pass.reuse, reporting.observer())


def members_by_shape(
    run: Run, members: Sequence[MemberT], shape_of: Callable[[MemberT], ClipShape]
) -> list[tuple[Settings, list[MemberT]]]:
    """The ``members`` of each shape with the settings of a run of that shape; shapes without members are left out, unless it is one."""
    shapes = shapes_of(run.settings)
    if len(shapes) == 1:
        return [(settings_of(run.settings, shapes[0]), list(members))]
    groups = [(settings_of(run.settings, shape), [m for m in members if shape_of(m) == shape]) for shape in shapes]
    return [(settings, own) for settings, own in groups if own]


def pass_suffix(settings: Settings, own: Settings) -> str:
    """The end of the name of a pass: the shape of ``own``, where the run of ``settings`` has several; otherwise nothing."""
    return f"-{shape_name(clip_shape(own))}" if len(settings.clip.shapes) > 1 else ""
