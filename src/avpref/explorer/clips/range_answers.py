"""Answers with a media file, or with the range of its bytes that a browser asks for (RFC 9110, one range)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from avpref.storage.files import Files
from avpref.storage.local_files import LocalFiles

PIECE_BYTES = 1 << 18
RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
KEPT = {"Cache-Control": "private, max-age=86400, immutable"}
"""Clips are named by their content, so a browser may keep them."""


def media_answer(files: Files, name: str, request: Request) -> Response:
    """The file ``name``, whole or the range that is asked for; status 404 where it is gone, 416 for an impossible range."""
    if not files.exists(name):
        return PlainTextResponse(f"{name} is missing; expected: the file that was committed", 404)
    if isinstance(files, LocalFiles):
        return FileResponse(files.path(name), media_type="video/mp4", headers=KEPT, content_disposition_type="inline")
    return _ranged(files, name, request.headers.get("range"))


def _ranged(files: Files, name: str, asked: str | None) -> Response:
    size = files.num_bytes(name)
    headers = {**KEPT, "Accept-Ranges": "bytes"}
    match = RANGE.match(asked or "")
    if match is None or match.groups() == ("", ""):
        headers["Content-Length"] = str(size)
        return StreamingResponse(_pieces(files, name, 0, size), 200, headers, "video/mp4")
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
    headers |= {"Content-Range": f"bytes {start}-{end}/{size}", "Content-Length": str(end - start + 1)}
    return StreamingResponse(_pieces(files, name, start, end + 1), 206, headers, "video/mp4")


def _pieces(files: Files, name: str, start: int, end: int) -> Iterator[bytes]:
    with files.open(name) as stream:
        stream.seek(start)
        while start < end:
            piece = stream.read(min(PIECE_BYTES, end - start))
            if not piece:
                return
            start += len(piece)
            yield piece
