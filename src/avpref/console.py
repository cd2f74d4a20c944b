"""One line for the person at the terminal. Data goes to stdout; everything else goes to stderr."""

from __future__ import annotations

import sys


def say(message: str) -> None:
    """One line for the person at the terminal, on stderr."""
    sys.stderr.write(message + "\n")
    sys.stderr.flush()
