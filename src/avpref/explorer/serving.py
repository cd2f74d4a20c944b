"""Serves the explorer until it is interrupted."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable

import uvicorn

from avpref.errors import ConfigError
from avpref.explorer.access import Access, Application, access_of
from avpref.explorer.application import application_of
from avpref.explorer.opened_runs import OpenedRuns
from avpref.storage.run_folder import RunFolder


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on ``host`` and ``port`` (0: a free one). Raises ConfigError for a port in use or a wrong host."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as opened:
            listening = opened.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
            opened.pop_all()
    except OSError as error:
        free = "choose another one (--port 0 takes a free one), or stop the program that uses it"
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"port {port} of {host} is in use", "a free port", free) from error
        found = f"cannot listen on {host} port {port}: {error.strerror or error}"
        raise ConfigError(found, "an address of this machine and a port that this user may open", free) from error
    return listening


def serve(run: RunFolder, address: tuple[str, int], opened: Callable[[Access], None]) -> None:
    """Serve the runs beside ``run`` at ``address`` (host, port); ``opened`` is called before the first request is answered.

    The database of ``run`` is made first, so that its first page is quick. Raises ConfigError as :func:`bind`, StorageError where the
    run's store cannot be reached.
    """
    runs = OpenedRuns(run.runs)

    def build(access: Access) -> Application:
        _ = runs.run(run.run_id).database
        return application_of(runs, access)

    serve_application(address, build, opened)


def serve_application(
    address: tuple[str, int], build: Callable[[Access], Application], opened: Callable[[Access], None]
) -> None:
    """Serve what ``build`` makes at ``address`` (host, port); ``opened`` is called before the first request is answered.

    Raises ConfigError as :func:`bind`, and as ``build``.
    """
    with bind(*address) as listening:
        access = access_of(address[0], listening.getsockname()[1])
        application = build(access)
        config = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off", server_header=False)
        opened(access)
        uvicorn.Server(config).run(sockets=[listening])
