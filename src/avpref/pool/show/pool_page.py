"""The page of a pool: the funnel, what each filter does, and a contact sheet of clips with sound. It loads nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from avpref.config.pool.pool_settings import WriteSettings
from avpref.errors import InputError, MediaError
from avpref.identity import digest
from avpref.pool.cut.cut_stage import source_of
from avpref.pool.funnel import Funnel, FunnelStep, funnel
from avpref.pool.measure.clip_window import ClipWindow
from avpref.pool.pool_folder import PoolFolder, arrow_rows
from avpref.pool.scan.pool_source import opened_source
from avpref.pool.write.clip_writing import encode_window, written_size
from avpref.reports.plots import Panel, png
from avpref.reports.templates import content_policy, drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE_FILE, FUNNEL_FILE = "pool.html", "funnel.png"
PREVIEW = WriteSettings(height_px=144)
LONGEST_PREVIEW_S = 10.0
BAR = "#2f7fd1"
STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
table{border-collapse:collapse}td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:1rem}
figure{margin:0}video{width:100%}figcaption{font-size:.85rem;overflow-wrap:anywhere}"""


@dataclass(frozen=True)
class SheetClip:
    """A clip of the contact sheet: a data URL of its preview, or why there is none."""

    clip_id: str
    name: str
    start_s: float
    end_s: float
    text: str
    decision: str
    media: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Selection:
    """The clips of a contact sheet: kept ones, or removed ones, of one filter if it is named; drawn by ``seed``."""

    number: int = 12
    is_removed: bool = False
    filter: str = ""
    seed: int = 0

    @property
    def words(self) -> str:
        """The selection for people."""
        if not self.is_removed and not self.filter:
            return "kept"
        return f"removed by {self.filter}" if self.filter else "removed"


def write_page(pool: PoolFolder, selection: Selection) -> Path:
    """Write ``pool.html`` and ``funnel.png`` into the pool's folder; returns the page. Raises InputError where no clip fits."""
    counted = funnel(pool)
    rows = _rows(pool, selection)
    clips = [_sheet_clip(pool, row) for row in drawn(rows, selection)]
    panel = funnel_panel(counted.steps)
    pool.files.replace(FUNNEL_FILE, png([panel], 1))
    template = _environment().get_template("pool_page.html.j2")
    page = template.render(
        pool=pool.root.name,
        policy=content_policy(STYLE),
        style=STYLE,
        chart=drawing(panel),
        chart_text=panel.alt_text,
        funnel=counted,
        clips=clips,
        total=len(rows),
        selection=selection.words,
    )
    pool.files.replace(PAGE_FILE, page.encode())
    return pool.root / PAGE_FILE


def _environment() -> Environment:
    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


def _rows(pool: PoolFolder, selection: Selection) -> list[dict[str, Any]]:
    with pool.connect() as con:
        parameters = {"kept": not (selection.is_removed or selection.filter), "filter": selection.filter}
        rows: list[dict[str, Any]] = arrow_rows(con, "sheet_clips", parameters).to_pylist()
    if not rows:
        found = f"pool {pool.root.name} has no clip that was {selection.words}"
        raise InputError(found, "a finished stage filter, and such clips", "avpref pool funnel")
    return rows


def drawn(rows: Sequence[dict[str, Any]], selection: Selection) -> list[dict[str, Any]]:
    """``number`` of the rows, drawn by the hash of seed and clip, in the order of the rows."""
    ordered = sorted(rows, key=lambda row: digest("sheet", selection.seed, row["clip_id"]))[: selection.number]
    chosen = {row["clip_id"] for row in ordered}
    return [row for row in rows if row["clip_id"] in chosen]


def _sheet_clip(pool: PoolFolder, row: dict[str, Any]) -> SheetClip:
    name = PurePosixPath(row["member"] or row["uri"]).name
    decision = "kept" if row["is_kept"] else f"{row['filter']}: {row['reason']}"
    clip = SheetClip(row["clip_id"], name, row["start_s"], row["end_s"], row["text"], decision)
    end_s = min(row["end_s"], row["start_s"] + LONGEST_PREVIEW_S)
    window = ClipWindow(row["start_s"], end_s, written_size(PREVIEW), pool.rules, 0)
    try:
        with opened_source(source_of(row), pool.config.scan.bucket) as media:
            data = encode_window(media, window, PREVIEW).data
    except MediaError as error:
        return SheetClip(**{**vars(clip), "failure": error.found})
    return SheetClip(**{**vars(clip), "media": f"data:video/mp4;base64,{base64.b64encode(data).decode()}"})


def funnel_panel(steps: Sequence[FunnelStep]) -> Panel:
    """The funnel as horizontal bars."""

    def draw(axes: Axes) -> None:
        places = range(len(steps))
        axes.barh(list(places), [step.items for step in steps], color=BAR)
        axes.set_yticks(list(places), [step.step for step in steps])
        axes.invert_yaxis()
        axes.set_xlabel("items")
        axes.tick_params(axis="y", labelsize=6, pad=1)

    text = ", ".join(f"{step.step}: {step.items}" for step in steps)
    return Panel("Funnel", f"Items after each step: {text}", draw)


def funnel_document(counted: Funnel) -> dict[str, Any]:
    """The funnel as a JSON document."""
    return {
        "steps": [vars(step) for step in counted.steps],
        "filters": [vars(effect) for effect in counted.filters],
        "reasons": [{"stage": stage, "reason": reason, "items": items} for stage, reason, items in counted.reasons],
    }
