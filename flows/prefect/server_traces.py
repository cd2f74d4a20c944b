"""Whether a Prefect server may be configured, found without importing Prefect, which takes most of a second."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLES = ("PREFECT_API", "PREFECT_PROFILE")
"""Beginnings of the names of variables that give a server's address or choose a profile."""
MARKS = {"profiles.toml": "api_url", "prefect.toml": "", "pyproject.toml": "tool.prefect", ".env": "prefect"}
"""Files that Prefect reads, the first in its home folder and the others in the current one, and a text of those that may name a server."""


def may_have_server() -> bool:
    """False where neither a variable nor a file that Prefect reads can name a server; True where Prefect must be asked."""
    if "prefect" in sys.modules:
        return True
    if any(name.upper().startswith(VARIABLES) for name in os.environ):
        return True
    return any(_has_mark(_folder(name) / name, mark) for name, mark in MARKS.items())


def _folder(name: str) -> Path:
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    return Path(home).expanduser() if name == "profiles.toml" else Path()


def _has_mark(file: Path, mark: str) -> bool:
    return file.is_file() and mark in file.read_text(encoding="utf-8", errors="replace").lower()
