"""The Jinja2 environment of the explorer's pages: every value is escaped, an undefined name is an error."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from avpref import __version__

PAGES = Path(__file__).parent / "pages"
STATIC = Path(__file__).parent / "static"


@cache
def pages() -> Environment:
    """The pages of this package, with the filters ``number`` and ``percent``."""
    environment = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent}
    environment.globals["version"] = __version__
    return environment


def number(value: Any) -> str:
    """A value as a table shows it: four digits for floats, a dash for none."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 1 << 53:
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(share: float | None) -> str:
    """A share as whole percent; a dash for none."""
    return "–" if share is None else f"{share:.0%}"
