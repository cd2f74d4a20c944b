"""``avpref runs reproduce``: make a share of a run again and say what came out otherwise."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, validators

from avpref.cli.options import DEFAULT_RUNS, AsJson, Runs
from avpref.cli.output import print_facts, print_json, print_line, print_table

RunId = Annotated[str, Parameter(help="run id, or an unambiguous beginning of one; the newest run if left out")]
Share = Annotated[
    float, Parameter(name="--share", help="share of the candidates", validator=validators.Number(gt=0, lte=1))
]
Num = Annotated[
    int | None, Parameter(name="--num", help="number of candidates, instead", validator=validators.Number(gte=1))
]
Seed = Annotated[int, Parameter(name="--seed", help="which ones: another seed takes others")]
Work = Annotated[
    Path | None,
    Parameter(name="--work", help="folder to work in; with actors on other machines one that they share"),
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
    """Make a random share of a run's clips again, score them, select the pairs, and compare with what the run has.

    Nothing is written to the run. Exit code 1: something differs; the document says what and by how much.
    """
    from avpref.storage.run_folder import open_run

    folder = open_run(runs, run)
    from avpref.flows.reproduce import reproduce as again

    found = again(folder, share, num, seed, work)
    document = {"is_same": found.is_same, **asdict(found)}
    print_json(document) if json else _print(document)
    return 0 if found.is_same else FAILED


def _print(document: dict[str, Any]) -> None:
    clips, scores = document["clip_differences"], document["score_differences"]
    facts = {
        "run": document["run_id"],
        "clips": f"{document['clips']} of {document['candidates']} made again, {len(clips)} differ",
        "scores": f"{document['scores']} compared, {len(scores)} differ",
        "tables": "; ".join(document["tables"]) or "as sealed",
    }
    for name in ("norm", "pairs"):
        one = document[name]
        facts[name] = None if one is None else _same(one)
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


def _same(one: dict[str, str]) -> str:
    same = one["recorded"] == one["now"]
    return f"{one['recorded']}, again" if same else f"{one['recorded']} then, {one['now']} now"
