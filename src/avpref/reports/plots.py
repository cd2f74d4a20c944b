"""From panels to pictures: PNG files of several panels, and SVG of one panel for a light and a dark page.

Colours differ in lightness as well as in hue (after Okabe and Ito), and a baseline is always a filled grey area, so that
nothing depends on telling hues apart. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avpref.identity import digest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, LIGHT_INK = "#1c2128", "#e4e8ed"
"""Text and lines on a light and on a dark page; drawings use this ``INK`` for nothing else."""
BASELINE = "#8a929c"
ALARM = "#a3336a"
COLOUR = {"video": "#2f7fd1", "audio": "#d55e00", "av": "#0f9d77"}
OTHER_COLOURS = ("#8e5bd0", "#b08600", "#c2407a", "#4a8c2a")
"""Colours of the built-in dimensions, and of others; all are visible on white and on near-black."""

PANEL_INCHES = (4.4, 2.7)
AXES_INCHES = {"left": 0.74, "right": 0.12, "bottom": 0.52, "top": 0.3}
"""Margins around the axes of a panel; fixed margins draw twice as fast as measured ones."""
TITLE_INCHES = 0.26
PNG_DPI = 150
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
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


def colour_of(dimension: str) -> str:
    """The colour of a dimension; one that is not built in gets one of :data:`OTHER_COLOURS`, by its name."""
    return COLOUR.get(dimension) or OTHER_COLOURS[int(digest("colour", dimension), 16) % len(OTHER_COLOURS)]


@dataclass(frozen=True)
class Panel:
    """One pair of axes: title, text alternative for readers who cannot see it, and the function that draws it."""

    title: str
    alt_text: str
    draw: Callable[[Axes], None]


@dataclass(frozen=True)
class SvgDrawings:
    """One drawing with dark ink for a light page, and with light ink for a dark page."""

    light: bytes
    dark: bytes


@dataclass(frozen=True)
class Plot:
    """Panels that belong together, and how many stand in one row of a PNG file."""

    panels: Sequence[Panel]
    columns: int


def png(panels: Sequence[Panel], columns: int) -> bytes:
    """A picture of all panels, ``columns`` in a row. Equal panels give equal bytes."""
    return _drawn(panels, columns, TITLE_INCHES, "png", metadata={"Software": None}, dpi=PNG_DPI)


def svg(panel: Panel) -> SvgDrawings:
    """One panel without its title as two SVG documents on a transparent ground. Equal panels give equal bytes."""
    document = _drawn([panel], 1, 0.0, "svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return SvgDrawings(document, document.replace(INK.encode(), LIGHT_INK.encode()))


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
