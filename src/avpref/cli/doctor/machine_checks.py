"""The checks of ``avpref doctor`` on this machine. Each tests one thing and never raises; tests pass the thing in."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from avpref.cli.doctor import prefect_checks
from avpref.cli.doctor.check import FAIL, OK, WARN, Check
from avpref.config.executor_settings import RayExecutor
from avpref.config.loading import load_config
from avpref.config.schema import Settings
from avpref.errors import AvprefError
from avpref.execution.ray_session import OBJECT_STORE_BYTES
from avpref.rewards.weights.benchmark_models import BENCH_MODELS
from avpref.rewards.weights.catalogue import MODELS, Model, resolve, size_text, terms_text

REINSTALL = "python -m pip install -r requirements.lock"
UNWANTED = ("torchaudio", "torchvision", "torchcodec")
"""Builds of these that do not fit the installed torch break other packages at import; avpref needs none of them."""
OLDEST, NEWEST = (3, 11), (3, 12)
MIB = 2**20
USES_FILES_OF = {
    "javis_score": "imagebind",
    "imagebind_sliding": "imagebind",
    "clip_score": "clip",
    "cavp_score": "cavp",
}
"""Scorers that use another reward model's files."""


def run_checks(config: Path, overrides: Sequence[str], runs: Path) -> list[Check]:
    """Every check, for runs of ``config`` in the folder ``runs``."""
    settings, configured = _settings(config, overrides)
    checks = [python(sys.version_info[:2]), torch()]
    checks += [unwanted(name) for name in UNWANTED]
    checks += [encoders(), gpu(settings), configured]
    if settings is not None:
        checks.append(disk(settings, runs))
    checks += reward_models(settings)
    checks += [shared_memory(Path("/dev/shm")), ray()]
    checks += prefect_checks.run_checks(_prefect_url())
    checks += [optional("tensorboard", "the curves", REINSTALL)]
    checks += [optional("marimo", "the notebook", "python -m pip install 'avpref[notebooks]'")]
    return checks


def python(release: tuple[int, ...]) -> Check:
    """Whether the lock file supports the interpreter."""
    text = ".".join(map(str, release))
    if OLDEST <= release <= NEWEST:
        return Check("python", OK, text)
    return Check("python", FAIL, f"{text}, expected 3.11 or 3.12", "python3.11 -m venv .venv")


def torch() -> Check:
    """Whether torch can be imported."""
    problem = _import_problem("torch")
    if problem:
        return Check("torch", FAIL, problem, REINSTALL)
    return Check("torch", OK, str(importlib.import_module("torch").__version__))


def unwanted(name: str) -> Check:
    """Whether an unneeded package is installed, and whether it can be imported."""
    if importlib.util.find_spec(name) is None:
        return Check(name, OK, "not installed, not needed")
    problem = _import_problem(name)
    status, observation = (FAIL, f"installed and broken: {problem}") if problem else (WARN, "installed, not needed")
    return Check(name, status, observation, f"python -m pip uninstall -y {name}")


def encoders(names: Sequence[str] = ("libx264", "aac")) -> Check:
    """Whether PyAV can write H.264 and AAC."""
    problem = _import_problem("av")
    if problem:
        return Check("encoders", FAIL, problem, REINSTALL)
    av = importlib.import_module("av")
    missing = [name for name in names if not _can_encode(name)]
    if missing:
        fix = "python -m pip install --force-reinstall --only-binary av av"
        return Check("encoders", FAIL, f"PyAV {av.__version__} without {', '.join(missing)}", fix)
    return Check("encoders", OK, f"PyAV {av.__version__} with {', '.join(names)}")


def gpu(settings: Settings | None) -> Check:
    """Whether there is a CUDA device, and whether the executor asks for one."""
    wants = settings is not None and _gpus_wanted(settings) > 0
    problem = _import_problem("torch")
    cuda = None if problem else importlib.import_module("torch").cuda
    if cuda is not None and cuda.is_available():
        return Check("gpu", OK, ", ".join(cuda.get_device_name(index) for index in range(cuda.device_count())))
    if wants:
        fix = "--set executor.num_gpus_per_actor=0, or a machine with a GPU"
        return Check("gpu", FAIL, "no CUDA device, and executor.num_gpus_per_actor asks for one", fix)
    return Check("gpu", OK, "no CUDA device; this configuration runs on the CPU")


