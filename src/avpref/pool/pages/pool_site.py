"""The pages of a pool as an ASGI application, with the explorer's guard, player and style."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from avpref.errors import AvprefError, ConfigError, InputError
from avpref.explorer.access import Access, Application, Guard
from avpref.explorer.page_templates import STATIC
from avpref.explorer.serving import serve_application
from avpref.pool.pages.pool_database import OpenedPool, open_pool_pages
from avpref.pool.pages.pool_requests import PoolRequests, error_page


def pool_application(pool: OpenedPool, access: Access) -> Application:
    """The application over ``pool``, behind ``access``."""
    requests = PoolRequests(pool)
    routes = [
        Route("/", requests.overview),
        Route("/table/{grid}", requests.table),
        Route("/clip/{clip}", requests.clip),
        Route("/clip/{clip}/{drawing}", requests.drawing),
        Route("/favicon.ico", lambda request: RedirectResponse("/static/icon.svg")),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={AvprefError: _failed}), access)


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, AvprefError)
    status = 404 if isinstance(error, InputError) else 400 if isinstance(error, ConfigError) else 500
    return error_page(error, status)


def serve_pool(pools: Path, pool: str, address: tuple[str, int], opened: Callable[[Access, str], None]) -> None:
    """Serve the pages of a pool at ``address`` (host, port); ``opened`` gets the access and the pool's name before the first request.

    Raises InputError where there is no such pool, ConfigError for a port in use.
    """
    shown = open_pool_pages(pools, pool)
    shown.cursor()
    serve_application(
        address, lambda access: pool_application(shown, access), lambda access: opened(access, shown.name)
    )
