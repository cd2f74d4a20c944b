"""Answers to requests for pages of a pool: overview with the funnel, tables, clips with sound, drawings."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response

from avpref.config.pool.pool_settings import WriteSettings
from avpref.errors import AvprefError, ConfigError
from avpref.explorer import grids
from avpref.explorer.clips import clip_drawings
from avpref.explorer.clips.range_answers import KEPT
from avpref.explorer.clips.sides import Side
from avpref.explorer.page_templates import PAGES, pages
from avpref.identity import digest
from avpref.pool.cut.cut_stage import source_of
from avpref.pool.funnel import funnel
from avpref.pool.measure.clip_window import ClipWindow
from avpref.pool.pages.pool_database import GRIDS, LAYOUT, OpenedPool
from avpref.pool.scan.pool_source import opened_source
from avpref.pool.show.pool_state import clip_document, pool_state
from avpref.pool.write.clip_writing import encode_window, written_size
from avpref.storage.local_files import LocalFiles

SHOWN_PX = 360
"""Largest height of a clip on its page."""
DRAWINGS = {
    "picture": ("mp4", "video/mp4", clip_drawings.picture),
    "sound": ("wav", "audio/wav", clip_drawings.sound),
    "spectrogram": ("png", "image/png", clip_drawings.spectrogram),
    "curves": ("json", "application/json", clip_drawings.curves),
}
"""Files that are made from a clip: ending, media type, and the function that makes them."""


@dataclass(frozen=True)
class PoolRequests:
    """Pages over one pool; at most two clips are decoded at a time."""

    pool: OpenedPool
    _decoding: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(2))

    def overview(self, request: Request) -> Response:
        """The funnel, what each filter does, the commonest reasons, and the measures."""
        counted = funnel(self.pool.folder)
        most = max([step.items for step in counted.steps], default=0)
        return self._page("pool.html.j2", "overview", funnel=counted, most=most, state=pool_state(self.pool.folder))

    def table(self, request: Request) -> Response:
        """One page of a table, as the query of the address says."""
        grid = _grid(request.path_params["grid"])
        view = grids.view_of(request.query_params.multi_items())
        if "columns" not in request.query_params and "show" in request.query_params:
            return RedirectResponse(str(request.url.path) + view.query(), 303)
        rows = grids.read_rows(self.pool.cursor(), grid, view)
        return self._page(
            "table.html.j2",
            grid.name,
            layout="of_pool.html.j2",
            grid=grid,
            data=rows,
            sizes=grids.PAGE_SIZES,
            operators=grids.OPERATORS,
            is_number=grids.is_number,
            drop=lambda item: rows.view.query(
                filters=tuple(other for other in rows.view.filters if other != item), page=1
            ),
            link=lambda row: row_link(grid, row, rows.view),
        )

    def clip(self, request: Request) -> Response:
        """A clip with its sound, its origin and its measures."""
        row = self.pool.clip(request.path_params["clip"])
        view = grids.view_of(request.query_params.multi_items())
        measures = clip_document(self.pool.folder, row["clip_id"])["rows"]
        return self._page(
            "pool_clip.html.j2",
            "clips",
            clip=row,
            sides=[_side(row)],
            drawings=True,
            measures=measures,
            beside=grids.rows_beside(self.pool.cursor(), GRIDS["clips"], view, row["clip_id"]),
            query=view.query(),
        )

    def drawing(self, request: Request) -> Response:
        """A drawing of a clip; status 404 for one that cannot be decoded, with the reason."""
        row, name = self.pool.clip(request.path_params["clip"]), request.path_params["drawing"]
        if name not in DRAWINGS:
            return PlainTextResponse(f"no drawing {name}; expected one of {', '.join(DRAWINGS)}", 404)
        ending, media_type, make = DRAWINGS[name]
        kept = f"{name}/{digest(name, LAYOUT, row['clip_id'])}.{ending}"
        files, path = self._media(row)

        def made() -> bytes:
            with self._decoding:
                return make(files, path)

        return FileResponse(self.pool.made.path(kept, made), media_type=media_type, headers=KEPT)

    def _media(self, row: dict[str, Any]) -> tuple[LocalFiles, str]:
        """The store and the name of a clip's file: the written one, or one of at most 360 rows that is made of its source."""
        store = self.pool.folder.files
        if row["file"] and isinstance(store, LocalFiles) and store.exists(row["file"]):
            return store, row["file"]
        settings = WriteSettings(height_px=min(SHOWN_PX, row["source_height_px"] // 2 * 2))

        def made() -> bytes:
            pool = self.pool.folder
            window = ClipWindow(row["start_s"], row["start_s"] + row["length_s"], written_size(settings), pool.rules, 0)
            with self._decoding, opened_source(source_of(row), pool.config.scan.bucket) as media:
                return encode_window(media, window, settings).data

        path = f"preview/{digest('preview', LAYOUT, row['clip_id'])}.mp4"
        self.pool.made.path(path, made)
        return LocalFiles(self.pool.made.root), path

    def _page(self, template: str, here: str, **values: Any) -> HTMLResponse:
        environment = _environment()
        return HTMLResponse(environment.get_template(template).render(pool=self.pool.name, here=here, **values))


def error_page(error: AvprefError, status: int) -> HTMLResponse:
    """A page that shows the three parts of an error."""
    return HTMLResponse(_environment().get_template("error.html.j2").render(error=error), status)


def row_link(grid: grids.Grid, row: dict[str, Any], view: grids.View) -> str:
    """The address of a row's own page, or of its clips; empty where it has none."""
    match grid.name:
        case "clips":
            return f"/clip/{row['clip_id']}{view.query()}"
        case "sources" if row["clips"]:
            return "/table/clips" + grids.View(filters=(grids.Filter("source_id", "=", row["source_id"]),)).query()
        case _:
            return ""


def _grid(name: str) -> grids.Grid:
    if name not in GRIDS:
        raise ConfigError(f"no table {name!r}", f"one of {', '.join(GRIDS)}", "choose one from the menu")
    return GRIDS[name]


def _side(row: dict[str, Any]) -> Side:
    size = row["source_width_px"], row["source_height_px"]
    return Side("A", row["source"], f"/clip/{row['clip_id']}", row["length_s"], row["source_fps_hz"], *size)


def _environment() -> Environment:
    """The explorer's environment of templates, with those of this folder first."""
    folders = [str(Path(__file__).with_name("templates")), str(PAGES)]
    return pages().overlay(loader=FileSystemLoader(folders))
