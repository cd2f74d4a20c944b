"""The stages of a run in their order, and their execution one after another.

    CURATION   prompts → sft → generate → score → pair → audit
    STAGES     CURATION → train → evaluate

Each stage takes the :class:`avpref.flows.run.Run`, computes only what is missing, and returns its counts. To insert a stage
of your own, decorate a function of the run with ``@stage("name")`` and pass your sequence to :func:`run_stages`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from avpref.execution.item_counts import ItemCounts, StageCounts
from avpref.execution.kept_actors import actors_kept
from avpref.execution.ray_session import ray_session
from avpref.flows.placement import require_devices
from avpref.flows.prefect import run_reporting as reporting
from avpref.flows.prefect.run_reporting import Stage
from avpref.flows.quarantine import spent_by
from avpref.flows.run import Run
from avpref.flows.stages.audit import audit
from avpref.flows.stages.evaluate import evaluate
from avpref.flows.stages.generate import generate
from avpref.flows.stages.pair import pair
from avpref.flows.stages.prompts import prompts
from avpref.flows.stages.score import score
from avpref.flows.stages.sft import sft
from avpref.flows.stages.train import train
from avpref.observability.run_status import publish_pairs, publishing, publishing_stage
from avpref.reports.report_data import StageTime

CURATION = (prompts, sft, generate, score, pair, audit)
"""From prompts to audited pairs."""
STAGES = (*CURATION, train, evaluate)
"""The whole loop."""


@contextmanager
def owned(run: Run, wait: bool = False) -> Iterator[None]:
    """Own the run's folder and any Ray session that is started in the block; log its beginning and end.

    Raises StorageError where another command owns the run, unless ``wait`` says to wait for it.
    """
    started = time.monotonic()
    with run.locked(wait), ray_session(), actors_kept(), publishing(run):
        run.events.write("started")
        yield
        run.events.write("finished", seconds=round(time.monotonic() - started, 3))


def run_stages(run: Run, stages: Sequence[Stage[Run]]) -> tuple[list[StageTime], list[ItemCounts]]:
    """Run ``stages`` one after another; returns the time of each, and the counts of all items.

    Raises ConfigError before the first stage where the device of any stage cannot be had.
    """
    require_devices(run.settings)
    times: list[StageTime] = []
    items: list[ItemCounts] = []
    for stage in stages:
        stage_time, counts = run_timed(run, stage)
        times.append(stage_time)
        items += counts.items
    return times, items


def run_timed(run: Run, stage: Stage[Run]) -> tuple[StageTime, StageCounts]:
    """Run one stage; log and publish its time and counts."""
    started = time.monotonic()
    with publishing_stage(run, stage.name):
        counts: StageCounts = stage(run)
    own = counts.of(stage.name)
    stage_time = StageTime(
        name=stage.name,
        seconds=round(time.monotonic() - started, 3),
        rows=counts.rows,
        made=sum(count.made for count in own),
        present=sum(count.present for count in own),
        reused=sum(count.num_reused for count in own),
    )
    values = dict(vars(stage_time))
    run.events.write("stage_finished", stage=values.pop("name"), **values)
    reporting.note(f"{stage.name}: {counts.rows} rows, {stage_time.seconds:.1f} s")
    spent = spent_by(run)
    publish_pairs(spent.kept_pairs, run.observe.currency, spent.cost_per_kept_pair)
    return stage_time, counts


def explain(run: Run, items: Sequence[ItemCounts], is_change: bool) -> list[str]:
    """One sentence per stage and kind of item; printed and logged where there was nothing to do."""
    why = [counts.sentence for counts in items]
    if not is_change:
        reporting.note(f"nothing to do: {'; '.join(why)}")
        run.events.write("nothing_to_do", why=why)
    return why
