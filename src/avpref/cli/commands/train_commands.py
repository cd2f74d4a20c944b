"""``avpref train``: AV-DPO on the pairs of a run, SFT alone, and the synchrony prior of JavisDiT v0.1."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from avpref.cli.opening import load_settings, open_run
from avpref.cli.options import DEFAULT_RUNS, AsJson, Config, Overrides, Run, Runs, Seed, overrides
from avpref.cli.output import print_facts, print_json, print_line, print_table

app = App(name="train")

Save = Annotated[
    Path | None, Parameter(name="--save", help="also write the network to this file, and a record (.json) beside it")
]
SaveDtype = Annotated[
    Literal["float32", "float16", "bfloat16"], Parameter(name="--dtype", help="of the weights in that file")
]
SavePrior = Annotated[Path | None, Parameter(name="--save", help="also write the prior's weights to this file")]


@app.command
def run(*, runs: Runs = DEFAULT_RUNS, run: Run = "", json: AsJson = False) -> int:
    """Train the run's adapter, starting from its newest checkpoint; a finished training is not repeated."""
    folder = open_run(runs, run)
    from avpref.cli.actions import train_adapter

    document = train_adapter.train_run(folder)
    print_json(document) if json else _print(document)
    return 0


@app.command
def sft(
    *,
    config: Config,
    runs: Runs = DEFAULT_RUNS,
    seed: Seed = None,
    set_: Overrides = None,
    save: Save = None,
    dtype: SaveDtype = "float32",
    json: AsJson = False,
) -> int:
    """Train the SFT network of a configuration, and nothing after it.

    The saved file can be the ``sft.network`` of other configurations (``sft.kind`` weights).
    """
    settings = load_settings(config, overrides(set_, seed))
    from avpref.cli.actions import train_sft

    changes = "".join(f" --set {change}" for change in set_ or ())
    command = f"avpref train sft --config {config}{changes} --seed {settings.run.seed}"
    document = train_sft.train_network(train_sft.opened(runs, settings), command, save, dtype)
    print_json(document) if json else print_facts(document)
    return 0


@app.command
def prior(
    *,
    config: Config,
    runs: Runs = DEFAULT_RUNS,
    seed: Seed = None,
    set_: Overrides = None,
    save: SavePrior = None,
    json: AsJson = False,
) -> int:
    """Train the synchrony prior of section prior on the clips of a configuration, starting from its newest checkpoint.

    The saved file can be the ``base.settings.prior`` of base model javisdit-v01.
    """
    settings = load_settings(config, overrides(set_, seed))
    from avpref.cli.actions import train_prior_weights

    document = train_prior_weights.train(runs, settings, save)
    print_json(document) if json else print_facts(document)
    return 0


def _print(document: dict[str, Any]) -> None:
    print_facts({name: value for name, value in document.items() if not isinstance(value, dict)})
    print_line()
    measured = ("displacement", "drift", "implicit_accuracy")
    print_table([{"mean over the last quarter": name, **document[name]} for name in measured],
                ["mean over the last quarter", "video", "audio"])  # fmt: skip
