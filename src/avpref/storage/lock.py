"""One command at a time on a folder: an advisory lock whose file names its holder. It ends with the holder's process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from avpref.console import say
from avpref.errors import StorageError
from avpref.storage.local_files import storage_errors

LOCK_FILE = "lock"
LONGEST_COMMAND = 160
LONGEST_OWNER = 400
OWNER_READS, READ_EVERY_S = 20, 0.05


@contextlib.contextmanager
def owned(root: Path, wait: bool = False) -> Iterator[None]:
    """Own ``root`` for the length of the block.

    Where another command owns it: raises StorageError that names the command, its process, its host and the time of its start;
    with ``wait`` prints that on stderr and waits for the command to end, without a limit.
    """
    path = root / LOCK_FILE
    with storage_errors(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _take(handle, root, wait)
        with storage_errors(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, _myself().encode(), 0)
        yield
    finally:
        os.close(handle)


def is_in_use(root: Path) -> bool:
    """Whether a command owns ``root``. The shared lock that tests this is released at once."""
    path = root / LOCK_FILE
    if not path.exists():
        return False
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _take(handle: int, root: Path, wait: bool) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        owner = _owner(handle)
    if not wait:
        fix = f"stop it, or wait for it: avpref runs resume {root.name} --runs {root.parent} --wait (retrain takes --wait too)"
        raise StorageError(f"{root.name} is in use by {owner}", "one command at a time", fix) from None
    say(f"{root.name} is in use by {owner}; waiting for it to end")
    fcntl.flock(handle, fcntl.LOCK_EX)


def _owner(handle: int) -> str:
    """The owner's text in the lock file. An owner that has just taken the lock gets a second to write it."""
    for _ in range(OWNER_READS):
        owner = os.pread(handle, LONGEST_OWNER, 0).decode(errors="replace")
        if owner:
            return owner
        time.sleep(READ_EVERY_S)
    return "another command"


def _myself() -> str:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:LONGEST_COMMAND]
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}"
