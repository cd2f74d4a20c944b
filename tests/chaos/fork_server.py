"""A process that imports the product once and forks the loop on request, so that hundreds of kills are affordable.

What it forks is as mortal as any process: each loop has a process group of its own, and the whole group is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 240.0


@dataclass
class ForkServer:
    """Forks loops, kills them, and reads their logs."""

    process: subprocess.Popen[bytes]
    log: Path
    errors: Path
    child: int = 0
    unread: bytes = b""

    def start(self, root: Path, kill: str = "", jumps_s: Sequence[float] = ()) -> None:
        """Start a loop on the run in ``root``; ``kill`` is written as in AVPREF_KILL. The log is emptied first."""
        assert self.process.stdin is not None
        self.log.write_text("")
        order = {"root": str(root), "log": str(self.log), "kill": kill, "jumps": list(jumps_s)}
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        self.process.stdin.flush()
        self.child = int(self._line(PATIENCE_S) or 0)
        assert self.child, self.errors.read_text()

    def ended(self, wait_s: float = 0.0) -> int | None:
        """The loop's exit status, or None while it runs."""
        line = self._line(wait_s)
        return None if line is None else int(line)

    def kill(self) -> int:
        """SIGKILL to the loop's whole group; how the loop ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child, signal.SIGKILL)
        status = self.ended(PATIENCE_S)
        assert status is not None
        return status

    def attempted(self) -> list[str]:
        """Units that the last loop began: STAGE/FINGERPRINT/NAME."""
        return [line.removeprefix("unit ") for line in self._lines() if line.startswith("unit ")]

    def hits(self) -> list[str]:
        """Fail points that the last loop hit, in order."""
        return [line for line in self._lines() if not line.startswith("unit ")]

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def _line(self, wait_s: float) -> bytes | None:
        """The next line, or None after ``wait_s``. Reads the descriptor itself: select knows nothing of Python's buffers."""
        assert self.process.stdout is not None
        while b"\n" not in self.unread:
            if not select.select([self.process.stdout], [], [], wait_s)[0]:
                return None
            more = os.read(self.process.stdout.fileno(), 4096)
            assert more, self.errors.read_text()
            self.unread += more
        line, _, self.unread = self.unread.partition(b"\n")
        return line


@contextlib.contextmanager
def open_fork_server(folder: Path) -> Iterator[ForkServer]:
    """A fork server with its files in ``folder``; it and its loops are killed after the block."""
    log, errors = folder / "fork_server.log", folder / "fork_server.err"
    script = str(Path(__file__).with_name("fork_server_process.py"))
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stream,
            start_new_session=True,
        )
    server = ForkServer(process, log, errors)
    try:
        yield server
    finally:
        for group in (server.child, process.pid):
            with contextlib.suppress(ProcessLookupError):
                if group:
                    os.killpg(group, signal.SIGKILL)
        process.communicate()
