"""Who may use the server: programs on this machine, and others with the token; and what a page may load: this server alone."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "avpref_explorer"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Headers of every answer: pages load and send nothing outside this server, and no other page embeds them."""
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Access:
    """Where the server listens. ``token`` is empty on loopback, where only programs of this machine reach it."""

    host: str
    port: int
    token: str = ""

    def url_of(self, path: str = "") -> str:
        """Address of the page ``path``, with the token; where the server listens on all addresses, with this machine's name."""
        name = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        host = f"[{name}]" if ":" in name else name
        query = f"?token={self.token}" if self.token else ""
        return f"http://{host}:{self.port}/{path}{query}"

    def is_own_name(self, host: str) -> bool:
        """Whether the header ``Host`` names this server. On loopback only names of this machine are accepted.

        A page elsewhere whose name points to 127.0.0.1 sends its own name, so it is refused.
        """
        if self.token:
            return True
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() and not host.endswith("]") else host
        return name.strip("[]").lower() in LOCAL_NAMES


def access_of(host: str, port: int) -> Access:
    """The access of a server on ``host``: without a token on loopback, with a random one elsewhere."""
    return Access(host, port, "" if is_loopback(host) else secrets.token_urlsafe(24))


def is_loopback(host: str) -> bool:
    """Whether ``host`` is an address of this machine that no other reaches."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Guard:
    """Checks every request before ``application`` sees it, and adds :data:`HEADERS` to every answer."""

    application: Application
    access: Access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the protocol ASGI."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.application(scope, receive, send)
            return

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                added = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self.application)(scope, receive, send_with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that may not pass; None for one that may."""
        if not self.access.is_own_name(request.headers.get("host", "")):
            return PlainTextResponse("this server answers under 127.0.0.1 and localhost", 421)
        if not self._is_of_own_page(request):
            return PlainTextResponse("a page of another server may not send this", 403)
        return self._without_token(request) if self.access.token else None

    def _without_token(self, request: Request) -> Response | None:
        if _equal(request.cookies.get(COOKIE, ""), self.access.token):
            return None
        if not _equal(request.query_params.get("token", ""), self.access.token):
            return PlainTextResponse("no token or a wrong one; open the address that the command printed", 403)
        answer = RedirectResponse(str(request.url.remove_query_params("token")), 303)
        answer.set_cookie(COOKIE, self.access.token, httponly=True, samesite="strict")
        return answer

    def _is_of_own_page(self, request: Request) -> bool:
        """Whether the request comes from a page of this server, or reads a whole page that a link elsewhere leads to."""
        reads = request.method in ("GET", "HEAD")
        if reads and request.headers.get("sec-fetch-mode", "navigate") == "navigate":
            return True
        site = request.headers.get("sec-fetch-site", "same-origin")
        origin = request.headers.get("origin", "")
        return site in ("same-origin", "none") and origin in ("", f"http://{request.headers.get('host', '')}")


def _equal(first: str, second: str) -> bool:
    """Comparison in a time that does not depend on where the texts differ."""
    return hmac.compare_digest(first.encode(), second.encode())
