"""The Jinja2 environment of the report's templates: every value is escaped, an undefined name is an error."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from avpref.reports.formatting import data_url, short, signed
from avpref.reports.plots import Panel, svg

FOLDER = Path(__file__).parent
STYLE_SHEET = FOLDER / "report.css"


@cache
def environment() -> Environment:
    """Templates of this folder, with the filters ``signed``, ``short`` and ``drawing``."""
    templates = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"signed": signed, "short": short, "drawing": drawing}
    return templates


def drawing(panel: Panel) -> tuple[str, str]:
    """Data URLs of a panel's drawings for a light and for a dark page."""
    drawings = svg(panel)
    return data_url(drawings.light, "image/svg+xml"), data_url(drawings.dark, "image/svg+xml")


def content_policy(style: str) -> str:
    """A content security policy that allows the style sheet ``style`` and embedded media, and nothing else."""
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{style_hash}'; img-src data:; media-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
