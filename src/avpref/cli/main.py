"""The command line: noun then verb. Data goes to stdout, progress to stderr, and the exit code says what happened.

    0 ok · 1 failure · 2 usage or configuration · 3 gate refused · 4 missing or stale input · 5 partial · 130 interrupted

Only light modules are imported here; each command imports what it needs when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from avpref import __version__
from avpref.cli.commands import automations_commands as automations
from avpref.cli.commands import candidates_commands as candidates
from avpref.cli.commands import config_commands as config
from avpref.cli.commands import doctor_commands as doctor
from avpref.cli.commands import eval_commands as evaluation
from avpref.cli.commands import gate_commands as gate
from avpref.cli.commands import lineage_commands as lineage
from avpref.cli.commands import pairs_commands as pairs
from avpref.cli.commands import prompts_commands as prompts
from avpref.cli.commands import retrain_commands as retrain
from avpref.cli.commands import rewards_commands as rewards
from avpref.cli.commands import runs_commands as runs
from avpref.cli.commands import runs_gc as retention
from avpref.cli.commands import runs_reproduce as reproduction
from avpref.cli.commands import scores_commands as scores
from avpref.cli.commands import train_commands as train
from avpref.cli.commands import weights_commands as weights
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
app.command(retrain.retrain)
for noun in (runs, prompts, candidates, scores, pairs, train, evaluation, gate, lineage):
    app.command(noun.app)
for noun in (rewards, weights, automations, config):
    app.command(noun.app)
app.command(doctor.doctor)
runs.app.command(reproduction.reproduce)
runs.app.command(retention.gc)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point ``avpref``. Exits with the code of the module's docstring; tracebacks only with ``--debug``."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in given
    _quiet_environment()
    try:
        code = app([argument for argument in given if argument != "--debug"], exit_on_error=False, print_error=False)
        sys.stdout.flush()
    except CycloptsError as error:
        code = _explain(f"{str(error).strip()}\nfix: {_usage(error)}", ConfigError.exit_code)
    except AvprefError as error:
        code = _explain(_trace(is_debug) + str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _explain("interrupted; run the same command again to go on", INTERRUPTED)
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
    """The command whose help tells what is possible."""
    return " ".join(["avpref", *(error.command_chain or ()), "--help"])


def _quiet_environment() -> None:
    """No telemetry, and OpenMP threads that sleep while they wait: spinning ones starve each other on a busy machine."""
    wanted = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_WAIT_POLICY": "PASSIVE",
        "OPENBLAS_NUM_THREADS": "1",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
