"""The work of ``avpref pool open``."""

from __future__ import annotations

from pathlib import Path

from avpref.cli.actions.serve_explorer import announce
from avpref.console import say
from avpref.explorer.access import Access
from avpref.pool.pages.pool_site import serve_pool


def serve(pools: Path, pool: str, address: tuple[str, int], is_shown: bool, as_json: bool) -> int:
    """Serve the pages of a pool at ``address`` (host, port) until Ctrl-C. Raises InputError, ConfigError for a port in use."""

    def opened(access: Access, name: str) -> None:
        announce(access, "", {"pool": name}, is_shown, as_json)

    try:
        serve_pool(pools, pool, address, opened)
    except KeyboardInterrupt:
        say("the server has ended")
    return 0
