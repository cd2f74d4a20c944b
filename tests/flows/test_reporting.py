"""The seam to Prefect without a server, and with one that is not there."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from prefect import flow, task
from prefect.settings import PREFECT_API_URL, temporary_settings

from avpref.errors import AvprefError
from avpref.flows import reporting


@task
def double(number: int) -> int:
    return 2 * number


@flow
def doubled(number: int) -> int:
    return reporting.call(double, number)


@pytest.fixture
def no_server() -> Iterator[None]:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


@pytest.fixture
def dead_url() -> Iterator[str]:
    """A port that nothing listens on for as long as the test holds it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


def test_without_a_server_flows_and_tasks_are_plain_functions(no_server: None) -> None:
    assert not reporting.has_server()
    assert reporting.call(doubled, 21) == 42
    assert reporting.listener() is None


def test_a_table_outside_a_flow_is_no_artifact(dead_url: str) -> None:
    reporting.table("quarantine", [{"reason": "any"}], "nobody asks the server")


def test_a_server_that_does_not_answer_is_named_with_what_to_do(dead_url: str) -> None:
    with pytest.raises(AvprefError) as caught:
        reporting.call(doubled, 21)
    assert dead_url in caught.value.found
    assert "prefect server start" in caught.value.fix and "unset PREFECT_API_URL" in caught.value.fix
    assert caught.value.exit_code == 1
