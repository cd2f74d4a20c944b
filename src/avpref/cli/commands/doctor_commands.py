"""``avpref doctor``: checks of this machine, one line each, with the fix."""

from __future__ import annotations

from avpref.cli.doctor.check import is_ready
from avpref.cli.options import DEFAULT_CONFIG, DEFAULT_RUNS, AsJson, Config, Overrides, Runs
from avpref.cli.output import print_json, print_line
from avpref.errors import AvprefError


def doctor(
    *, config: Config = DEFAULT_CONFIG, runs: Runs = DEFAULT_RUNS, set_: Overrides = None, json: AsJson = False
) -> int:
    """Check that this machine has what a run of a configuration needs. Exit code 1: a check fails.

    Checked are libraries and encoders, GPU, disk and shared memory, files of reward models, Ray, Prefect's server and ports,
    notebook and curves.
    """
    from avpref.cli.doctor import machine_checks

    checks = machine_checks.run_checks(config, list(set_ or []), runs)
    is_complete = is_ready(checks)
    if json:
        print_json({"is_ready": is_complete, "checks": [vars(check) for check in checks]})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print_line(f"{check.status:<4}  {check.name:<{width}}  {check.found}")
            if check.fix:
                print_line(f"{'':<4}  {'':<{width}}  fix: {check.fix}")
    return 0 if is_complete else AvprefError.exit_code
