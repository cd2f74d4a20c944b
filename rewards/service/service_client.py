"""Requests to a scorer behind HTTP: at most so many at a time and per second, with a time limit, and repeated where that helps.

Repeated are 408, 409, 425, 429 and 5xx answers, connections that fail, and requests that exceed the time limit. The pause doubles with
each attempt; a ``Retry-After`` of the answer wins, up to :data:`LONGEST_PAUSE_S`. A key never appears in a message.
"""

from __future__ import annotations

import email.utils
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

import httpx

from avpref.errors import ConfigError
from avpref.rewards.service.service_settings import ServiceSettings

REPEATED = frozenset({408, 409, 425, 429, *range(500, 600)})
LONGEST_PAUSE_S = 120.0
MAX_ANSWER_BYTES = 4 * 2**20
EXCERPT = 200

Request = TypeVar("Request")
Answer = TypeVar("Answer")


class ServiceFailure(Exception):
    """Raised for a request that the service did not answer as it must; the message is the reason in the quarantine row."""


class ServiceClient:
    """Sends JSON documents to ``path`` below the URL of ``settings`` and returns JSON objects."""

    def __init__(self, scorer: str, settings: ServiceSettings, path: str = "") -> None:
        self._scorer, self._settings, self._url = scorer, settings, settings.url + path
        self._lock, self._next_start_s = threading.Lock(), 0.0

    def ask_all(self, ask: Callable[[Request], Answer], requests: Sequence[Request]) -> list[Answer]:
        """``ask`` of every request, in their order, ``concurrency`` at a time."""
        with ThreadPoolExecutor(self._settings.concurrency) as threads:
            return list(threads.map(ask, requests))

    def post(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to ``document``. Raises ServiceFailure, and ConfigError where the variable of the key is not set."""
        headers = {"Content-Type": "application/json", **self._key_header}
        body = json.dumps(document, allow_nan=False).encode()
        for attempt in range(1, self._settings.attempts + 1):
            failure, pause_s = self._attempt(body, headers)
            if isinstance(failure, bytes):
                return self._decoded(failure)
            if pause_s is None or attempt == self._settings.attempts:
                times = f" after {attempt} attempts" if attempt > 1 else ""
                raise ServiceFailure(self._without_key(f"{failure}{times}"))
            time.sleep(min(LONGEST_PAUSE_S, max(pause_s, self._settings.backoff_s * 2 ** (attempt - 1))))
        raise AssertionError("at least one attempt")

    def _attempt(self, body: bytes, headers: Mapping[str, str]) -> tuple[bytes | str, float | None]:
        """(answer, None), or (reason, seconds that the service asks to wait; None where another attempt cannot help)."""
        self._wait_for_turn()
        limit_s = self._settings.timeout_s
        deadline = time.monotonic() + limit_s
        too_slow = f"no complete answer within {limit_s:g} s"
        try:
            with self._http.stream("POST", self._url, content=body, headers=dict(headers)) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if time.monotonic() > deadline:
                        return too_slow, 0.0
                    if len(content) > MAX_ANSWER_BYTES:
                        return f"an answer of more than {MAX_ANSWER_BYTES // 2**20} MiB", None
        except httpx.TimeoutException:
            return too_slow, 0.0
        except httpx.TransportError as error:
            return f"{type(error).__name__}: {error}", 0.0
        if response.status_code == 200:
            return bytes(content), None
        excerpt = " ".join(content[:EXCERPT].decode("utf-8", "replace").split())
        pause_s = _retry_after_s(response.headers.get("Retry-After", ""))
        return f"HTTP {response.status_code}: {excerpt}", pause_s if response.status_code in REPEATED else None

    def _wait_for_turn(self) -> None:
        """Wait until the rate of requests allows another one."""
        rate = self._settings.requests_per_s
        if not rate:
            return
        with self._lock:
            start_s = max(time.monotonic(), self._next_start_s)
            self._next_start_s = start_s + 1.0 / rate
        time.sleep(max(0.0, start_s - time.monotonic()))

    def _decoded(self, content: bytes) -> Mapping[str, Any]:
        try:
            answer = json.loads(content)
        except ValueError:
            excerpt = " ".join(content[:EXCERPT].decode("utf-8", "replace").split())
            raise ServiceFailure(self._without_key(f"the answer is not JSON: {excerpt}")) from None
        if not isinstance(answer, Mapping):
            raise ServiceFailure(f"the answer is a {type(answer).__name__}, not a JSON object")
        return answer

    def _without_key(self, message: str) -> str:
        """``message`` without the key, which a service may repeat in its answer."""
        return message.replace(self._key, "***") if self._key else message

    @cached_property
    def _http(self) -> httpx.Client:
        return httpx.Client(timeout=self._settings.timeout_s)

    @cached_property
    def _key(self) -> str:
        name = self._settings.key_variable
        key = os.environ.get(name, "").strip() if name else ""
        if name and not key:
            raise ConfigError(
                f"scorer {self._scorer}: the environment variable {name} (key_variable) is not set",
                "the key of the service in that variable, on every machine with actors",
                f"export {name}=…",
            )
        return key

    @property
    def _key_header(self) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}


def _retry_after_s(value: str) -> float:
    """Seconds of a ``Retry-After`` header (a number, or a date); 0 where there is none."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
