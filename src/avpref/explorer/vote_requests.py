"""Answers to requests of people who vote. Their pages name no model, no run's clip and no score: only left and right."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from avpref.datasets.votes.ballots import HEARD_SHARE, Vote, clips_of, counting, next_position, showing_at
from avpref.datasets.votes.studies import Study, StudyClip
from avpref.domain import Candidate, Origin
from avpref.errors import ConfigError, InputError, MediaError
from avpref.explorer.clips.clip_requests import ClipRequests
from avpref.explorer.clips.sides import Side
from avpref.explorer.opened_runs import OpenedRuns
from avpref.explorer.run_requests import page
from avpref.registry.study_files import StudyFiles, VoteConflict

MAX_BODY_BYTES = 64_000
SIDES = ("left", "right")
PARTS = ("picture", "sound")


@dataclass(frozen=True)
class VoteRequests:
    """Pages of studies. ``clips`` makes the sounds."""

    runs: OpenedRuns
    clips: ClipRequests

    def list_studies(self, request: Request) -> Response:
        """The studies of a run, with their progress."""
        run = self.runs.run(request.path_params["run"])
        files = StudyFiles(run.folder.files)
        rows = []
        for name in files.ids():
            study, votes = files.read(name), counting(files.votes(name))
            wanted = sum(map(len, study.queues))
            rows.append({"study": study, "votes": len(votes), "wanted": wanted, "names": files.annotators(name)})
        return page("studies.html.j2", run=run, here="studies", rows=rows, absent=run.database.absent)

    def result(self, request: Request) -> Response:
        """The result of a study so far; it names the models, so people who still vote should not open it."""
        run = self.runs.run(request.path_params["run"])
        files = StudyFiles(run.folder.files)
        study = files.read(request.path_params["study"])
        result = files.result(study)
        return page("study.html.j2", run=run, here="studies", study=study, result=result, absent=run.database.absent)

    def welcome(self, request: Request) -> Response:
        """The first page of a study: an annotator enters a name."""
        study, _ = self._study(request)
        return page("welcome.html.j2", study=study, base=_base(request), error=None)

    async def join(self, request: Request) -> Response:
        """Take a place under a name, and go to it."""
        fields = parse_qs((await _body(request)).decode(errors="replace"))
        return await run_in_threadpool(self._join, request, fields.get("name", [""])[0])

    def _join(self, request: Request, name: str) -> Response:
        study, files = self._study(request)
        try:
            place = files.join(study, name)
        except (ConfigError, InputError) as error:
            return page("welcome.html.j2", status=400, study=study, base=_base(request), error=error)
        return RedirectResponse(f"{_base(request)}/{place}", 303)

    def ballot(self, request: Request) -> Response:
        """The next pair of clips of a queue, or the one that ``position`` names; after the last one a page of thanks."""
        study, files = self._study(request)
        place = request.path_params["place"]
        if place not in files.annotators(study.study_id):
            return RedirectResponse(_base(request), 303)
        votes = files.votes(study.study_id, place)
        last = counting(votes)
        asked = request.query_params.get("position", "")
        position = int(asked) if asked.isdecimal() else next_position(study, last, place)
        queue, base = study.queues[place], f"{_base(request)}/{place}"
        if position is None:
            return page("thanks.html.j2", study=study, base=base, num=len(queue))
        shown = showing_at(study, place, position)
        revisions = [vote.revision for vote in votes if vote.position == position]
        done = [at for of_place, at in last if of_place == place]
        return page(
            "ballot.html.j2",
            study=study,
            prompt=study.by_id[shown.item_id].prompt,
            base=base,
            position=position,
            revision=max(revisions, default=-1) + 1,
            answers=dict(last[place, position].answers) if (place, position) in last else {},
            sides=[_side(base, position, *named) for named in zip(SIDES, clips_of(study, shown), strict=True)],
            num_done=len(done),
            num=len(queue),
            undo=max((at for at in done if at != position), default=None),
            heard_share=HEARD_SHARE,
        )

    async def vote(self, request: Request) -> Response:
        """Commit a vote; the answer names the address to go to. Status 409 where another vote came first."""
        body = await _body(request)
        return await run_in_threadpool(self._vote, request, body)

    def _vote(self, request: Request, body: bytes) -> Response:
        study, files = self._study(request)
        try:
            vote = _vote_of(study, request, body)
            files.commit(study, vote)
        except VoteConflict as error:
            return JSONResponse({"found": error.found, "fix": error.fix}, 409)
        except (ConfigError, InputError) as error:
            return JSONResponse({"found": error.found, "expected": error.expected, "fix": error.fix}, 400)
        return JSONResponse({"next": f"{_base(request)}/{vote.place}"})

    def part(self, request: Request) -> Response:
        """The picture or the sound of the left or right clip of a showing."""
        clip, part = self._clip(request), request.path_params["part"]
        if part not in PARTS:
            raise InputError(f"no part {part!r} of a clip", f"one of {', '.join(PARTS)}")
        try:
            return self.clips.drawing_of(self.runs.run(clip.run_id), _candidate(clip), part)
        except MediaError:
            return PlainTextResponse("the clip is gone; tell the person who planned the study", 404)

    def _clip(self, request: Request) -> StudyClip:
        study, _ = self._study(request)
        values = request.path_params
        shown = showing_at(study, values["place"], values["position"])
        if values["side"] not in SIDES:
            raise InputError(f"no side {values['side']!r}", "left or right")
        return clips_of(study, shown)[SIDES.index(values["side"])]

    def _study(self, request: Request) -> tuple[Study, StudyFiles]:
        files = StudyFiles(self.runs.run(request.path_params["run"]).folder.files)
        return files.read(request.path_params["study"]), files


def _base(request: Request) -> str:
    return f"/vote/{request.path_params['run']}/{request.path_params['study']}"


def _side(base: str, position: int, name: str, clip: StudyClip) -> Side:
    letter = {"left": "A", "right": "B"}[name]
    address = f"{base}/{position}/{name}"
    return Side(letter, "", address, clip.duration_s, clip.fps_hz, clip.width_px, clip.height_px)


async def _body(request: Request) -> bytes:
    """The body of a request. Raises ConfigError for a long one."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise ConfigError(f"a body of more than {MAX_BODY_BYTES} bytes", "a vote", "reload the voting page")
    return body


