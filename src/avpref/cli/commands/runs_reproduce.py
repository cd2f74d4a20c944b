"""``avpref runs reproduce``: make a share of a run again and report the differences."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from avpref.cli.opening import open_run
from avpref.cli.options import DEFAULT_RUNS, AsJson, RunId, Runs
from avpref.cli.output import print_facts, print_json, print_line, print_table

Share = Annotated[
    float,
    Parameter(name="--share", help="share of the candidates to make again", validator=validators.Number(gt=0, lte=1)),
]
Num = Annotated[
    int | None,
    Parameter(name="--num", help="number of candidates, instead of a share", validator=validators.Number(gte=1)),
]
Seed = Annotated[int, Parameter(name="--seed", help="seed of the random choice")]
Work = Annotated[
    Path | None,
    Parameter(name="--work", help="scratch folder; actors on other machines must share it"),
]

FAILED = 1
SHOWN = 20


def reproduce(
    run: RunId = "",
    *,
    runs: Runs = DEFAULT_RUNS,
    share: Share = 0.05,
    num: Num = None,
    seed: Seed = 0,
    work: Work = None,
    json: AsJson = False,
) -> int:
    """Make a random share of a run's clips again, score them, select the pairs, and compare with the run.

    Nothing is written to the run. Exit code 1: something differs; the document lists the differences.
    """
    folder = open_run(runs, run)
    from avpref.flows import reproduce

    comparison = reproduce.reproduce(folder, share, num, seed, work)
    document = {"is_same": comparison.is_same, **asdict(comparison)}
    print_json(document) if json else _print(document)
    return 0 if comparison.is_same else FAILED


def _print(document: dict[str, Any]) -> None:
    clips, scores = document["clip_differences"], document["score_differences"]
    facts = {
        "run": document["run_id"],
        "clips": f"{document['clips']} of {document['candidates']} made again, {len(clips)} differ",
        "scores": f"{document['scores']} compared, {len(scores)} differ",
        "tables": "; ".join(document["tables"]) or "as sealed",
    }
    for name in ("norm", "pairs"):
        facts[name] = None if document[name] is None else _hashes(document[name])
    print_facts(facts)
    if clips:
        print_line()
        columns = ["candidate_id", "max_frame", "mean_frame", "max_audio", "mean_audio", "reason"]
        print_table(clips[:SHOWN], columns)
    if scores:
        print_line()
        print_table(scores[:SHOWN], ["candidate_id", "metric", "clip", "recorded", "now", "reason"])
    print_line()
    print_line("reproduced" if document["is_same"] else "not reproduced")


def _hashes(hashes: dict[str, str]) -> str:
    recorded, now = hashes["recorded"], hashes["now"]
    return f"{recorded}, the same" if recorded == now else f"{recorded} recorded, {now} now"
