"""The folder of Ray's sessions: in the temporary folder, or in a shorter one where the paths of its sockets would be too long."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from avpref.console import say
from avpref.errors import ClusterError

SESSION_FORM = "session_2026-01-01_00-00-00_000000_{process}"
"""Form of the name that Ray gives a session; its length depends on the driver's process id alone."""
LONGEST_SOCKET = "sockets/plasma_store"
"""The longer of the two sockets that Ray makes in a session (the other is ``sockets/raylet``)."""
MAX_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Longest path of a Unix socket: the field of the system call less its closing zero."""
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/run/user/{user}", "/dev/shm")


def socket_bytes(folder: str) -> int:
    """Bytes of the longest path of a socket of a session that this process starts in ``folder``."""
    session = SESSION_FORM.format(process=os.getpid())
    return len(os.fsencode(os.path.join(os.path.realpath(folder), session, LONGEST_SOCKET)))


def ray_folder() -> str:
    """Folder of this user's Ray sessions: the first of the temporary folder and of short ones in which Ray's sockets are possible.

    It is made if it does not exist. Raises ClusterError if there is none.
    """
    first, *others = _candidates()
    if _fits(first):
        return first
    for folder in others:
        if _fits(folder):
            return folder
    raise _no_folder([first, *others])


def say_folder(folder: str) -> None:
    """Tell the user if ``folder`` is not in the temporary folder, and why."""
    usual = _candidates()[0]
    if folder != usual:
        length = socket_bytes(usual)
        why = f"sockets in {usual} would have paths of {length} bytes, {MAX_SOCKET_BYTES} are possible"
        say(f"Ray's session is in {folder}: {why if length > MAX_SOCKET_BYTES else f'{usual} cannot be used'}")


def _candidates() -> list[str]:
    user = os.getuid()
    parents = [tempfile.gettempdir(), *(folder.format(user=user) for folder in SHORT_FOLDERS)]
    return list(dict.fromkeys(os.path.join(parent, f"avpref-ray-{user}") for parent in parents))


def _fits(folder: str) -> bool:
    return socket_bytes(folder) <= MAX_SOCKET_BYTES and _is_usable(folder)


def _is_usable(folder: str) -> bool:
    """Whether this user can write to ``folder``, which is made, and owns it."""
    try:
        Path(folder).mkdir(mode=0o700, exist_ok=True)
        return os.stat(folder).st_uid == os.getuid() and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _no_folder(folders: Sequence[str]) -> ClusterError:
    lengths = ", ".join(
        f"{folder} ({socket_bytes(folder)} bytes{'' if _is_usable(folder) else ', cannot be written'})"
        for folder in folders
    )
    return ClusterError(
        f"no folder for Ray's sessions: the paths of its sockets would have {lengths}",
        f"a folder of this user in which they have at most {MAX_SOCKET_BYTES} bytes",
        "make a folder with a short path and run the command with it: mkdir -p ~/t && TMPDIR=~/t avpref …",
    )
