"""Members of tar files as WebDataset writes them: the files of a sample share the part of their name before the first point."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

BLOCK = 512
TEXT_KEYS = ("text", "caption", "prompt", "description")
"""Keys of a JSON file beside a video under which its text is looked for, in this order."""
MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True)
class TarMember:
    """A member: its name, and where its bytes lie in the tar file."""

    name: str
    offset: int
    num_bytes: int

    @property
    def key(self) -> str:
        """The name of its sample: the folder, and the file's name until the first point."""
        path = PurePosixPath(self.name)
        return str(path.parent / path.name.partition(".")[0])


class TarEndsEarly(Exception):
    """Raised after the last whole member of a tar file that ends before its end mark."""


def members(stream: BinaryIO) -> Iterator[TarMember]:
    """The files in a tar file that is not compressed, in its order.

    Raises TarEndsEarly after the last whole one where the file is cut short, tarfile.ReadError for what is no tar file.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r:") as tar:
        end = 0
        while True:
            try:
                member = tar.next()
            except tarfile.ReadError as error:
                raise TarEndsEarly(str(error)) from error
            if member is None:
                break
            end = member.offset_data + member.size
            if end > size:
                raise TarEndsEarly(f"{member.name} ends at byte {end}, and the file at {size}")
            if member.isreg():
                yield TarMember(member.name, member.offset_data, member.size)
        mark = -(-end // BLOCK) * BLOCK
        stream.seek(mark)
        block = stream.read(BLOCK)
        if len(block) < BLOCK or block.strip(b"\0"):
            raise TarEndsEarly("no end mark after the last member")


def text_in(data: bytes, name: str) -> str:
    """The text in a ``.txt`` or ``.json`` file beside a video; empty where there is none."""
    decoded = data.decode("utf-8", "replace").strip()
    if not name.endswith(".json"):
        return decoded
    try:
        document = json.loads(decoded)
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    return next((document[key].strip() for key in TEXT_KEYS if isinstance(document.get(key), str)), "")
