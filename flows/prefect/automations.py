"""Automations of a Prefect server for the flow runs of this product: crash lost runs, and notify people.

An automation is identified by its name: applying it again changes nothing, and a changed one is updated in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from prefect.automations import AutomationCore, EventTrigger, Posture
from prefect.blocks.core import Block
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.events import ResourceSpecification

from avpref.errors import ConfigError
from avpref.flows.prefect.prefect_client import HEARTBEAT
from avpref.flows.prefect.prefect_server import require_server
from avpref.flows.prefect.run_events import GATE_REFUSED, QUARANTINE_EXCEEDED
from avpref.flows.prefect.run_reporting import STAGE_TAG, TAG

WEBHOOK_BLOCK = "avpref-webhook"
FLOW_RUN = "prefect.flow-run."
ENDINGS = ("Completed", "Failed", "TimedOut", "Crashed", "Cancelled", "Cancelling")
WAITING = ("AwaitingRetry", "Paused", "Suspended")
"""States in which a run has no process and so no heartbeat."""
LIVING_OR_DONE = {HEARTBEAT, *(FLOW_RUN + name for name in (*ENDINGS, *WAITING))}


@dataclass(frozen=True)
class Applied:
    """An automation on the server: its name, id, and whether it was created or updated."""

    name: str
    automation_id: str
    action: str


def automations(zombie_after_s: float, notify: UUID | None) -> list[AutomationCore]:
    """All automations. ``notify`` is the notification block to use; with None the server only records that they fired."""
    return [
        AutomationCore(
            name="avpref: a run without a sign of life has crashed",
            description="Its process is gone: killed, or its machine is.",
            trigger=EventTrigger(
                after={HEARTBEAT},
                expect=LIVING_OR_DONE,
                match=ResourceSpecification({"prefect.resource.id": [FLOW_RUN + "*"]}),
                match_related=_tagged(TAG, STAGE_TAG),
                for_each={"prefect.resource.id"},
                posture=Posture.Proactive,
                threshold=1,
                within=timedelta(seconds=zombie_after_s),
            ),
            actions=[
                ChangeFlowRunState(
                    name="Crashed",
                    state=StateType.CRASHED,
                    message=f"no sign of life for {zombie_after_s:.0f} s; start it again",
                    force=False,
                )
            ],
        ),
        _on_runs("avpref: a run failed", ("Failed", "TimedOut", "Crashed"), _tell(notify, "failed", _RUN_BODY)),
        _on_runs("avpref: a run is late", ("Late",), _tell(notify, "is late", _RUN_BODY)),
        _on_event("avpref: the gate refused", GATE_REFUSED, _tell(notify, "the gate refused", _GATE_BODY)),
        _on_event(
            "avpref: too many are quarantined", QUARANTINE_EXCEEDED, _tell(notify, "quarantine", _QUARANTINE_BODY)
        ),
    ]


def apply(zombie_after_s: float, webhook: str = "", block: str = "") -> list[Applied]:
    """Create or update every automation on the configured server.

    Notifications go to the URL ``webhook`` (as JSON with subject and body) or to the block ``block``
    (``slack-webhook/NAME``, ``email/NAME`` …). Raises ConfigError for a block that is not there, AvprefError without a server.
    """
    require_server()
    notify = _block(webhook, block)
    with get_client(sync_client=True) as client:
        found: list[Applied] = []
        for wanted in automations(zombie_after_s, notify):
            known = client.read_automations_by_name(wanted.name)
            if known:
                client.update_automation(known[0].id, wanted)
                found.append(Applied(wanted.name, str(known[0].id), "updated"))
            else:
                found.append(Applied(wanted.name, str(client.create_automation(wanted)), "created"))
    return found


_RUN_BODY = "{{ flow.name }} {{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}"
_GATE_BODY = (
    "{{ event.resource['avpref.run-id'] }} in {{ event.resource['avpref.runs-dir'] }}: {{ event.payload.reasons }}"
)
_QUARANTINE_BODY = (
    "{{ event.resource['avpref.run-id'] }}: {{ event.payload.lost }} candidates given up, "
    "a share of {{ event.payload.share }}; the bound is {{ event.payload.bound }}"
)


def _tell(block: UUID | None, subject: str, body: str) -> Sequence[ActionTypes]:
    if block is None:
        return [DoNothing()]
    return [SendNotification(block_document_id=block, subject=f"avpref: {subject}", body=body)]


def _on_runs(name: str, states: Sequence[str], actions: Sequence[ActionTypes]) -> AutomationCore:
    """Automation on states of whole executions; the state of a stage is part of its execution's."""
    trigger = EventTrigger(
        expect={FLOW_RUN + state for state in states},
        match=ResourceSpecification({"prefect.resource.id": [FLOW_RUN + "*"]}),
        match_related=_tagged(TAG),
        for_each={"prefect.resource.id"},
        posture=Posture.Reactive,
        threshold=1,
    )
    return AutomationCore(name=name, trigger=trigger, actions=list(actions))


def _on_event(name: str, event: str, actions: Sequence[ActionTypes]) -> AutomationCore:
    trigger = EventTrigger(
        expect={event},
        match=ResourceSpecification({"prefect.resource.id": ["avpref.run.*"]}),
        posture=Posture.Reactive,
        threshold=1,
    )
    return AutomationCore(name=name, trigger=trigger, actions=list(actions))


def _tagged(*tags: str) -> ResourceSpecification:
    return ResourceSpecification(
        {"prefect.resource.role": ["tag"], "prefect.resource.id": [f"prefect.tag.{tag}" for tag in tags]}
    )


def _block(webhook: str, block: str) -> UUID | None:
    if webhook:
        message = {"subject": "{{subject}}", "body": "{{body}}", "from": "{{name}}"}
        made: Any = CustomWebhookNotificationBlock(
            name="avpref", url=webhook, json_data=message, headers=None, cookies=None
        )
        return UUID(str(made.save(WEBHOOK_BLOCK, overwrite=True, _sync=True)))
    if not block:
        return None
    kind: Any = Block
    try:
        return UUID(str(kind.load(block, _sync=True)._block_document_id))
    except ValueError as error:
        fix = "create it (prefect block create slack-webhook, or in the user interface), or give --webhook URL"
        raise ConfigError(f"no block {block!r}: {error}", "TYPE/NAME as prefect block ls shows them", fix) from error