def disk(settings: Settings, runs: Path) -> Check:
    """Whether twice the bytes that a run would write are free."""
    from avpref.flows.dry_run import estimate

    folder = next(path for path in (runs.resolve(), *runs.resolve().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    try:
        need = 2 * estimate(settings).total_bytes
    except AvprefError as error:
        return Check("disk", WARN, f"{_size(free)} free; the need is unknown: {error.found}", error.fix)
    observation = f"{_size(free)} free in {folder}, twice the need is {_size(need)}"
    if free < need:
        return Check("disk", FAIL, observation, "free disk space, or choose another folder: --runs DIR")
    if not os.access(folder, os.W_OK):
        return Check("disk", FAIL, f"{folder} cannot be written to", "choose another folder: --runs DIR")
    return Check("disk", OK, observation)


def shared_memory(folder: Path) -> Check:
    """Whether Ray's object store fits into shared memory."""
    if not folder.is_dir():
        return Check("shared memory", OK, f"no {folder} on this system")
    free = shutil.disk_usage(folder).free
    observation = f"{_size(free)} free in {folder}, Ray's object store takes {_size(OBJECT_STORE_BYTES)}"
    if free < OBJECT_STORE_BYTES:
        return Check("shared memory", WARN, observation, "docker run --shm-size=1g, or --set executor.kind=in_process")
    return Check("shared memory", OK, observation)


def ray() -> Check:
    """Whether Ray is installed; it is not started."""
    if importlib.util.find_spec("ray") is None:
        return Check("ray", FAIL, "not installed", REINSTALL)
    return Check("ray", OK, version("ray"))


def reward_models(settings: Settings | None) -> list[Check]:
    """Whether the files of each reward model are present. Missing files fail where the configuration scores with the model.

    Networks of benchmarks are left out unless the configuration scores with them: a benchmark names those that it lacks.
    """
    needed = [model for model in MODELS if model not in BENCH_MODELS or _reward_files(model.name, settings)[1]]
    return [_reward_model(model, settings) for model in needed]


def _reward_model(model: Model, settings: Settings | None) -> Check:
    folder, is_needed = _reward_files(model.name, settings)
    try:
        resolve(model, folder)
    except AvprefError as error:
        return Check(f"weights {model.name}", FAIL if is_needed else WARN, error.found, error.fix)
    return Check(f"weights {model.name}", OK, f"{size_text(model.num_bytes)} there; {terms_text(model.terms)}")


def _reward_files(name: str, settings: Settings | None) -> tuple[Path | None, bool]:
    """The folder that the configuration names for a reward model's files, and whether it scores with them."""
    if settings is None:
        return None, False
    scoring = settings.scoring
    users = [use for use in scoring.uses if USES_FILES_OF.get(use.use, use.use) == name]
    folders = (use.settings.get("folder") or getattr(getattr(scoring, use.use, None), "folder", "") for use in users)
    folder = str(next(folders, ""))
    return Path(folder) if folder else None, bool(users) and scoring.preset == "full"


def optional(name: str, what: str, fix: str) -> Check:
    """Whether a package that only ``what`` needs is installed."""
    if importlib.util.find_spec(name) is None:
        return Check(name, WARN, f"not installed; needed for {what}", fix)
    return Check(name, OK, version(name))


def _settings(config: Path, overrides: Sequence[str]) -> tuple[Settings | None, Check]:
    try:
        return load_config(config, overrides).settings, Check("configuration", OK, str(config))
    except AvprefError as error:
        return None, Check("configuration", FAIL, error.found, error.fix)


def _prefect_url() -> str:
    problem = _import_problem("prefect")
    if problem:
        return os.environ.get("PREFECT_API_URL", "")
    from avpref.flows.prefect.prefect_server import server_url

    return server_url()


def _gpus_wanted(settings: Settings) -> float:
    match settings.executor:
        case RayExecutor() as executor:
            return executor.num_gpus_per_actor
        case _:
            return 0.0


def _can_encode(name: str) -> bool:
    av = importlib.import_module("av")
    try:
        av.Codec(name, "w")
    except ValueError:  # PyAV's UnknownCodecError
        return False
    return True


def _import_problem(name: str) -> str:
    """The error of importing ``name`` (not installed, or a shared library does not load); empty where it works."""
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        return f"{name}: {error}"
    return ""


def _size(num_bytes: int) -> str:
    return f"{num_bytes / MIB:,.0f} MiB" if num_bytes < 1024 * MIB else f"{num_bytes / MIB / 1024:,.1f} GiB"
