"""Without a trace of a Prefect server, reporting does not import Prefect."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avpref.flows.prefect.server_traces import may_have_server

ADDRESS = "http://127.0.0.1:4200/api"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of Prefect beside an empty current folder, and a process without Prefect and its variables."""
    for name in [name for name in os.environ if name.upper().startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_nothing_names_a_server(home: Path) -> None:
    (home / "profiles.toml").write_text('active = "ephemeral"\n[profiles.ephemeral]\n')
    Path("pyproject.toml").write_text('[project]\ndependencies = ["prefect"]\n')
    Path(".env").write_text("TOKEN=1\n")
    assert not may_have_server()


@pytest.mark.parametrize("name", ["PREFECT_API_URL", "prefect_api_url", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"])
def test_a_variable_may_name_a_server(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "local")
    assert may_have_server()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("../home/profiles.toml", f'active = "mine"\n[profiles.mine]\nPREFECT_API_URL = "{ADDRESS}"\n'),
        ("prefect.toml", f'[api]\nurl = "{ADDRESS}"\n'),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{ADDRESS}"\n'),
        (".env", f"PREFECT_API_URL={ADDRESS}\n"),
    ],
)
def test_a_file_that_prefect_reads_names_a_server(home: Path, file: str, text: str) -> None:
    """Prefect itself agrees, in a process of its own."""
    Path(file).write_text(text)
    assert may_have_server()
    code = "from avpref.flows.prefect.prefect_server import server_url; print(server_url())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ADDRESS


def test_where_prefect_is_loaded_it_is_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect", sys)
    assert may_have_server()


def test_the_stages_of_a_pool_need_no_prefect(home: Path) -> None:
    code = """
import sys
import avpref.cli.actions.pool.build_pool
from avpref.flows.prefect import run_reporting as reporting
with reporting.execution("pool-build", {}):
    reporting.note("at work")
    reporting.table("rows", [], "none")
    reporting.emit_event("event", "run", "run", {})
print(reporting.has_server(), "prefect" in sys.modules)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["False", "False"]
