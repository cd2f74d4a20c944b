"""Calls a function of this product in the Python environment of a pool, before the pool has actors.

An environment with a Python of its own is entered by starting that Python on this machine. One that Ray installs from requirements
is entered through Ray, which builds it. Either way the environment needs this product's code and Ray of the same version.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from avpref.config.executor_settings import RayExecutor
from avpref.errors import AvprefError, ConfigError
from avpref.execution.ray_session import join_ray, ray_session

Argument = TypeVar("Argument")
Result = TypeVar("Result")

TIMEOUT_S = 300.0
VERSIONS = "python {}.{}, ray {}"
BOOT = """
import pickle, sys
from importlib.metadata import version
if sys.argv[3] != "python {}.{}, ray {}".format(*sys.version_info[:2], version("ray")):
    sys.exit("it has python {}.{}, ray {}, expected ".format(*sys.version_info[:2], version("ray")) + sys.argv[3])
with open(sys.argv[1], "rb") as stream:
    function, argument = pickle.load(stream)
from avpref.errors import AvprefError
try:
    answer = function(argument)
except AvprefError as error:
    answer = error
with open(sys.argv[2], "wb") as stream:
    pickle.dump(answer, stream)
"""


def call_in_environment(
    function: Callable[[Argument], Result], argument: Argument, executor: RayExecutor, pool: str
) -> Result:
    """``function(argument)`` in the environment of ``executor``, which is that of ``pool``.

    ``function`` is a function of a module of this product. Raises its AvprefErrors, and ConfigError for an environment that
    cannot be built or entered.
    """
    if executor.runtime_env.pip:
        return _call_through_ray(function, argument, executor, pool)
    with tempfile.TemporaryDirectory(prefix="avpref-call-") as folder:
        request, answer = Path(folder) / "request", Path(folder) / "answer"
        request.write_bytes(pickle.dumps((function, argument)))
        _run(executor, pool, [str(request), str(answer), _versions()])
        result: Result | AvprefError = pickle.loads(answer.read_bytes())
    if isinstance(result, AvprefError):
        raise result
    return result


def _versions() -> str:
    from importlib.metadata import version

    return VERSIONS.format(*sys.version_info[:2], version("ray"))


def _run(executor: RayExecutor, pool: str, arguments: list[str]) -> None:
    environment = executor.runtime_env
    python = environment.py_executable or sys.executable
    variables = {**os.environ, **environment.env_vars}
    try:
        done = subprocess.run(
            [python, "-c", BOOT, *arguments], capture_output=True, text=True, env=variables, timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _unusable(pool, f"{python} does not start: {error}") from None
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines()
        quoted = "\n".join(f"  | {line}" for line in lines[-12:])
        raise _unusable(pool, f"{python} cannot be used:\n{quoted}")


def _call_through_ray(
    function: Callable[[Argument], Result], argument: Argument, executor: RayExecutor, pool: str
) -> Result:
    import ray

    with ray_session():
        join_ray(executor)
        remote = ray.remote(function).options(num_cpus=0, max_retries=0, runtime_env=executor.runtime_env.for_ray({}))
        try:
            result: Result = ray.get(remote.remote(argument), timeout=TIMEOUT_S)
        except ray.exceptions.RuntimeEnvSetupError as error:
            raise _unusable(pool, f"Ray cannot build it: {' '.join(str(error).split())[-600:]}") from None
        except ray.exceptions.GetTimeoutError:
            raise _unusable(pool, f"Ray has not built it within {TIMEOUT_S:g} s") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, AvprefError):
                raise error.cause from None
            raise _unusable(pool, f"{type(error.cause).__name__}: {error.cause}") from None
    return result


def _unusable(pool: str, problem: str) -> ConfigError:
    return ConfigError(
        f"executor.pools.{pool}.runtime_env: {problem}",
        f"an environment with {_versions()}, this avpref and what the scorer needs, on every machine",
        f"--set executor.pools.{pool}.runtime_env.py_executable=VENV/bin/python",
    )
