"""Answers to requests for pages of runs: list of runs, overview, tables, comparison of clips, leaderboard, SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from avpref.errors import AvprefError, ConfigError
from avpref.explorer import grids, sql_box
from avpref.explorer.clips.sides import side_of_clip
from avpref.explorer.comparisons import compare, pair_row
from avpref.explorer.opened_runs import OpenedRun, OpenedRuns
from avpref.explorer.page_templates import pages
from avpref.explorer.run_overview import overview_of, state_of
from avpref.explorer.selection_views import leaderboard_rows
from avpref.storage.run_folder import RunFolder, open_root

LETTERS = ("A", "B")


@dataclass(frozen=True)
class RunRequests:
    """Pages over the runs of a folder. Every method answers one kind of request; errors of the product become a page."""

    runs: OpenedRuns

    def list_runs(self, request: Request) -> Response:
        """All runs of the folder, newest first."""
        rows = [_run_line(self.runs, name) for name in self.runs.names()]
        return page("runs.html.j2", runs=self.runs.runs, rows=rows)

    def overview(self, request: Request) -> Response:
        """The overview of a run."""
        run = self._run(request)
        return page("run.html.j2", run=run, here="overview", data=overview_of(run), absent=run.database.absent)

    def table(self, request: Request) -> Response:
        """One page of a table, as the query of the address says."""
        run, grid = self._run(request), _grid(request.path_params["grid"])
        view = grids.view_of(request.query_params.multi_items())
        if "columns" not in request.query_params and "show" in request.query_params:
            return RedirectResponse(str(request.url.path) + view.query(), 303)
        rows = grids.read_rows(run.database.cursor(), grid, view)
        return page(
            "table.html.j2",
            run=run,
            here=grid.name,
            grid=grid,
            data=rows,
            sizes=grids.PAGE_SIZES,
            operators=grids.OPERATORS,
            is_number=grids.is_number,
            drop=lambda item: rows.view.query(filters=_without(rows.view.filters, item), page=1),
            link=lambda row: row_link(run.run_id, grid, row, rows.view),
            absent=run.database.absent,
        )

    def pair(self, request: Request) -> Response:
        """A pair: both clips in the player, and why they are a pair."""
        run = self._run(request)
        pair = pair_row(run, request.path_params["pair"])
        names = ("chosen", "rejected")
        return self._comparison(request, run, [pair[name] for name in names], names, pair)

    def clip(self, request: Request) -> Response:
        """One clip."""
        run = self._run(request)
        return self._comparison(request, run, [request.path_params["clip"]], ("clip",), None)

    def compare(self, request: Request) -> Response:
        """Any two clips of a run; ``first`` and ``second`` name them."""
        run = self._run(request)
        ids = [request.query_params.get(name, "") for name in ("first", "second")]
        names = [request.query_params.get(name, default)[:40] for name, default in (("as", "first"), ("to", "second"))]
        return self._comparison(request, run, ids, names, None)

    def leaderboard(self, request: Request) -> Response:
        """The pairs that each strategy would give."""
        run = self._run(request)
        rows = leaderboard_rows(run)
        return page("leaderboard.html.j2", run=run, here="leaderboard", rows=rows, absent=run.database.absent)

    def sql(self, request: Request) -> Response:
        """The SQL box, with the answer to the query in the address."""
        run, text = self._run(request), request.query_params.get("query", "").strip()
        answer, error = None, None
        if text:
            try:
                answer = sql_box.answer(run.database.path, text)
            except ConfigError as refusal:
                error = refusal
        tables = _columns(run)
        return page(
            "sql.html.j2",
            run=run,
            here="sql",
            text=text,
            answer=answer,
            error=error,
            tables=tables,
            limits=sql_box,
            absent=run.database.absent,
            status=400 if error else 200,
        )

    def _comparison(
        self, request: Request, run: OpenedRun, ids: Sequence[str], names: Sequence[str], pair: dict[str, Any] | None
    ) -> Response:
        data = compare(run, ids, names)
        sides = [
            side_of_clip(run.run_id, letter, name, clip)
            for letter, name, clip in zip(LETTERS, names, data.clips, strict=False)
        ]
        query = [item for item in request.query_params.multi_items() if item[0] not in ("first", "second", "as", "to")]
        view = grids.view_of(query)
        beside = ("", "", 0, 0)
        if pair is not None:
            beside = grids.rows_beside(run.database.cursor(), grids.GRIDS["pairs"], view, pair["pair_id"])
        return page(
            "comparison.html.j2",
            run=run,
            here="pairs" if pair else "candidates",
            data=data,
            sides=sides,
            pair=pair,
            beside=beside,
            query=view.query(),
            absent=run.database.absent,
        )

    def _run(self, request: Request) -> OpenedRun:
        return self.runs.run(request.path_params["run"])


def page(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """The page ``template`` with ``values``."""
    return HTMLResponse(pages().get_template(template).render(**values), status)


def error_page(error: AvprefError, status: int) -> HTMLResponse:
    """A page that shows the three parts of an error."""
    return page("error.html.j2", status=status, error=error)


def row_link(run_id: str, grid: grids.Grid, row: dict[str, Any], view: grids.View) -> str:
    """The address of a row's own page; empty where it has none."""
    match grid.name:
        case "pairs":
            return f"/run/{run_id}/pair/{row['pair_id']}{view.query()}"
        case "candidates":
            return f"/run/{run_id}/clip/{row['candidate_id']}"
        case "held-out" if row["reference"] and row["policy"]:
            return f"/run/{run_id}/compare?first={row['reference']}&second={row['policy']}&as=reference&to=policy"
        case "skipped":
            view = grids.View(filters=(grids.Filter("prompt_id", "=", row["prompt_id"]),))
            return f"/run/{run_id}/table/candidates{view.query()}"
        case _:
            return ""


def _grid(name: str) -> grids.Grid:
    if name not in grids.GRIDS:
        raise ConfigError(f"no table {name!r}", f"one of {', '.join(grids.GRIDS)}", "choose one from the menu")
    return grids.GRIDS[name]


def _without(filters: Sequence[grids.Filter], item: grids.Filter) -> tuple[grids.Filter, ...]:
    return tuple(other for other in filters if other != item)


def _columns(run: OpenedRun) -> list[tuple[str, list[str]]]:
    query = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal ORDER BY table_oid, column_index"
    tables: dict[str, list[str]] = {}
    for table, column in run.database.cursor().execute(query).fetchall():
        tables.setdefault(table, []).append(column)
    return sorted(tables.items())


def _run_line(runs: OpenedRuns, name: str) -> dict[str, Any]:
    """A run of the list; a folder that cannot be read is listed with the reason."""
    try:
        folder: RunFolder = open_root(runs.runs.resolve() / name)
        manifest = folder.tables.current("pairs")
        verdict = folder.documents.read("evaluation.json") or {}
        return {
            "run_id": name,
            "state": state_of(folder),
            "pairs": None if manifest is None else manifest.rows,
            "verdict": verdict.get("gate", {}).get("verdict", ""),
            "is_readable": True,
        }
    except AvprefError as error:
        return {"run_id": name, "state": error.found, "pairs": None, "verdict": "", "is_readable": False}
