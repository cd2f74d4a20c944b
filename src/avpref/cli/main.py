"""The command line: noun, then verb. Data goes to stdout, progress to stderr, and the exit code tells the outcome.

    0 ok · 1 failure · 2 usage or configuration · 3 gate refused · 4 missing or stale input · 5 partial · 130 interrupted

A noun's module is imported when the command line names the noun. It holds signatures and help alone; a verb imports the module that
does its work (in ``avpref.cli.actions`` or ``avpref.cli.views``) when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from avpref import __version__
from avpref.cli.commands.doctor_commands import doctor
from avpref.cli.commands.retrain_commands import retrain
from avpref.errors import AvprefError, ConfigError

INTERRUPTED = 130
FAILED = 1

HELP = "Curate audio-video preference data and align a joint audio-video generator with it."

app = App(
    name="avpref",
    help=HELP,
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
NOUNS = {
    "adapters": "List adapters, and export them for other programs.",
    "automations": "Automations and notifications of a Prefect server.",
    "bench": "Evaluate generated clips with the metrics of published benchmarks, with intervals.",
    "candidates": "List, show, sample and score the candidates of a run.",
    "config": "Show or validate a configuration.",
    "eval": "Compare policy and reference on held-out prompts.",
    "gate": "Decide whether a run's adapter may be promoted, and move the alias that serves.",
    "lineage": "Trace adapters, pairs and clips to their sources and to their uses.",
    "pairs": "Select, show, open, export and import preference pairs; compare runs and strategies.",
    "pool": "Turn a pile of videos into filtered clips with texts.",
    "prompts": "Import recordings as prompts; list the prompts of a run.",
    "rewards": "Validate reward models.",
    "runs": "List, inspect, open, resume and clean up runs.",
    "scorers": "List and check scorers: built-in ones and those of other packages.",
    "scores": "List, show and export the scores of a run.",
    "train": "Train the adapter of a run, or an SFT network or a synchrony prior alone.",
    "votes": "Plan studies in which people compare clips blindly, take their votes, show results.",
    "weights": "List, fetch and verify the files of the published reward models.",
}
SUBFOLDERS = {"adapters": "exchange.", "pool": "pool."}
"""Nouns whose module is in a subfolder of ``commands``."""
for noun, noun_help in NOUNS.items():
    app.command(f"avpref.cli.commands.{SUBFOLDERS.get(noun, '')}{noun}_commands:app", name=noun, help=noun_help)
app.command(retrain)
app.command(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point ``avpref``. Exits with a code of the module's docstring; tracebacks only with ``--debug``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in words
    _quiet_environment()
    try:
        code = app([word for word in words if word != "--debug"], exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        code = _explain(f"{str(error).strip()}\nfix: {_usage(error)}", ConfigError.exit_code)
    except AvprefError as error:
        code = _explain(_trace(is_debug) + str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _explain("interrupted; run the same command again to continue", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        fix = "" if is_debug else "\nfix: run again with --debug for the traceback"
        code = _explain(f"{_trace(is_debug)}{type(error).__name__}: {error}{fix}", FAILED)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(message: str, code: int) -> int:
    sys.stderr.write(f"avpref: {message}\n")
    return code


def _trace(is_debug: bool) -> str:
    if not is_debug:
        return ""
    import traceback

    return traceback.format_exc() + "\n"


def _usage(error: CycloptsError) -> str:
    """The command that prints the help of the failed one."""
    return " ".join(["avpref", *(error.command_chain or ()), "--help"])


def _quiet_environment() -> None:
    """Switch telemetry off and let OpenMP threads sleep while they wait: spinning threads slow a busy machine down."""
    defaults = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
