"""Flow ``retrain``, the whole loop: prompts → SFT → candidates → scores → pairs → AV-DPO → evaluation → gate → report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect import Flow, flow

from avpref import config
from avpref.cluster import ray_session
from avpref.datasets import tables
from avpref.datasets.rows import QuarantineRow
from avpref.domain import SCHEMA_VERSION, Split
from avpref.errors import InputError
from avpref.flows import reporting
from avpref.flows.dpo import dpo, training_summary
from avpref.flows.evaluate import VERDICT_FILE, evaluate
from avpref.flows.generate import generate
from avpref.flows.pair import pair
from avpref.flows.prompts import prompts, read_prompts
from avpref.flows.registry import record_adapter, scorers_of
from avpref.flows.run_folder import RESULT_FILE, RunFolder, create
from avpref.flows.score import score
from avpref.flows.sft import sft
from avpref.logs import say
from avpref.moments import Moment, reached

CURATION = (prompts, sft, generate, score, pair)
"""From prompts to pairs, in order; each is a flow of its own that takes the run's folder and returns a row count."""
STAGES = (*CURATION, dpo, evaluate)
"""The whole loop, in order."""


@dataclass(frozen=True)
class StageTime:
    """How long a stage took in this execution, and how many rows its result has."""

    name: str
    seconds: float
    rows: int


@flow(name="retrain", persist_result=False, validate_parameters=False)
def retrain(
    config_path: str,
    runs: str = "runs",
    seed: int | None = None,
    overrides: list[str] | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Run the whole loop for a configuration file; returns the result document. Deployments call this.

    With ``wait`` a run that another command works on is waited for.
    """
    return run_loop(_folder(config_path, runs, seed, overrides), wait)


@flow(name="curate", persist_result=False, validate_parameters=False)
def curate(
    config_path: str, runs: str = "runs", seed: int | None = None, overrides: list[str] | None = None
) -> dict[str, Any]:
    """Prompts to pairs, for a schedule: only what is missing is done. Returns stages and the number of pairs."""
    folder = _folder(config_path, runs, seed, overrides)
    with _owned(folder):
        times = _run(folder, CURATION)
        seal_quarantine(folder)
    return {"run_id": folder.run_id, "stages": [asdict(each) for each in times], "pairs": folder.num_rows(tables.PAIRS)}


def run_loop(folder: RunFolder, wait: bool = False) -> dict[str, Any]:
    """Every stage of ``folder``'s run, each doing only what is missing; returns the result document.

    With ``wait`` another command that owns the run is waited for. Raises the stages' errors; what was finished stays finished.
    """
    with _owned(folder, wait):
        times = _run(folder, STAGES)
        seal_quarantine(folder)
        document = result(folder, times)
        record_adapter(folder, document)
        reached(Moment.RESULT_DUE)
        folder.write_json(RESULT_FILE, document)
        times.append(_timed(folder, "report", lambda: _report(folder)))
        document["stages"] = [asdict(each) for each in times]
        folder.write_json(RESULT_FILE, document)
    return document


def _folder(config_path: str, runs: str, seed: int | None, overrides: list[str] | None) -> RunFolder:
    given = list(overrides or []) + ([f"run.seed={seed}"] if seed is not None else [])
    return create(Path(runs), config.load(config_path, given).settings)


@contextmanager
def _owned(folder: RunFolder, wait: bool = False) -> Iterator[None]:
    """Own the run's folder and whatever Ray session is started, and log beginning and end."""
    started = time.monotonic()
    with folder.locked(wait), ray_session():
        folder.events.write("started", run=folder.run_id)
        yield
        folder.events.write("finished", seconds=round(time.monotonic() - started, 3))


def _run(folder: RunFolder, stages: Sequence[Flow[..., int]]) -> list[StageTime]:
    return [_timed(folder, stage.name, partial(reporting.call, stage, str(folder.root))) for stage in stages]


def _timed(folder: RunFolder, name: str, work: Callable[[], int]) -> StageTime:
    started = time.monotonic()
    folder.events.write("stage_started", stage=name)
    rows = work()
    took = StageTime(name, round(time.monotonic() - started, 3), rows)
    folder.events.write("stage_finished", stage=name, seconds=took.seconds, rows=rows)
    say(f"{name}: {rows} rows, {took.seconds:.1f} s")
    return took


def _report(folder: RunFolder) -> int:
    from avpref.flows.report import write_report

    return write_report(folder)


def quarantined(folder: RunFolder) -> list[QuarantineRow]:
    """Everything that any stage gave up on so far."""
    names = (
        "refused.json",
        "quarantine-sft.json",
        "quarantine-generate.json",
        "quarantine-score.json",
        "quarantine-evaluate.json",
    )
    return [QuarantineRow(**row) for name in names for row in folder.read_json(name) or []]


def seal_quarantine(folder: RunFolder) -> None:
    """Write the quarantine table, and show it where the run reports to a server."""
    lost = quarantined(folder)
    folder.seal(tables.QUARANTINE, "", tables.to_arrow(tables.QUARANTINE, lost))
    reporting.table("quarantine", [asdict(row) for row in lost], f"{len(lost)} given up on, with the reason")


def result(folder: RunFolder, times: list[StageTime]) -> dict[str, Any]:
    """The result document of a finished run: what ``retrain --json`` prints."""
    verdict = folder.read_json(VERDICT_FILE)
    if verdict is None:
        raise InputError(
            f"run {folder.run_id} is not finished", "an evaluated run", f"avpref runs resume {folder.run_id}"
        )
    summary = training_summary(folder)
    train = [prompt for prompt in read_prompts(folder) if prompt.split == Split.TRAIN]
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.run_id,
        "run_dir": str(folder.root),
        "seed": folder.settings.run.seed,
        "stages": [asdict(each) for each in times],
        "scorers": scorers_of(folder),
        "pairs": {"prompts": len(train), "kept": folder.num_rows(tables.PAIRS), "strategy": _strategy(folder)},
        "training": {
            "steps": summary.steps,
            "displacement": vars(summary.displacement),
            "drift": vars(summary.drift),
            "implicit_accuracy": vars(summary.implicit_accuracy),
        },
        "evaluation": verdict["evaluation"],
        "gate": {"verdict": verdict["gate"]["verdict"], "reasons": verdict["gate"]["reasons"]},
        "quarantined": len(quarantined(folder)),
    }


def _strategy(folder: RunFolder) -> str:
    rows = folder.read(tables.PAIRS)
    return rows["strategy"][0].as_py() if rows.num_rows else folder.settings.pairs.strategy


def resume(runs: Path, run: str, wait: bool = False) -> dict[str, Any]:
    """Go on with a run as its folder says."""
    from avpref.flows.run_folder import open_run

    return run_loop(open_run(runs, run), wait)
