"""Flows that deployments call: Prefect flows that name a parameter which they do not have, and the one that was meant."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Flow

from avpref.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


class DeployableFlow(Flow[P, R]):
    """A flow whose parameters are checked by name, then by type, before anything runs."""

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """See Prefect. Raises ConfigError for a parameter that the flow does not have."""
        refuse_unknown(self.name, parameters, list(inspect.signature(self.fn).parameters))
        return super().validate_parameters(parameters)


def deployable(name: str, timeout_s: float) -> Callable[[Callable[P, R]], DeployableFlow[P, R]]:
    """Decorator: a flow ``name`` for deployments. A run that takes longer than ``timeout_s`` seconds fails as TimedOut.

    Retries are the deployment's to choose (``PREFECT_FLOWS_DEFAULT_RETRIES`` in its job variables): a retry does only
    what is missing.
    """

    def decorate(function: Callable[P, R]) -> DeployableFlow[P, R]:
        return DeployableFlow(function, name=name, timeout_seconds=timeout_s, persist_result=False)

    return decorate


def refuse_unknown(flow: str, given: dict[str, Any], known: list[str]) -> None:
    """Raises ConfigError for the first name in ``given`` that ``known`` does not have, with the nearest that it has."""
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]!r}? " if near else ""
            raise ConfigError(
                f"flow {flow} has no parameter {name!r}",
                f"one of: {', '.join(known)}",
                f"{meant}correct the parameters in prefect.yaml (or of the schedule, or of the run) and deploy again",
            )
