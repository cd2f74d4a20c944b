"""doctor: each check on machines that are and are not as they should be."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from avpref.cli.doctor import machine_checks, prefect_checks
from avpref.cli.doctor.check import Check
from avpref.config.executor_settings import RayExecutor
from avpref.config.loading import load_config
from avpref.config.scoring_settings import ModelSettings, ScoringSettings

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = str(CONFIGS / "tiny.yaml")


class Server(http.server.BaseHTTPRequestHandler):
    """Answers as ``answers`` say, 404 for everything else."""

    answers: ClassVar[dict[str, object]] = {}

    def do_GET(self):
        body = json.dumps(self.answers.get(self.path)).encode()
        self.send_response(200 if self.path in self.answers else 404)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, *arguments):
        pass


@contextmanager
def serving(answers):
    handler = type("Handler", (Server,), {"answers": answers})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """In a folder without a prefect.yaml."""
    monkeypatch.chdir(tmp_path)


def statuses(findings):
    """By name, without what depends on the SQLAlchemy that is installed here."""
    return {check.name: check.status for check in findings if check.name != "prefect schedules"}


HEALTHY = {
    "/api/health": True,
    "/api/work_pools/filter": [],
    "/api/deployments/filter": [],
    "/api/flow_runs/count": 0,
}


def test_no_server_is_fine():
    findings = statuses(prefect_checks.run_checks("", free_port()))
    assert findings == {"prefect": "ok", "prefect port": "ok"}


def test_a_healthy_server():
    with serving(HEALTHY) as port:
        findings = statuses(prefect_checks.run_checks(f"http://127.0.0.1:{port}/api"))
    assert set(findings.values()) == {"ok"}


def test_a_server_that_is_not_there():
    url = f"http://127.0.0.1:{free_port()}/api"
    check = next(prefect_checks.run_checks(url))
    assert check.status == "fail" and url in check.found and "prefect server start" in check.fix


def test_pools_without_a_worker_and_late_runs():
    pools = [{"name": "lonely", "status": "NOT_READY"}, {"name": "busy", "status": "READY"}]
    with serving(HEALTHY | {"/api/work_pools/filter": pools, "/api/flow_runs/count": 3}) as port:
        findings = {check.name: check for check in prefect_checks.run_checks(f"http://127.0.0.1:{port}/api")}
    pool, late = findings["prefect pools"], findings["prefect late runs"]
    assert (pool.status, pool.fix) == ("warn", "prefect worker start --pool lonely") and "busy" not in pool.found
    assert late.status == "warn" and "3" in late.found


def test_a_server_that_answers_half_the_questions():
    with serving({"/api/health": True}) as port:
        findings = statuses(prefect_checks.run_checks(f"http://127.0.0.1:{port}/api"))
    assert findings == {
        "prefect": "ok",
        "prefect pools": "warn",
        "prefect deployments": "warn",
        "prefect late runs": "warn",
        "prefect port": "ok",
    }


@pytest.mark.parametrize(("version", "num_findings"), [("2.0.54", 0), ("2.1.0", 1), ("2.1.9", 1), ("3.0", 1)])
def test_an_sqlalchemy_with_which_schedules_never_fire(version, num_findings):
    found = list(prefect_checks.scheduler(version))
    assert len(found) == num_findings
    assert all(check.status == "warn" and version in check.found and "sqlalchemy<2.1" in check.fix for check in found)


def project_with(tmp_path, *pools):
    lines = [f"  - {{name: d{index}, work_pool: {{name: {pool}}}}}" for index, pool in enumerate(pools)]
    file = tmp_path / "prefect.yaml"
    file.write_text("\n".join(["deployments:", *lines]))
    return file


def test_a_pool_that_prefect_yaml_names_and_the_server_lacks(tmp_path):
    pools = [{"name": "there", "status": "READY"}]
    with serving(HEALTHY | {"/api/work_pools/filter": pools}) as port:
        url, project = f"http://127.0.0.1:{port}/api", project_with(tmp_path, "there", "gone")
        findings = {check.name: check for check in prefect_checks.run_checks(url, project=project)}
    found = findings["prefect pools"]
    assert (found.status, found.fix) == ("fail", "prefect work-pool create gone --type process")
    assert "gone" in found.found and "there" not in found.found.split("names")[1].split(",")[0]


@pytest.mark.parametrize("text", ["", "deployments: 7", "deployments: [x]", "a: [", "name: other"])
def test_a_prefect_yaml_that_names_no_pool(tmp_path, text):
    (tmp_path / "prefect.yaml").write_text(text)
    with serving(HEALTHY) as port:
        url = f"http://127.0.0.1:{port}/api"
        findings = statuses(prefect_checks.run_checks(url, project=tmp_path / "prefect.yaml"))
    assert findings["prefect pools"] == "ok"


def deployment(**changes):
    properties: dict[str, dict[str, object]] = {"config_path": {}, "runs": {}, "seed": {}}
    return {
        "name": "weekly-retrain",
        "entrypoint": "avpref.flows.retrain.retrain",
        "work_pool_name": "avpref",
        "work_queue_name": "loop",
        "global_concurrency_limit": None,
        "parameters": {"config_path": "a.yaml"},
        "parameter_openapi_schema": {"properties": properties},
        "schedules": [{"slug": "weekly", "parameters": {"seed": 1}, "schedule": {"cron": "0 4 * * 6"}}],
    } | changes


def deployment_checks(found, limit=1):
    answers = {"/api/deployments/filter": [found], "/api/work_pools/avpref/queues/loop": {"concurrency_limit": limit}}
    with serving(HEALTHY | answers) as port:
        checks = list(prefect_checks.run_checks(f"http://127.0.0.1:{port}/api"))
    return [check for check in checks if check.name == "prefect deployments"]


def test_a_deployment_that_can_run():
    (check,) = deployment_checks(deployment())
    assert check.status == "ok"


def test_deployments_of_others_are_not_looked_at():
    (check,) = deployment_checks(deployment(entrypoint="their.flow", work_pool_name=None))
    assert check.status == "ok" and check.found.startswith("0 ")


def test_a_deployment_whose_pool_is_gone():
    (check,) = deployment_checks(deployment(work_pool_name=None))
    assert check.status == "fail" and "weekly-retrain" in check.found and "work-pool create" in check.fix


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"parameters": {"sed": 1}}, "weekly-retrain has"),
        ({"schedules": [{"slug": "late", "parameters": {"sed": 1}, "schedule": {}}]}, "schedule late"),
        ({"schedules": [{"parameters": {"sed": 1}, "schedule": {"cron": "1 2 3 4 5"}}]}, "schedule 1 2 3 4 5"),
    ],
)
def test_unknown_parameters_of_deployments_and_schedules(changes, place):
    (check,) = deployment_checks(deployment(**changes))
    assert check.status == "fail" and place in check.found and "'sed'" in check.found
    assert "did you mean seed?" in check.fix and "config_path" in check.fix


def test_a_queue_of_long_runs_without_a_limit():
    (check,) = deployment_checks(deployment(), limit=None)
    assert check.status == "warn"
    assert check.fix == "prefect work-queue set-concurrency-limit loop 1 --pool avpref"


def test_a_port_taken_by_something_else():
    with serving({"/": "a web site"}) as port:
        (check,) = list(prefect_checks.run_checks("", port))[1:]
    assert check.status == "warn" and "something else" in check.found
    assert f"--port {port + 1}" in check.fix


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH\r\n"])
def test_a_port_taken_by_something_that_does_not_speak_http(greeting):
    class Talker(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(greeting)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talker) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        findings = statuses(prefect_checks.run_checks("", server.server_address[1]))
        server.shutdown()
        thread.join()
    assert findings["prefect port"] == "warn"


@pytest.mark.parametrize("url", ["http://127.0.0.1:port/api", "nonsense", "http://[::1/api"])
def test_an_address_that_is_none(url):
    check = next(prefect_checks.run_checks(url, free_port()))
    assert check.status == "fail" and url in check.found
    assert len(list(prefect_checks.run_checks(url, free_port()))) == 2


@pytest.mark.parametrize(
    ("version", "status"), [((3, 11), "ok"), ((3, 12), "ok"), ((3, 10), "fail"), ((3, 13), "fail")]
)
def test_the_interpreter(version, status):
    assert machine_checks.python(version).status == status


def test_encoders_that_are_there_and_that_are_not():
    assert machine_checks.encoders().status == "ok"
    found = machine_checks.encoders(("libx264", "no-such-codec"))
    assert found.status == "fail" and "no-such-codec" in found.found and found.fix


def module(folder, name, text):
    (folder / f"{name}.py").write_text(text)


def test_unwanted_packages(tmp_path, monkeypatch):
    module(tmp_path, "fine_extra", "")
    module(tmp_path, "broken_extra", "raise OSError('libtorch.so: undefined symbol')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert machine_checks.unwanted("absent_extra").status == "ok"
    assert machine_checks.unwanted("fine_extra").status == "warn"
    broken = machine_checks.unwanted("broken_extra")
    assert broken.status == "fail" and "undefined symbol" in broken.found
    assert broken.fix == "python -m pip uninstall -y broken_extra"
    sys.modules.pop("fine_extra")


def test_a_torch_that_does_not_load(monkeypatch):
    monkeypatch.setattr(machine_checks, "_import_problem", lambda name: f"{name}: no libcudart")
    assert (machine_checks.torch().status, machine_checks.gpu(None).status, machine_checks.encoders().status) == (
        "fail",
        "ok",
        "fail",
    )


def test_a_gpu_that_is_asked_for_and_absent(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = load_config(TINY).settings
    assert machine_checks.gpu(settings).status == "ok"
    asking = settings.model_copy(update={"executor": RayExecutor(num_gpus_per_actor=0.5)})
    assert machine_checks.gpu(asking).status == "fail"


def test_disk_space(tmp_path, monkeypatch):
    settings = load_config(TINY).settings
    runs = tmp_path / "not" / "yet"
    assert machine_checks.disk(settings, runs).status == "ok"
    assert not runs.exists()
    small = type("Usage", (), {"free": 1})
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda place: small)
    found = machine_checks.disk(settings, runs)
    assert found.status == "fail" and "--runs" in found.fix
    assert machine_checks.shared_memory(tmp_path).status == "warn"
    assert machine_checks.shared_memory(tmp_path / "none").status == "ok"


def test_optional_packages():
    assert machine_checks.optional("absent_package", "the notebook", "pip install it").fix == "pip install it"


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """A machine without a file of any reward model."""
    from huggingface_hub import constants

    monkeypatch.setenv("AVPREF_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "weights"


def with_scoring(**values):
    settings = load_config(TINY).settings
    return settings.model_copy(update={"scoring": ScoringSettings(**values)})


def test_absent_weights_are_listed_with_size_licence_and_command(no_weights):
    found = {check.name: check for check in machine_checks.reward_models(load_config(TINY).settings)}
    assert set(found) == {f"weights {name}" for name in ("audiobox", "imagebind", "synchformer", "videoalign", "clap")}
    assert {check.status for check in found.values()} == {"warn"}
    check = found["weights imagebind"]
    assert "4,804 MB" in check.found and "CC-BY-NC-SA-4.0" in check.found and "no commercial use" in check.found
    assert check.fix == "avpref weights fetch imagebind"
    assert machine_checks.reward_models(None)[0].status == "warn"


@pytest.mark.parametrize(("scorer", "model"), [("videoalign", "videoalign"), ("javis_score", "imagebind")])
def test_weights_that_the_configuration_asks_for(no_weights, scorer, model):
    asking = statuses(machine_checks.reward_models(with_scoring(scorers=(scorer,))))
    assert [name for name, status in asking.items() if status == "fail"] == [f"weights {model}"]
    dry = statuses(machine_checks.reward_models(with_scoring(scorers=(scorer,), preset="tiny")))
    assert set(dry.values()) == {"warn"}


def test_weights_in_the_folder_that_the_configuration_names(no_weights, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("model.safetensors", "config.json"):
        (own / name).write_text("{}")
    settings = with_scoring(scorers=("audiobox",), audiobox=ModelSettings(folder=str(own)))
    assert statuses(machine_checks.reward_models(settings))["weights audiobox"] == "ok"
    gone = with_scoring(scorers=("audiobox",), audiobox=ModelSettings(folder=str(tmp_path / "typo")))
    check = machine_checks.reward_models(gone)[0]
    assert check.status == "fail" and "typo" in check.found


def test_half_a_file_is_no_file(no_weights):
    (no_weights / "imagebind").mkdir(parents=True)
    (no_weights / "imagebind" / "imagebind_huge.pth").write_bytes(b"half")
    check = machine_checks.reward_models(None)[1]
    assert check.status == "warn" and "cut short" in check.found and "fetch imagebind" in check.fix


def test_the_whole_examination(call, monkeypatch, tmp_path):
    monkeypatch.setattr(prefect_checks, "run_checks", lambda url: [Check("prefect", "ok", "")])
    answer = call("doctor", "--config", TINY, "--runs", tmp_path, "--json")
    checks = {check["name"]: check for check in answer.document["checks"]}
    assert {
        "python",
        "torch",
        "encoders",
        "disk",
        "shared memory",
        "ray",
        "gpu",
        "prefect",
        "marimo",
        "weights audiobox",
    } <= set(checks)
    failing = [name for name, check in checks.items() if check["status"] == "fail"]
    assert answer.code == (1 if failing else 0)
    assert answer.document["is_ready"] is (not failing)
    assert all(check["fix"] for check in checks.values() if check["status"] == "fail")


def test_a_bad_configuration_is_a_finding(call, monkeypatch, tmp_path):
    monkeypatch.setattr(prefect_checks, "run_checks", lambda url: [])
    answer = call("doctor", "--config", str(CONFIGS / "none.yaml"), "--runs", tmp_path)
    assert answer.code == 1
    assert "fail  configuration" in answer.out and "fix:" in answer.out
