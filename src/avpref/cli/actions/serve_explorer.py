"""The work of ``avpref pairs open`` and of ``avpref votes serve``."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Mapping

from avpref.cli.actions.open_report import has_display
from avpref.cli.output import print_json, print_line
from avpref.console import say
from avpref.explorer import serving
from avpref.explorer.access import Access
from avpref.storage.run_folder import RunFolder


def serve(folder: RunFolder, path: str, address: tuple[str, int], is_shown: bool, as_json: bool) -> int:
    """Serve the runs beside ``folder`` at ``address`` (host, port) until Ctrl-C, and open the page ``path``.

    ``is_shown``: open a browser where there is a display. Raises ConfigError for a port in use.
    """

    def opened(access: Access) -> None:
        announce(access, path, {"run_id": folder.run_id}, is_shown, as_json)

    try:
        serving.serve(folder, address, opened)
    except KeyboardInterrupt:
        say("the server has ended")
    return 0


def announce(access: Access, path: str, names: Mapping[str, str], is_shown: bool, as_json: bool) -> None:
    """Print the address of the page ``path``, as a document together with ``names``, and open a browser where there is a display."""
    url = access.url_of(path)
    if as_json:
        print_json({**names, "url": url, "port": access.port})
    else:
        print_line(url)
    sys.stdout.flush()
    say("Ctrl-C ends the server" + ("; the token in the address lets others in" if access.token else ""))
    if is_shown and has_display():
        webbrowser.open(url)
