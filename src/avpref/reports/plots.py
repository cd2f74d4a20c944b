"""From panels to pictures: PNG files of several panels, and inline SVG of one that takes the colours of its page.

Colours differ in lightness as well as in hue (after Okabe and Ito), and a baseline is always a filled grey area, so that
nothing depends on telling hues apart. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avpref.reports.formatting import Html

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#1c2128"
BASELINE = "#8a929c"
ALARM = "#a3336a"
COLOUR = {"video": "#2f7fd1", "audio": "#d55e00", "av": "#0f9d77"}
"""One colour per dimension, visible on white and on near-black."""

PANEL_INCHES = (4.4, 2.7)
AXES_INCHES = {"left": 0.74, "right": 0.12, "bottom": 0.52, "top": 0.3}
"""Room around the axes of a panel; a fixed room draws twice as fast as one that is measured."""
TITLE_INCHES = 0.26
PNG_DPI = 150
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 8.5,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.fonttype": "none",
    "svg.hashsalt": "avpref",
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what it shows, the same in words for who cannot see it, and how to draw it."""

    title: str
    words: str
    draw: Callable[[Axes], None]


def png(panels: Sequence[Panel], columns: int) -> bytes:
    """A picture of all panels, ``columns`` in a row. Equal panels give equal bytes."""
    return _drawn(panels, columns, TITLE_INCHES, "png", metadata={"Software": None}, dpi=PNG_DPI)


def svg(panel: Panel) -> Html:
    """One panel without its title as an ``<svg>`` element that follows the page's text colour.

    It carries neither style attributes nor ids that could meet another drawing's, so a strict content policy lets it pass.
    """
    metadata = {"Date": None, "Creator": None}
    document = _drawn([panel], 1, 0.0, "svg", metadata=metadata, transparent=True).decode()
    return Html(inlined(document, panel.words))


def _drawn(panels: Sequence[Panel], columns: int, title_inches: float, kind: str, **options: Any) -> bytes:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    width, height = PANEL_INCHES[0], PANEL_INCHES[1] + title_inches
    with rc_context(STYLE):
        drawing = Figure(figsize=(width * columns, height * rows))
        for index, panel in enumerate(panels):
            row, column = divmod(index, columns)
            axes = drawing.add_axes(_place(row, column, rows, columns, height))
            panel.draw(axes)
            if title_inches:
                axes.set_title(panel.title, pad=72 * TITLE_INCHES)
        buffer = io.BytesIO()
        drawing.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _place(row: int, column: int, rows: int, columns: int, height: float) -> tuple[float, float, float, float]:
    """Left, bottom, width and height of a panel's axes as shares of the picture."""
    width, room = PANEL_INCHES[0], AXES_INCHES
    left = (column * width + room["left"]) / (columns * width)
    bottom = ((rows - row - 1) * height + room["bottom"]) / (rows * height)
    inner = PANEL_INCHES[1] - room["bottom"] - room["top"]
    return left, bottom, (width - room["left"] - room["right"]) / (columns * width), inner / (rows * height)


def inlined(document: str, words: str) -> str:
    """Matplotlib's SVG ``document`` as an element of a page: styles become attributes, the ink becomes ``currentColor``."""
    from html import escape

    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' style="([^"]*)"', lambda match: _as_attributes(match[1]), body)
    body = body.replace(INK, "currentColor")
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None, "matplotlib writes a view box"
    body = _with_own_ids(body[body.index(">") + 1 :], escape(words))
    return f'<svg {box[0]} role="img" aria-label="{escape(words)}">{body.strip()}'


def _as_attributes(style: str) -> str:
    """CSS declarations as presentation attributes; the font's size stays, its family is the page's."""
    found = []
    for declaration in filter(None, (part.strip() for part in style.split(";"))):
        name, _, value = (piece.strip() for piece in declaration.partition(":"))
        size = re.search(r"(?:(bold|\d{3})\s+)?([\d.]+)px", value)
        if name == "font" and size is not None:
            found.append(("font-size", size[2]))
        else:
            found.append((name, value.replace("'", "")))
    return "".join(f' {name}="{value}"' for name, value in found)


def _with_own_ids(body: str, words: str) -> str:
    """Keep the ids that are referred to, under names of this drawing; drop the others."""
    from avpref.identity import digest

    prefix = "d" + digest("drawing", words, body, size=8)
    used = set(re.findall(r'(?:xlink:)?href="#([^"]+)"', body)) | set(re.findall(r"url\(#([^)]+)\)", body))
    body = re.sub(r' id="([^"]+)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in used else "", body)
    body = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{prefix}-\1"', body)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", body)
