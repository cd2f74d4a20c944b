"""Studies and votes of a run, in the run's store: each file is committed once, and the first commit wins.

studies/<study>/study.json              the plan
studies/<study>/names/<hash>.json       a name that somebody entered
studies/<study>/annotators/<place>.json who votes at a place of the study
studies/<study>/votes/<place>-<position>-<revision>.json

A vote is a file of its own, so any number of servers may take votes for one study, and a killed one loses none that it has confirmed.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from avpref.datasets.votes.ballots import Vote, check_vote, vote_of
from avpref.datasets.votes.studies import Study, study_of
from avpref.datasets.votes.vote_results import StudyResult, result_of
from avpref.datasets.votes.voted_pairs import Opinions, opinions_of
from avpref.errors import AvprefError, ConfigError, InputError, TableError
from avpref.identity import digest
from avpref.storage.files import Files
from avpref.storage.run_folder import RunFolder

FOLDER = "studies"
STUDY_FILE = "study.json"
STUDY_ID = re.compile(r"s[0-9a-f]{16}$")
MAX_NAME = 60
WAITS, WAIT_S = 10, 0.05


class VoteConflict(AvprefError):
    """Another vote was committed first at this place, position and revision."""


@dataclass(frozen=True)
class StudyFiles:
    """The studies in ``files``, the store of a run."""

    files: Files

    def ids(self) -> list[str]:
        """Ids of the planned studies, sorted."""
        names = self.files.subfolder(FOLDER).names()
        return sorted(name.partition("/")[0] for name in names if name.endswith(f"/{STUDY_FILE}"))

    def plan(self, study: Study) -> bool:
        """Commit a study; returns whether it is new."""
        return self._of(study.study_id).commit_once(STUDY_FILE, _bytes(study.document()))

    def read(self, study_id: str) -> Study:
        """A study by its id. Raises InputError where there is none, TableError for one that was changed."""
        if not STUDY_ID.match(study_id):
            raise self._unknown(study_id)
        try:
            document = json.loads(self._of(study_id).read(STUDY_FILE))
        except FileNotFoundError:
            raise self._unknown(study_id) from None
        except ValueError as error:
            raise TableError(f"study {study_id}: {error}", "a study that avpref votes plan wrote") from error
        study = study_of(document)
        if study.study_id != study_id:
            raise TableError(f"the folder of study {study_id} holds {study.study_id}", "the study of its name")
        return study

    def find(self, beginning: str = "") -> Study:
        """The study whose id begins with ``beginning``; the only one without it. Raises InputError that names the studies."""
        known = self.ids()
        matching = [name for name in known if name.startswith(beginning)]
        if len(matching) != 1:
            found = f"no study {beginning!r}" if not matching else f"{beginning!r} may mean {', '.join(matching)}"
            raise InputError(found, f"one of: {', '.join(known) or '(none yet)'}", "avpref votes list")
        return self.read(matching[0])

    def join(self, study: Study, name: str) -> int:
        """The place of the annotator ``name``: the one taken under this name before, or the first free one.

        Raises ConfigError for an empty or long name, InputError where all places are taken.
        """
        name = " ".join(name.split())
        if not name or len(name) > MAX_NAME:
            raise ConfigError(f"the name {name[:MAX_NAME]!r}", f"1 to {MAX_NAME} characters", "enter a name")
        is_first = self._of(study.study_id).commit_once(f"names/{digest(name.casefold())}.json", _bytes({"name": name}))
        own = None if is_first else self._place_soon(study.study_id, name)
        return self._take_place(study, name) if own is None else own

    def _place_soon(self, study_id: str, name: str) -> int | None:
        """The place under ``name``; waits for another request of the same name that is taking one. None where that one was killed."""
        for _ in range(WAITS):
            for place, other in self.annotators(study_id).items():
                if other.casefold() == name.casefold():
                    return place
            time.sleep(WAIT_S)
        return None

    def _take_place(self, study: Study, name: str) -> int:
        """Take the first free place. Raises InputError where there is none."""
        for place in range(len(study.queues)):
            if self._of(study.study_id).commit_once(_annotator_file(place), _bytes({"name": name})):
                return place
        taken = ", ".join(self.annotators(study.study_id).values())
        found = f"all {len(study.queues)} places of study {study.study_id} are taken: {taken}"
        raise InputError(found, "a name that takes part, or a free place", "avpref votes plan --annotators N")

    def annotators(self, study_id: str) -> dict[int, str]:
        """Place → name, of the places that are taken."""
        store = self._of(study_id)
        names = store.children("annotators")
        return {
            int(name.rpartition("/")[2].removesuffix(".json")): json.loads(store.read(name))["name"] for name in names
        }

    def votes(self, study_id: str, place: int | None = None) -> list[Vote]:
        """All votes, or those of one place, in all revisions. Raises TableError for a vote that cannot be read."""
        return list(self._votes(study_id, "" if place is None else f"{place:03d}-"))

    def commit(self, study: Study, vote: Vote) -> Vote:
        """Commit a vote; returns the committed one. A vote that is sent twice is committed once.

        Raises InputError or ConfigError as :func:`avpref.datasets.votes.ballots.check_vote`, InputError for a place that nobody has
        taken, VoteConflict where another vote has this revision.
        """
        check_vote(study, vote)
        name = self.annotators(study.study_id).get(vote.place)
        if name is None:
            raise InputError(f"nobody has taken place {vote.place}", "an annotator of this study", "enter a name first")
        saved_at = datetime.now(UTC).isoformat(timespec="seconds")
        signed = vote_of({**vote.document(), "annotator": name, "saved_at": saved_at})
        store, file = self._of(study.study_id), f"votes/{vote.name}"
        if store.commit_once(file, _bytes(signed.document())):
            return signed
        stored = vote_of(json.loads(store.read(file)))
        if not stored.is_same_as(signed):
            found = f"position {vote.position} already has a vote of {stored.annotator} with revision {vote.revision}"
            raise VoteConflict(found, "a later revision", "reload the page, which shows the vote that counts")
        return stored

    def result(self, study: Study) -> StudyResult:
        """The result of the votes that are committed now."""
        return result_of(study, self.votes(study.study_id), self.annotators(study.study_id))

    def _votes(self, study_id: str, beginning: str) -> Iterator[Vote]:
        store = self._of(study_id)
        names = [name for name in store.children("votes") if name.rpartition("/")[2].startswith(beginning)]
        for name, stream in zip(names, store.open_all(names), strict=True):
            try:
                yield vote_of(json.loads(stream.read()))
            except ValueError as error:
                raise TableError(f"{store.uri(name)}: {error}", "a vote that this product wrote") from error

    def _of(self, study_id: str) -> Files:
        return self.files.subfolder(f"{FOLDER}/{study_id}")

    def _unknown(self, study_id: str) -> InputError:
        known = ", ".join(self.ids()) or "(none yet)"
        return InputError(f"no study {study_id[:40]!r}", f"one of: {known}", "avpref votes list")


def opinions_in(folder: RunFolder, study_id: str = "") -> Opinions:
    """The majority's preferences in a study of a run. Raises InputError where there is no such study, or no vote in it."""
    files = StudyFiles(folder.files)
    study = files.find(study_id)
    opinions = opinions_of(study, files.votes(study.study_id), files.annotators(study.study_id))
    if not opinions.preferred:
        fix = f"avpref votes open {study.study_id} --run {folder.run_id} --runs {folder.runs}"
        raise InputError(f"nobody has voted in study {study.study_id}", "one vote or more", fix)
    return opinions


def _annotator_file(place: int) -> str:
    return f"annotators/{place:03d}.json"


def _bytes(document: Any) -> bytes:
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
