"""Prefect flows for deployments, with retries for transient errors.

Prefect's own retries are not used: they also repeat users' mistakes, and in 3.8 a run with retries whose parameters are refused
never ends.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger

from avpref.errors import AuditRefused, CircuitOpen, ConfigError, GateRefused, InputError

P = ParamSpec("P")
R = TypeVar("R")

RETRIES, RETRY_AFTER_S = 2, 60.0
"""Number of retries of a deployed run that fails, and the wait before each; a retry continues from what is committed."""
FINAL = (ConfigError, InputError, GateRefused, AuditRefused, CircuitOpen)
"""Errors that a retry would only repeat."""


def deployable(name: str, timeout_s: float) -> Callable[[Callable[P, R]], Flow[P, R]]:
    """Decorator that makes a Prefect flow ``name``; a run that takes longer than ``timeout_s`` seconds fails as TimedOut."""

    def decorate(function: Callable[P, R]) -> Flow[P, R]:
        return Flow(tried_again(function), name=name, timeout_seconds=timeout_s, persist_result=False)

    return decorate


def tried_again(
    function: Callable[P, R], retries: int = RETRIES, wait: Callable[[float], None] = time.sleep
) -> Callable[P, R]:
    """``function`` with ``retries`` retries after transient errors, where Prefect's engine calls it; ``wait`` sleeps seconds."""

    @functools.wraps(function)
    def attempts(*arguments: P.args, **named: P.kwargs) -> R:
        for attempt in range(1, retries + 1):
            if FlowRunContext.get() is None:
                break
            try:
                return function(*arguments, **named)
            except FINAL:
                raise
            except Exception as error:
                get_run_logger().warning(
                    "attempt %d of %d: %s: %s", attempt, retries + 1, type(error).__name__, error, exc_info=error
                )
                wait(RETRY_AFTER_S)
        return function(*arguments, **named)

    return attempts
