"""The explorer as an ASGI application over a folder of runs."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from avpref.errors import AvprefError, ConfigError, InputError
from avpref.explorer.access import Access, Application, Guard
from avpref.explorer.clips.clip_requests import ClipRequests
from avpref.explorer.opened_runs import OpenedRuns
from avpref.explorer.page_templates import STATIC
from avpref.explorer.run_requests import RunRequests, error_page
from avpref.explorer.vote_requests import VoteRequests


def application_of(opened: OpenedRuns, access: Access) -> Application:
    """The application over the runs of ``opened``, behind ``access``."""
    pages, clips = RunRequests(opened), ClipRequests(opened)
    votes = VoteRequests(opened, clips)
    routes = [
        Route("/", pages.list_runs),
        Route("/run/{run}", pages.overview),
        Route("/run/{run}/table/{grid}", pages.table),
        Route("/run/{run}/pair/{pair}", pages.pair),
        Route("/run/{run}/clip/{clip}", pages.clip),
        Route("/run/{run}/compare", pages.compare),
        Route("/run/{run}/leaderboard", pages.leaderboard),
        Route("/run/{run}/sql", pages.sql),
        Route("/run/{run}/clip/{clip}/media", clips.media),
        Route("/run/{run}/clip/{clip}/{drawing}", clips.drawing),
        Route("/run/{run}/studies", votes.list_studies),
        Route("/run/{run}/study/{study}", votes.result),
        Route("/vote/{run}/{study}", votes.welcome),
        Route("/vote/{run}/{study}", votes.join, methods=["POST"]),
        Route("/vote/{run}/{study}/{place:int}", votes.ballot),
        Route("/vote/{run}/{study}/{place:int}/{position:int}", votes.vote, methods=["POST"]),
        Route("/vote/{run}/{study}/{place:int}/{position:int}/{side}/{part}", votes.part),
        Route("/favicon.ico", lambda request: RedirectResponse("/static/icon.svg")),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={AvprefError: _failed}), access)


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, AvprefError)
    status = 404 if isinstance(error, InputError) else 400 if isinstance(error, ConfigError) else 500
    return error_page(error, status)
