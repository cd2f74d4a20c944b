"""Options that several commands share, with one help text each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

Config = Annotated[Path, Parameter(name="--config", help="configuration file (YAML)")]
Runs = Annotated[Path, Parameter(name="--runs", help="folder that holds the runs")]
Run = Annotated[
    str, Parameter(name="--run", help="run id, or an unambiguous beginning of one; the newest run if left out")
]
Seed = Annotated[int | None, Parameter(name="--seed", help="seed of the run; overrides run.seed")]
Overrides = Annotated[
    list[str] | None,
    Parameter(name="--set", help="section.key=value; may be given again", negative="", consume_multiple=False),
]
Limit = Annotated[
    int | None, Parameter(name="--limit", help="print at most so many rows", validator=validators.Number(gte=1))
]
OfPrompt = Annotated[str, Parameter(name="--prompt", help="only this prompt: its id, or the beginning of it")]
Wait = Annotated[
    bool,
    Parameter(name="--wait", help="wait for another command that works on the run, instead of refusing", negative=""),
]
AsJson = Annotated[bool, Parameter(name="--json", help="print one JSON document", negative="")]

DEFAULT_RUNS = Path("runs")
DEFAULT_CONFIG = Path("configs/toyworld.yaml")
DEFAULT_CLIPS_CONFIG = Path("configs/clips.yaml")


def overrides(given: list[str] | None, seed: int | None) -> list[str]:
    """``--set`` values, then the seed, which wins."""
    return list(given or []) + ([f"run.seed={seed}"] if seed is not None else [])
