"""``avpref automations``: what a Prefect server does about runs of this product without being asked."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter, validators

from avpref.cli.options import AsJson
from avpref.cli.output import print_json, print_table
from avpref.errors import ConfigError

app = App(name="automations")

Webhook = Annotated[str, Parameter(name="--webhook", help="URL that receives notifications as JSON (POST)")]
Notify = Annotated[
    str, Parameter(name="--notify", help="notification block instead: TYPE/NAME, e.g. slack-webhook/ops")
]
ZombieAfter = Annotated[
    float,
    Parameter(
        name="--zombie-after-s",
        help="seconds without a heartbeat after which a run counts as dead; use about three heartbeats",
        validator=validators.Number(gte=10),
    ),
]


@app.command
def apply(
    *, webhook: Webhook = "", notify: Notify = "", zombie_after_s: ZombieAfter = 540.0, json: AsJson = False
) -> int:
    """Create or update the automations on the server of PREFECT_API_URL. Applying them twice changes nothing.

    Runs without a heartbeat become Crashed; failed and late runs, refused gates and large losses are notified.
    """
    if webhook and notify:
        raise ConfigError("--webhook and --notify", "one of them", "leave one out")
    from avpref.flows.prefect import automations

    rows = [vars(automation) for automation in automations.apply(zombie_after_s, webhook, notify)]
    print_json({"automations": rows}) if json else print_table(rows, ["action", "name", "automation_id"])
    return 0
