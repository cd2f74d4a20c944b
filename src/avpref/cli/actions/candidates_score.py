"""The work of ``avpref candidates score``: the clips of a run, or any list of clips, through any scorers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avpref.cli.actions.stage_runs import present, run_stage
from avpref.cli.output import print_facts, print_json, print_line, print_table
from avpref.config.loading import load_sections
from avpref.config.schema import ScoreJob
from avpref.datasets import tables
from avpref.errors import PartialResult
from avpref.execution.ray_session import ray_session
from avpref.flows.score_clips import ClipScores, score_clip_list
from avpref.flows.stages.score import score
from avpref.flows.workers.scorers import overrides_of, sources
from avpref.storage.run_folder import RunFolder

MEANINGLESS = "random weights: no number below says anything about quality"


def score_run(folder: RunFolder, as_json: bool) -> int:
    """Score the unscored candidates of ``folder``. Exit code 5 where candidates were quarantined."""
    rows = run_stage(folder, score)
    return present(folder, {"stage": "score", "scores": rows}, {"score"}, as_json)


def score_clips(
    clips: Path, scorers: str, window_s: float | None, runs: Path, overrides: Sequence[str], as_json: bool
) -> int:
    """Score the clips and print the wide table. Exit code 5 where clips could not be read."""
    job = load_sections(ScoreJob, [*_overrides(scorers, window_s), *overrides])
    with ray_session():
        folder, lost = score_clip_list(clips, job, runs)
    document = {
        "scores_dir": str(folder.root),
        "window_s": folder.window_s,
        "scorers": [_scorer(source) for source in sources(job.scoring, job.executor)],
        "clips": _clips(folder),
        "quarantined": [vars(row) for row in lost],
    }
    print_json(document) if as_json else _print(document)
    return PartialResult.exit_code if lost else 0


def _overrides(scorers: str, window_s: float | None) -> list[str]:
    of_window = [f"scoring.window_s={window_s}"] if window_s is not None else []
    return [*(overrides_of(scorers) if scorers else []), *of_window]


def _scorer(source: Any) -> dict[str, Any]:
    return {"name": source.name, "fingerprint": source.fingerprint, **vars(source.terms)}


def _clips(folder: ClipScores) -> list[dict[str, Any]]:
    """One document per clip: values by metric, reasons by metric where there is no value, milliseconds in total."""
    scores = folder.tables.read(tables.SCORES).to_pylist()
    text = {row["prompt_id"]: row["text"] for row in folder.tables.read(tables.PROMPTS).to_pylist()}
    clips = {}
    for row in folder.tables.read(tables.CANDIDATES).to_pylist():
        clips[row["candidate_id"]] = {
            "candidate_id": row["candidate_id"],
            "file": row["path"],
            "text": text[row["prompt_id"]],
            "scores": {},
            "reasons": {},
            "elapsed_ms": 0.0,
            "gpu_s": 0.0,
        }
    for row in scores:
        clip = clips[row["candidate_id"]]
        clip["scores"][row["metric"]] = row["value"]
        if row["reason"]:
            clip["reasons"][row["metric"]] = row["reason"]
        clip["elapsed_ms"] += row["elapsed_ms"]
        clip["gpu_s"] += row["gpu_s"]
    return list(clips.values())


def _print(document: dict[str, Any]) -> None:
    scorers = document["scorers"]
    terms = [
        f"{scorer['name']} ({scorer['licence']}{'' if scorer['commercial_use'] else ', not for commercial use'})"
        for scorer in scorers
    ]
    print_facts({"scores": document["scores_dir"], "window_s": document["window_s"], "scorers": "; ".join(terms)})
    if not all(scorer["is_meaningful"] for scorer in scorers):
        print_line(MEANINGLESS)
    metrics = list(dict.fromkeys(name for clip in document["clips"] for name in clip["scores"]))
    rows = [{"clip": Path(clip["file"]).name, **clip["scores"]} for clip in document["clips"]]
    print_table(rows, ["clip", *metrics])
    reasons = [
        {"clip": Path(clip["file"]).name, "metric": metric, "reason": reason}
        for clip in document["clips"]
        for metric, reason in clip["reasons"].items()
    ]
    for rows, columns in (
        (reasons, ["clip", "metric", "reason"]),
        (document["quarantined"], ["candidate_id", "error", "message"]),
    ):
        if rows:
            print_table(rows, columns)
