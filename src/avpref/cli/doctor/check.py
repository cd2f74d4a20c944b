"""What a check of ``avpref doctor`` comes to."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True)
class Check:
    """One finding: ``status`` is ok, warn or fail; ``fix`` is a command or an edit, empty where nothing is to be done."""

    name: str
    status: str
    found: str
    fix: str = ""