def _vote_of(study: Study, request: Request, body: bytes) -> Vote:
    """The vote that a page sends. Raises ConfigError for one that cannot be read."""
    place, position = request.path_params["place"], request.path_params["position"]
    try:
        sent: dict[str, Any] = json.loads(body)
        left_s, right_s = (float(value) for value in sent["heard_s"])
        seconds = float(sent["seconds"])
        if not math.isfinite(seconds):
            raise ValueError("seconds that are no number")
        is_withdrawn = sent.get("is_withdrawn") is True
        answers = {} if is_withdrawn else {str(name): str(answer) for name, answer in sent["answers"].items()}
        revision = int(sent["revision"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"a vote that cannot be read: {error!r}", "one that the voting page sends", "reload it"
        ) from error
    return Vote(
        study.study_id, place, position, revision, "", answers, round(seconds, 1), (left_s, right_s), is_withdrawn
    )


def _candidate(clip: StudyClip) -> Candidate:
    """The clip as a candidate, of which drawings need the path, the hash and the length."""
    return Candidate(
        candidate_id=clip.candidate_id,
        prompt_id="",
        index=0,
        origin=Origin.GENERATED,
        seed=0,
        checkpoint_hash="",
        sampler_hash="",
        path=clip.path,
        sha256=clip.sha256,
        num_frames=0,
        height_px=clip.height_px,
        width_px=clip.width_px,
        fps_hz=clip.fps_hz,
        sample_rate_hz=0,
        duration_s=clip.duration_s,
    )
