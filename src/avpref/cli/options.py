"""Options that several commands share, with one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

Config = Annotated[Path, Parameter(name="--config", help="configuration file (YAML)")]
Runs = Annotated[Path, Parameter(name="--runs", help="folder of the runs")]
RUN_HELP, NEWEST = "run id, or an unambiguous prefix of one", "the newest run"
Run = Annotated[str, Parameter(name="--run", help=RUN_HELP, show_default=NEWEST)]
RunId = Annotated[str, Parameter(help=RUN_HELP, show_default=NEWEST)]
Seed = Annotated[int | None, Parameter(name="--seed", help="seed of the run; overrides run.seed")]
Overrides = Annotated[
    list[str] | None,
    Parameter(
        name="--set",
        help="section.key=value: override a value of the configuration; may be repeated",
        negative="",
        consume_multiple=False,
    ),
]
Limit = Annotated[
    int | None, Parameter(name="--limit", help="maximum number of rows", validator=validators.Number(gte=1))
]
OfPrompt = Annotated[str, Parameter(name="--prompt", help="only this prompt: its id, or a prefix of it")]
CandidateId = Annotated[str, Parameter(help="candidate id, or an unambiguous prefix of one")]
Wait = Annotated[
    bool, Parameter(name="--wait", help="wait while another command uses the run, instead of failing", negative="")
]
Speed = Annotated[
    float,
    Parameter(name="--tflops", help="sustained TFLOP/s of one GPU, for --dry-run", validator=validators.Number(gt=0)),
]
AsJson = Annotated[bool, Parameter(name="--json", help="print one JSON document", negative="")]
Host = Annotated[
    str, Parameter(name="--host", help="address to listen on; others than this machine's own need the token")
]
Port = Annotated[
    int,
    Parameter(name="--port", help="port to listen on; 0: a free one", validator=validators.Number(gte=0, lte=65535)),
]
NoBrowser = Annotated[bool, Parameter(name="--no-browser", help="print the address, and open no browser", negative="")]

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8640
DEFAULT_RUNS = Path("runs")
DEFAULT_CONFIG = Path("configs/toyworld.yaml")
DEFAULT_CLIPS_CONFIG = Path("configs/clips.yaml")


def overrides(values: list[str] | None, seed: int | None, rounds: int | None = None) -> list[str]:
    """The values of ``--set``, then the seed and the number of rounds, which win."""
    short = {"run.seed": seed, "rounds.count": rounds}
    return list(values or []) + [f"{key}={value}" for key, value in short.items() if value is not None]
