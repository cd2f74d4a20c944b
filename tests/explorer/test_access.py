"""Who may use the server: this machine without a token, others with it, and no page of another server."""

from __future__ import annotations

import socket

import pytest
from starlette.testclient import TestClient

from avpref.errors import ConfigError
from avpref.explorer.access import Access, access_of, is_loopback
from avpref.explorer.application import application_of
from avpref.explorer.opened_runs import OpenedRuns
from avpref.explorer.serving import bind
from avpref.storage.run_folder import RunFolder


@pytest.fixture
def guarded(shown_run: RunFolder) -> TestClient:
    access = Access("0.0.0.0", 80, "secret-token")
    return TestClient(application_of(OpenedRuns(shown_run.runs), access), base_url="http://machine.example")


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("10.0.0.7", False),
    ],
)
def test_only_loopback_needs_no_token(host: str, is_local: bool) -> None:
    assert is_loopback(host) == is_local
    assert bool(access_of(host, 1).token) != is_local


def test_tokens_are_random() -> None:
    tokens = {access_of("0.0.0.0", 1).token for _ in range(20)}
    assert len(tokens) == 20 and min(map(len, tokens)) >= 32


@pytest.mark.parametrize("path", ["/", "/static/explorer.css", "/run/x/clip/y/media"])
@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", "?token=secret-toke"])
def test_a_wrong_token_lets_nobody_in(guarded: TestClient, path: str, query: str) -> None:
    answer = guarded.get(path + query)
    assert answer.status_code == 403 and "token" in answer.text and not answer.cookies


def test_the_token_becomes_a_cookie_and_leaves_the_address(guarded: TestClient) -> None:
    answer = guarded.get("/?token=secret-token", follow_redirects=False)
    assert answer.status_code == 303 and "token" not in answer.headers["location"]
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert guarded.get("/").status_code == 200


@pytest.mark.parametrize("host", ["attacker.example", "attacker.example:80", "127.0.0.1.attacker.example", ""])
def test_on_loopback_other_names_are_refused(shown_run: RunFolder, host: str) -> None:
    client = TestClient(
        application_of(OpenedRuns(shown_run.runs), Access("127.0.0.1", 80)), base_url="http://127.0.0.1"
    )
    assert client.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8640", "localhost:8640", "[::1]:8640", "[::1]"])
def test_on_loopback_own_names_are_accepted(shown_run: RunFolder, host: str) -> None:
    client = TestClient(
        application_of(OpenedRuns(shown_run.runs), Access("127.0.0.1", 80)), base_url="http://127.0.0.1"
    )
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("headers", [{"origin": "http://attacker.example"}, {"sec-fetch-site": "cross-site"}])
def test_pages_of_others_may_not_send(client: TestClient, headers: dict[str, str]) -> None:
    assert client.post("/", headers=headers).status_code == 403


def test_links_lead_here_and_pages_of_others_embed_nothing(client: TestClient) -> None:
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert client.get("/", headers={**elsewhere, "sec-fetch-mode": "navigate"}).status_code == 200
    for mode in ("no-cors", "cors"):
        assert client.get("/", headers={**elsewhere, "sec-fetch-mode": mode}).status_code == 403


def test_a_port_in_use_is_an_error_with_a_way_out() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="in use") as error:
            bind("127.0.0.1", other.getsockname()[1])
    assert "--port 0" in error.value.fix


def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("192.0.2.1", 0)
