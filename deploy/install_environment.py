"""Installs the locked packages and this checkout into the environment of the Python that runs this file: ``make env``.

uv is used where it is on the path or the index has it, pip otherwise. uv is passed pip's configuration (indexes, folders of wheels,
certificate, constraints), so that both see the same packages. Standard library only.

    .venv/bin/python deploy/install_environment.py --torch cpu          what `make demo` needs
    .venv/bin/python deploy/install_environment.py --torch cpu --dev    what tests, checks and notebooks need too
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTORCH_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where torch's CPU builds for Linux are if the configured index has none."""
UV_VERSION = "0.13.9"
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
TIMEOUT_S = 3600.0
CHECK_BUILD = "import torch; print(torch.__version__, torch.version.cuda or '')"

Settings = Mapping[str, Sequence[str]]
"""Values of pip's options, by their names."""


class InstallError(RuntimeError):
    """An installer ended with an error."""


@dataclass(frozen=True)
class Installer:
    """A command that installs requirements into this environment, and the variables it needs."""

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str]

    def install(self, *arguments: str) -> None:
        """Install what ``arguments`` name, without dependencies, which the lock names too. Raises InstallError."""
        run([*self.command, "--quiet", "--no-deps", *arguments], self.variables)


def main() -> None:
    """Install; if uv fails, pip tries again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", choices=["cpu", "cuda"], required=True, help="which build of torch")
    parser.add_argument("--dev", action="store_true", help="packages for tests, checks and notebooks too")
    parser.add_argument("--installer", choices=["uv", "pip"], help="use only this one; default: uv, then pip")
    chosen = parser.parse_args()
    makers: dict[str, Callable[[], Installer]] = {"uv": uv, "pip": pip}
    names = [chosen.installer] if chosen.installer else list(makers)
    for name in names:
        try:
            install(makers[name](), chosen.torch, chosen.dev)
            return
        except InstallError as error:
            if name == names[-1]:
                sys.exit(f"{error}")
            say(f"{name} failed, {names[-1]} is used:\n{error}")


def install(installer: Installer, build: str, is_dev: bool) -> None:
    """All packages and this checkout. Raises InstallError."""
    locks = ["requirements.lock", *(["requirements-dev.lock"] if is_dev else [])]
    say(f"installing torch for {build.upper()} and {', '.join(locks)} with {installer.name}")
    install_torch(installer, build)
    installer.install(*(word for lock in locks for word in ("-r", str(ROOT / lock))))
    installer.install("--no-build-isolation", "--editable", str(ROOT))
    run([*PIP, "check"], {})
    version, _, cuda = run([sys.executable, "-c", CHECK_BUILD], {}).strip().partition(" ")
    if build == "cuda" and not cuda:
        raise InstallError(
            f"torch {version} has no CUDA; the package index, or a folder of wheels in pip's settings, offers it first"
        )


def install_torch(installer: Installer, build: str) -> None:
    """torch from the configured index; its CPU build for Linux, which that index may lack, from the index of PyTorch."""
    lock = ("-r", str(ROOT / f"requirements-torch-{build}.lock"))
    try:
        installer.install(*lock)
    except InstallError:
        if build == "cuda":
            raise
        installer.install(*lock, "--extra-index-url", os.environ.get("TORCH_INDEX", PYTORCH_INDEX))


def pip() -> Installer:
    """pip of this environment, which reads its configuration itself."""
    return Installer("pip", (*PIP, "install"), {})


def uv() -> Installer:
    """uv from the path or from the index. Raises InstallError if there is none."""
    settings = pip_settings(run([*PIP, "config", "list"], {}))
    beside = Path(sys.executable).with_name("uv")
    program = shutil.which("uv") or (str(beside) if beside.exists() else "")
    if not program:
        run([*PIP, "install", "--quiet", f"uv=={UV_VERSION}"], {})
        program = str(beside)
    return Installer("uv", (program, "pip", "install", "--python", sys.executable), uv_variables(settings, os.environ))


def pip_settings(listing: str) -> dict[str, list[str]]:
    """Options of `pip config list` that hold for ``pip install``. As in pip, the command's section counts more than ``global``, and
    the environment more than both."""
    of_section: dict[str, dict[str, list[str]]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, option = key.rpartition(".")
        if section in of_section:
            of_section[section][option] = value.strip().strip("'\"").replace("\\n", " ").split()
    return {option: values for settings in of_section.values() for option, values in settings.items()}


def uv_variables(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """uv's variables for pip's settings. A variable of ``environment`` is not changed.

    With further indexes, uv compares versions over all of them, as pip does; on its own it stops at the first that has the name.
    """
    joined = {option: " ".join(values) for option, values in settings.items()}
    variables = {
        "UV_DEFAULT_INDEX": joined.get("index-url", ""),
        "UV_INDEX": joined.get("extra-index-url", ""),
        "UV_INDEX_STRATEGY": "unsafe-best-match" if "extra-index-url" in joined else "",
        "UV_FIND_LINKS": ",".join(settings.get("find-links", ())),
        "UV_CONSTRAINT": joined.get("constraint", ""),
        "UV_INSECURE_HOST": joined.get("trusted-host", ""),
        "UV_NO_INDEX": "1" if joined.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "UV_HTTP_TIMEOUT": joined.get("timeout", joined.get("default-timeout", "")),
        "SSL_CERT_FILE": joined.get("cert", ""),
        "HTTPS_PROXY": joined.get("proxy", ""),
    }
    return {name: value for name, value in variables.items() if value and name not in environment}


def run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """What ``command`` prints. Raises InstallError with its output if it fails."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S)
    if done.returncode:
        raise InstallError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr).strip()}")
    return done.stdout


def say(line: str) -> None:
    """Print a message for the user."""
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
