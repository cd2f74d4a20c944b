"""Answers to requests for clips: media by range, thumbnails, spectrograms, sounds and curves, which are made once and kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response

from avpref.domain import Candidate
from avpref.explorer.clips import clip_drawings
from avpref.explorer.clips.range_answers import KEPT, media_answer
from avpref.explorer.opened_runs import OpenedRun, OpenedRuns
from avpref.identity import digest
from avpref.storage.files import Files

LAYOUT = 1
"""Number of the drawings; a change of how they are made changes it, so that kept files of before are not shown."""


@dataclass(frozen=True)
class Drawing:
    """A file made from a clip: ending, media type, and the function that makes it."""

    ending: str
    media_type: str
    make: Callable[[Files, Candidate], bytes]


DRAWINGS = {
    "thumbnail": Drawing(
        "jpg", "image/jpeg", lambda media, clip: clip_drawings.thumbnail(media, clip.path, clip.duration_s)
    ),
    "spectrogram": Drawing("png", "image/png", lambda media, clip: clip_drawings.spectrogram(media, clip.path)),
    "picture": Drawing("mp4", "video/mp4", lambda media, clip: clip_drawings.picture(media, clip.path)),
    "sound": Drawing("wav", "audio/wav", lambda media, clip: clip_drawings.sound(media, clip.path)),
    "curves": Drawing("json", "application/json", lambda media, clip: clip_drawings.curves(media, clip.path)),
}


@dataclass(frozen=True)
class ClipRequests:
    """Clips of runs. A clip is named by its id, never by a path; at most two clips are decoded at a time."""

    runs: OpenedRuns
    _decoding: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(2))

    def media(self, request: Request) -> Response:
        """The clip's file, by range."""
        run, clip = self._clip(request)
        return media_answer(run.folder.media, clip.path, request)

    def drawing(self, request: Request) -> Response:
        """A drawing of the clip; status 404 for a clip that vanished or cannot be decoded, with the reason."""
        run, clip = self._clip(request)
        return self.drawing_of(run, clip, request.path_params["drawing"])

    def drawing_of(self, run: OpenedRun, clip: Candidate, name: str) -> Response:
        """As :meth:`drawing`, of a clip that is known."""
        drawing = DRAWINGS.get(name)
        if drawing is None:
            return PlainTextResponse(f"no drawing {name}; expected one of {', '.join(DRAWINGS)}", 404)
        kept = f"{name}/{digest(name, LAYOUT, clip.sha256)}.{drawing.ending}"

        def make() -> bytes:
            with self._decoding:
                return drawing.make(run.folder.media, clip)

        return FileResponse(run.made.path(kept, make), media_type=drawing.media_type, headers=KEPT)

    def _clip(self, request: Request) -> tuple[OpenedRun, Candidate]:
        run = self.runs.run(request.path_params["run"])
        return run, run.clip(request.path_params["clip"])
