"""The locks are whole, and the installer gives uv the same sources of packages as pip."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "install_environment.py"
RUNTIME, DEV, CPU, CUDA = (ROOT / f"requirements{suffix}.lock" for suffix in ("", "-dev", "-torch-cpu", "-torch-cuda"))
PATIENCE_S = 1500
IMPORTS = """
import torch, ray, prefect, prefect.server.api.server, avpref.cli.main
assert torch.version.cuda is None and torch.ones(2).sum() == 2
"""


def locked(lock: Path) -> list[Requirement]:
    lines = lock.read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, **environment: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": "", **environment})


def names(lock: Path) -> list[str]:
    return [canonicalize_name(requirement.name) for requirement in locked(lock) if applies(requirement)]


@pytest.fixture(scope="module")
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install_environment", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


# locks


@pytest.mark.parametrize("lock", [RUNTIME, DEV, CPU, CUDA], ids=lambda lock: lock.stem)
def test_a_lock_pins_every_package_once(lock: Path) -> None:
    assert all(re.fullmatch(r"==[^,*]+", str(requirement.specifier)) for requirement in locked(lock))
    assert len(set(names(lock))) == len(names(lock)) > 0


def test_no_package_is_in_two_locks() -> None:
    for torch in (CPU, CUDA):
        together = [*names(RUNTIME), *names(DEV), *names(torch)]
        assert len(set(together)) == len(together)


def test_the_locks_fit_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for asked, locks in (
        (project["dependencies"], (RUNTIME, CPU)),
        (project["dependencies"], (RUNTIME, CUDA)),
        (extras["dev"] + extras["notebooks"], (RUNTIME, DEV)),
    ):
        pins = {canonicalize_name(pin.name): pin for lock in locks for pin in locked(lock) if applies(pin)}
        for requirement in map(Requirement, asked):
            (specifier,) = pins[canonicalize_name(requirement.name)].specifier
            assert requirement.specifier.contains(specifier.version), requirement


@pytest.mark.parametrize("lock", [RUNTIME, DEV], ids=lambda lock: lock.stem)
def test_a_lock_names_the_dependencies_of_its_packages(lock: Path) -> None:
    """Packages are installed as the locks name them, without looking for their dependencies."""
    known = {*names(RUNTIME), *names(CPU), *(names(DEV) if lock == DEV else [])}
    missing = []
    for name in names(lock):
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue  # an environment for runs alone, or an older one
        missing += [f"{name}: {text}" for text in needed if applies(Requirement(text)) and not is_in(text, known)]
    assert missing == []


def is_in(requirement: str, known: set[str]) -> bool:
    return canonicalize_name(Requirement(requirement).name) in known


@pytest.mark.parametrize(("system", "version"), [("linux", "2.13.0+cpu"), ("darwin", "2.13.0")])
def test_the_cpu_build_has_a_local_version_on_linux_alone(system: str, version: str) -> None:
    (torch,) = [pin for pin in locked(CPU) if applies(pin, sys_platform=system)]
    assert str(torch.specifier) == f"=={version}"


def test_the_cuda_build_comes_with_its_libraries_on_linux_alone() -> None:
    on = {
        system: [pin.name for pin in locked(CUDA) if applies(pin, sys_platform=system, platform_machine="x86_64")]
        for system in ("linux", "darwin")
    }
    assert on["darwin"] == ["torch"]
    assert {"torch", "triton", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} < set(on["linux"])


# pip's configuration for uv

LISTING = r"""
:env:.find-links='/wheels/own'
global.cert='/certificates.crt'
global.constraint='/limits.txt'
global.extra-index-url='file:///one/simple https://two.example/simple'
global.find-links='/wheels/a\n/wheels/b'
install.index-url='https://mirror.example/simple'
freeze.timeout='5'
"""


def test_uv_reads_the_sources_of_pip(installer: ModuleType) -> None:
    variables = installer.uv_variables(installer.pip_settings(LISTING), {})
    assert variables == {
        "SSL_CERT_FILE": "/certificates.crt",
        "UV_CONSTRAINT": "/limits.txt",
        "UV_DEFAULT_INDEX": "https://mirror.example/simple",
        "UV_FIND_LINKS": "/wheels/own",
        "UV_INDEX": "file:///one/simple https://two.example/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
    }


def test_several_folders_of_wheels_are_listed(installer: ModuleType) -> None:
    settings = installer.pip_settings(r"global.find-links='/wheels/a\n/wheels/b'")
    assert installer.uv_variables(settings, {}) == {"UV_FIND_LINKS": "/wheels/a,/wheels/b"}


def test_without_configuration_uv_is_as_it_is(installer: ModuleType) -> None:
    assert installer.uv_variables(installer.pip_settings(""), {}) == {}


def test_a_variable_of_the_user_is_not_changed(installer: ModuleType) -> None:
    settings = installer.pip_settings(LISTING)
    kept = installer.uv_variables(settings, {"UV_FIND_LINKS": "", "SSL_CERT_FILE": "/mine.crt"})
    assert not {"UV_FIND_LINKS", "SSL_CERT_FILE"} & set(kept)


def test_pip_installs_what_uv_could_not(installer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def install(chosen: object, build: str, is_dev: bool) -> None:
        tried.append((chosen, build, is_dev))
        if chosen == "uv":
            raise installer.InstallError("no network")

    monkeypatch.setattr(installer, "install", install)
    monkeypatch.setattr(installer, "uv", lambda: "uv")
    monkeypatch.setattr(installer, "pip", lambda: "pip")
    monkeypatch.setattr(sys, "argv", ["install", "--torch", "cpu", "--dev"])
    installer.main()
    assert tried == [("uv", "cpu", True), ("pip", "cpu", True)]
    monkeypatch.setattr(sys, "argv", ["install", "--torch", "cpu", "--installer", "uv"])
    with pytest.raises(SystemExit, match="no network"):
        installer.main()


def test_the_cpu_build_is_looked_for_where_pytorch_has_it_if_the_index_lacks_it(
    installer: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def run(command: list[str], variables: dict[str, str]) -> str:
        calls.append(tuple(command))
        if len(calls) == 1:
            raise installer.InstallError("no such version")
        return ""

    monkeypatch.setattr(installer, "run", run)
    monkeypatch.delenv("TORCH_INDEX", raising=False)
    installer.install_torch(installer.pip(), "cpu")
    assert calls[1] == (*calls[0], "--extra-index-url", installer.PYTORCH_INDEX)
    calls.clear()
    with pytest.raises(installer.InstallError):
        installer.install_torch(installer.pip(), "cuda")


@pytest.mark.slow
@pytest.mark.timeout(2 * PATIENCE_S)
@pytest.mark.parametrize("name", ["uv", "pip"])
def test_an_empty_environment_gets_what_runs_need(tmp_path: Path, name: str) -> None:
    """Needs the package index."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    commands: tuple[list[str | Path], ...] = (
        [python, SCRIPT, "--torch", "cpu", "--installer", name],
        [python, "-P", "-c", IMPORTS],
        [python.with_name("avpref"), "--help"],
    )
    for command in commands:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stdout + done.stderr
