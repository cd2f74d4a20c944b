"""Real Prefect servers on loopback, on SQLite or PostgreSQL, with deployments from prefect.yaml and process workers."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import yaml

ROOT = Path(__file__).parents[4]
POOL, QUEUE = "avpref", "loop"
PATIENCE_S = 600.0
COMMAND_S = 900.0
POSTGRES_USERS = ("postgres", "nobody")
"""Who may own a PostgreSQL cluster where the tests run as root."""


def program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def until(what: str, probe: Callable[[], Any]) -> Any:
    """Poll ``probe`` until it gives something true."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.5)
    raise AssertionError(f"waited {PATIENCE_S:.0f} s for {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def without_prefect(home: Path) -> dict[str, str]:
    """This environment without anything that configures Prefect but a home of its own and no telemetry."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AVPREF_"))}
    return kept | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONSAFEPATH": "1",
        "PWD": str(ROOT),
    }


@contextmanager
def started(command: list[str], environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, which is gone at the end of the block."""
    with open(log, "ab") as stream:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class Server:
    """A server that can be killed and started again on the same database and port."""

    folder: Path
    database: str = ""
    port: int = field(default_factory=free_port)
    processes: ExitStack = field(default_factory=ExitStack)
    process: subprocess.Popen[bytes] | None = None
    root: Path = ROOT

    def program(self, name: str) -> str:
        """The path of a program of this environment."""
        return program(name)

    def until(self, what: str, probe: Callable[[], Any]) -> Any:
        """Poll ``probe`` until it gives something true."""
        return until(what, probe)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/api"

    @property
    def environment(self) -> dict[str, str]:
        return without_prefect(self.folder / "home") | {"PREFECT_API_URL": self.url}

    def start(self) -> None:
        command = [program("prefect"), "server", "start", "--host", "127.0.0.1", "--port", str(self.port), "--no-ui"]
        extra = {"PREFECT_API_DATABASE_CONNECTION_URL": self.database} if self.database else {}
        environment = self.environment | extra
        self.process = self.processes.enter_context(started(command, environment, self.folder / "server.log"))
        until(f"the server ({self.folder / 'server.log'})", self.is_healthy)

    def kill(self) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def worker(self) -> subprocess.Popen[bytes]:
        """Start a worker that ends with the server; its output is in worker.log."""
        command = [program("prefect"), "worker", "start", "--pool", POOL]
        return self.processes.enter_context(started(command, self.environment, self.folder / "worker.log"))

    def deploy(self, change: Callable[[dict[str, Any]], None] = lambda deployment: None) -> dict[str, dict[str, Any]]:
        """Create the pool and every deployment of prefect.yaml, each changed by ``change``; by their whole names."""
        tree = yaml.safe_load((ROOT / "prefect.yaml").read_text())
        tree["pull"][0]["prefect.deployments.steps.set_working_directory"]["directory"] = str(ROOT)
        for deployment in tree["deployments"]:
            deployment["work_pool"] = json.loads(json.dumps(deployment["work_pool"]))
            change(deployment)
        project = self.folder / "prefect.yaml"
        project.write_text(yaml.safe_dump(tree))
        self.must("prefect", "work-pool", "create", POOL, "--type", "process", "--overwrite")
        if QUEUE not in self.queues():
            self.must("prefect", "work-queue", "create", QUEUE, "--pool", POOL, "--limit", "1")
        self.must("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(project))
        return self.deployments()

    def queues(self) -> dict[str, int | None]:
        """The limit of each queue of the pool."""
        return {each["name"]: each["concurrency_limit"] for each in self.ask(f"/work_pools/{POOL}/queues/filter", {})}

    def deployments(self) -> dict[str, dict[str, Any]]:
        names = {flow["id"]: flow["name"] for flow in self.ask("/flows/filter", {})}
        return {f"{names[each['flow_id']]}/{each['name']}": each for each in self.ask("/deployments/filter", {})}

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        with build_opener(ProxyHandler({})).open(request, timeout=30) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    def is_healthy(self) -> bool:
        try:
            return self.ask("/health") is True
        except OSError:
            return False

    def run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program(name), *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=COMMAND_S
        )

    def must(self, name: str, *arguments: str) -> str:
        done = self.run(name, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_deployment(self, name: str, **parameters: Any) -> str:
        """Ask for a run of a deployment; returns the flow run's id."""
        found = self.deployments()[name]["id"]
        return self.ask(f"/deployments/{found}/create_flow_run", {"parameters": parameters})["id"]

    def flow_run(self, its_id: str) -> dict[str, Any]:
        return self.ask(f"/flow_runs/{its_id}")

    def flow_runs(self, **having: Any) -> list[dict[str, Any]]:
        return [
            run
            for run in self.ask("/flow_runs/filter", {})
            if all(run["parameters"].get(key) == value for key, value in having.items())
        ]

    def children(self, parent: dict[str, Any]) -> list[dict[str, Any]]:
        return self.ask("/flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [parent["id"]]}}})

    def stages(self, parent: dict[str, Any]) -> dict[str, str]:
        """State of each subflow by the flow's name."""
        return {self.flow_name(each): each["state_name"] for each in self.children(parent)}

    def of_runs(self, what: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Task runs or artifacts of some flow runs."""
        return self.ask(f"/{what}/filter", {"flow_runs": {"id": {"any_": [run["id"] for run in runs]}}})

    def flow_name(self, run: dict[str, Any]) -> str:
        return self.ask(f"/flows/{run['flow_id']}")["name"]

    def logs(self) -> str:
        """What server and worker wrote, for a failed assertion."""
        return "".join(path.read_text()[-3000:] for path in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="module")
def make_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """Starts a server; every one is gone at the end of the module."""
    made: list[Server] = []

    def make(database: str = "") -> Server:
        made.append(Server(tmp_path_factory.mktemp("prefect"), database))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.processes.close()


def _postgres_program(name: str) -> str:
    found = shutil.which(name) or next((str(path) for path in Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), "")
    if not found:
        pytest.skip(f"PostgreSQL's {name} is not installed (Debian: apt-get install postgresql)")
    return found


def _postgres_user() -> str | None:
    """The server refuses to run as root, so root lends it to another user."""
    if os.geteuid() != 0:
        return None
    for name in POSTGRES_USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no other user to run it")


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The address of a PostgreSQL cluster of its own, as Prefect takes it. Skips where there are no binaries."""
    initdb, postgres, user = _postgres_program("initdb"), _postgres_program("postgres"), _postgres_user()
    folder, port = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip()), free_port()
    if user is not None:
        shutil.chown(folder, user)
    data = folder / "data"
    subprocess.run(
        [initdb, "-D", str(data), "-U", "prefect", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        user=user,
        cwd="/",
        stdout=subprocess.DEVNULL,
    )
    options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "max_connections=200"]
    process = subprocess.Popen([postgres, "-D", str(data), *options], user=user, cwd="/", stderr=subprocess.DEVNULL)
    try:
        until("PostgreSQL", lambda: _listens(port))
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        process.wait(timeout=60)
        shutil.rmtree(folder)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
