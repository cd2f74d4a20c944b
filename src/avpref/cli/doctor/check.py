"""The result of one check of ``avpref doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Check:
    """``status`` is ok, warn or fail; ``found`` is the observation; ``fix`` is a command or an edit, empty where none is needed."""

    name: str
    status: str
    found: str
    fix: str = ""


def is_ready(checks: Sequence[Check]) -> bool:
    """Whether no check fails."""
    return all(check.status != FAIL for check in checks)
