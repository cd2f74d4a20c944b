"""Tests run in a container's environment, and give the same answers under another instruction set.

In the container's environment the checkout is read-only, HOME is empty, there is no network but loopback, the temporary folder is
a new one and SIGINT is ignored.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE_S = 1500.0
IN_A_CONTAINER = (
    "tests/foundation",
    "tests/storage/test_lock.py",
    "tests/storage/test_object_files.py",
    "tests/datasets/test_pairing.py",
    "tests/rewards/weights",
    "tests/execution/test_pool.py",
    "tests/execution/test_nodes.py",
    "tests/flows/test_loop.py",
    "tests/cli/test_run_commands.py",
)
"""Tests of interruption, of servers on loopback, of properties (hypothesis), of Ray, of whole runs and of commands."""
INSIDE = """
mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && ip link set lo up
trap '' INT
cd "$1" && shift && exec "$@"
"""
BY_PROCESSOR = (
    "tests/flows/test_quarantine.py",
    "tests/flows/test_gate_flow.py",
    "tests/flows/test_loop.py",
    "tests/flows/test_reproduce.py",
    "tests/flows/test_tampering.py",
    "tests/flows/stages/test_audit.py",
    "tests/cli/test_pair_commands.py",
)
"""Tests that look at pairs and gate decisions of runs whose networks are random."""


def selected(files: Sequence[str]) -> list[str]:
    missing = [name for name in files if not (ROOT / name).exists()]
    assert not missing, f"no such tests: {missing}"
    return [sys.executable, "-m", "pytest", *files]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A new folder with a short name: the sockets of Ray and of servers must have short ones."""
    with tempfile.TemporaryDirectory(prefix="avp", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def passes(command: Sequence[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]


def test_in_a_container_tests_pass(temporary: Path) -> None:
    own_network = ["unshare", "--mount", "--net", "sh", "-euc", INSIDE, "sh", str(ROOT)]
    if subprocess.run([*own_network, "true"], capture_output=True).returncode:
        pytest.skip("this user cannot make a read-only mount and a network of its own (needs unshare and its rights)")
    for name in ("home", "tmp"):
        (temporary / name).mkdir()
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "PYTHONPATH", "OMP_WAIT_POLICY")}
    folders = {"HOME": str(temporary / "home"), "TMPDIR": str(temporary / "tmp")}
    passes([*own_network, *selected(IN_A_CONTAINER)], {**kept, **folders, "PYTHONSAFEPATH": "1"})


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_pairs_and_decisions_of_tests_do_not_depend_on_the_instruction_set(temporary: Path, capability: str) -> None:
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "TMPDIR": str(temporary)}
    passes(selected(BY_PROCESSOR), environment)
