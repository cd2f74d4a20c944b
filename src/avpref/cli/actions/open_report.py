"""The work of ``avpref runs open``."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path

from avpref.errors import InputError
from avpref.storage.documents import REPORT_FILE
from avpref.storage.run_folder import RunFolder


def report_of(folder: RunFolder) -> Path:
    """The path of the run's report. Raises InputError before stage ``report`` has run."""
    path = folder.root / REPORT_FILE
    if not path.exists():
        fix = f"avpref runs resume {folder.run_id} --runs {folder.runs}"
        raise InputError(f"run {folder.run_id} has no report yet", "a run whose last stage has finished", fix)
    return path


def open_page(path: Path) -> bool:
    """Show the page in the browser; returns whether a browser was started."""
    return has_display() and webbrowser.open(path.as_uri())


def has_display() -> bool:
    """Whether this session can show windows."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
