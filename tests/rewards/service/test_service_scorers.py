"""Scorers behind HTTP against servers that answer, fail, dawdle and talk nonsense."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
import wave
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from reward_server import Reply, reward_server

from avpref.config.scoring_settings import ScoringSettings
from avpref.domain import ScoreStatus
from avpref.errors import ConfigError
from avpref.flows.workers.scorers import sources
from avpref.rewards.outside.sample_clips import broken_clips, sample_clips
from avpref.rewards.service.clip_messages import frame_urls

METRICS = [
    {"name": "fit", "dimension": "video", "inputs": ["prompt", "picture"]},
    {"name": "clarity", "dimension": "speech", "inputs": ["sound"]},
]
CLIPS = sample_clips()
GOOD = Reply({"scores": {"fit": 0.25, "clarity": 3}})
SECRET = "sk-very-secret-3141"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield


def service(url: str, **settings: Any) -> Any:
    entry = {"use": "reward_service", "settings": {"url": url, "metrics": METRICS, "backoff_s": 0.01, **settings}}
    (source,) = sources(ScoringSettings.model_validate({"scorers": [entry]}))
    return source.open("cpu")


def test_the_numbers_of_the_service_are_the_scores_and_the_request_has_the_clip() -> None:
    with reward_server(lambda document, _: Reply({"scores": {"fit": len(document["text"]), "clarity": 1.5}})) as (
        url,
        seen,
    ):
        rows = service(url, num_frames=3, longest_side_px=64).score(CLIPS)
    assert [[score.value for score in row] for row in rows] == [[len(clip.text), 1.5] for clip in CLIPS]
    document = next(document for document in seen.documents if document["id"] == CLIPS[0].candidate_id)
    assert document["text"] == CLIPS[0].text and document["metrics"] == ["fit", "clarity"]
    pictures = [picture_of(url) for url in document["frames"]]
    assert [picture.shape for picture in pictures] == [(48, 64, 3)] * 3
    with wave.open(io.BytesIO(base64.b64decode(document["sound"]))) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767
        assert (file.getframerate(), file.getnchannels()) == (CLIPS[0].clip.sample_rate_hz, 1)
    assert CLIPS[0].clip.audio is not None and np.abs(samples - CLIPS[0].clip.audio).max() < 1e-4


def picture_of(url: str) -> np.ndarray:
    """BGR picture of a data URL."""
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_frames_are_in_order_with_their_colours() -> None:
    clip = CLIPS[0].clip
    assert clip.frames is not None
    frames = np.zeros_like(clip.frames)
    frames[:, :, :, 0] = np.linspace(0, 250, len(frames)).astype(np.uint8)[:, None, None]
    from avpref.rewards.service.clip_messages import MediaLimits

    urls = frame_urls(replace(clip, frames=frames), MediaLimits(4, 512, False))
    reds = [picture_of(url)[..., 2].mean() for url in urls]
    assert reds == sorted(reds) and reds[0] < 5 and reds[-1] > 245


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply({"scores": {"fit": 0.5}}), "scores of fit, expected clarity, fit"),
        (Reply({"scores": {"fit": 0.5, "clarity": 1, "more": 2}}), "expected clarity, fit"),
        (Reply({"scores": [0.5, 1]}), "the scores are a list"),
        (Reply({"scores": {"fit": "good", "clarity": 1}}), "fit = 'good', expected a finite number"),
        (Reply({"scores": {"fit": True, "clarity": 1}}), "fit = True"),
        (Reply(b'{"scores": {"fit": NaN, "clarity": 1}}'), "fit = nan, expected a finite number"),
        (Reply({"scores": {"fit": None, "clarity": 1}}), "fit = None"),
        (Reply({"answers": {}}), "an answer with answers, expected scores alone"),
        (Reply([1, 2]), "the answer is a list, not a JSON object"),
        (Reply(b"<html>busy</html>"), "the answer is not JSON: <html>busy</html>"),
        (Reply({"error": f"no such key {SECRET}"}, status=401), 'HTTP 401: {"error": "no such key ***"}'),
        (Reply(b"", status=302, headers={"Location": "/elsewhere"}), "HTTP 302"),
        (Reply(b"oops", status=500), "HTTP 500: oops after 3 attempts"),
        (Reply(GOOD.body, delay_s=0.8), "no complete answer within 0.3 s after 3 attempts"),
    ],
)
def test_a_wrong_answer_fails_this_clip_with_the_reason(
    reply: Reply, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    bad = CLIPS[1].candidate_id
    with reward_server(lambda document, _: reply if document["id"] == bad else GOOD) as (url, seen):
        rows = service(url, attempts=3, timeout_s=0.3, key_variable="JUDGE_KEY").score(CLIPS)
    assert [[score.status for score in row] for row in (rows[0], rows[2])] == [[ScoreStatus.OK] * 2] * 2
    for score in rows[1]:
        assert score.status == ScoreStatus.QUARANTINED and reason in score.reason and SECRET not in score.reason
    assert {headers["Authorization"] for headers in seen.headers} == {f"Bearer {SECRET}"}
    is_repeated = reply.status == 500 or reply.delay_s > 0
    assert sum(document["id"] == bad for document in seen.documents) == (3 if is_repeated else 1)


def test_what_passes_is_repeated_and_the_service_says_how_long_to_wait() -> None:
    busy = Reply(b"slow down", status=429, headers={"Retry-After": "0.4"})
    with reward_server(lambda _, number: busy if number == 0 else GOOD) as (url, seen):
        (row,) = service(url, concurrency=1).score(CLIPS[:1])
    assert [score.value for score in row] == [0.25, 3.0] and len(seen.times_s) == 2
    assert seen.times_s[1] - seen.times_s[0] >= 0.4


def test_a_service_that_is_not_there_is_a_reason() -> None:
    with reward_server(lambda *_: GOOD) as (url, _):
        pass
    (row,) = service(url, attempts=2).score(CLIPS[:1])
    assert "ConnectError" in row[0].reason and "after 2 attempts" in row[0].reason


def test_requests_run_side_by_side_up_to_the_limit_and_not_faster_than_the_rate() -> None:
    clips = [replace(CLIPS[0], candidate_id=f"c{index}") for index in range(8)]
    pair = threading.Barrier(2, timeout=60)  # each request is answered when another one is there

    def reply(*_: object) -> Reply:
        pair.wait()
        return GOOD

    with reward_server(reply) as (url, seen):
        rows = service(url, concurrency=3).score(clips)
    assert seen.most_running <= 3 and all(score.status == ScoreStatus.OK for row in rows for score in row)
    with reward_server(lambda *_: GOOD) as (url, seen):
        started_s = time.monotonic()
        service(url, concurrency=8, requests_per_s=20).score(clips)
    assert time.monotonic() - started_s >= 7 / 20


def test_metrics_without_their_inputs_are_skipped_and_not_asked_for() -> None:
    def reply(document: dict[str, Any], _: int) -> Reply:
        return Reply({"scores": dict.fromkeys(document["metrics"], 1.0)})

    with reward_server(reply) as (url, seen):
        rows = {
            clip.candidate_id: row for clip, row in zip(broken_clips(), service(url).score(broken_clips()), strict=True)
        }
    assert [score.reason for score in rows["no sound track"]] == ["", "no audio track"]
    assert [score.reason for score in rows["no picture"]] == ["no video track", ""]
    assert [score.reason for score in rows["no text"]] == ["empty text", ""]
    asked = {document["id"]: document["metrics"] for document in seen.documents}
    assert asked["no picture"] == ["clarity"] and asked["no sound track"] == ["fit"]


def test_a_key_that_is_not_set_stops_with_the_name_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with reward_server(lambda *_: GOOD) as (url, seen), pytest.raises(ConfigError, match="JUDGE_KEY"):
        service(url, key_variable="JUDGE_KEY").score(CLIPS[:1])
    assert not seen.documents


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"url": "http://me:word@host/"}, "without credentials"),
        ({"url": "https://host/?api_key=1"}, "without credentials"),
        ({"url": "ftp://host"}, "expected http://HOST"),
        ({"key": SECRET}, "unknown setting key"),
        ({"key_variable": "sk-1 2"}, "key_variable"),
        ({"metrics": []}, "metrics"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        service(**{"url": "http://host", **settings})


def test_the_fingerprint_has_what_numbers_depend_on() -> None:
    def fingerprint(**settings: Any) -> str:
        values = {"url": "http://a", "metrics": METRICS, **settings}
        entry = {"use": "reward_service", "settings": values}
        return sources(ScoringSettings.model_validate({"scorers": [entry]}))[0].fingerprint

    assert fingerprint() == fingerprint(concurrency=9, timeout_s=1, key_variable="K")
    assert len({fingerprint(), fingerprint(url="http://b"), fingerprint(num_frames=3), fingerprint(version="2")}) == 4
    assert fingerprint(version="2") == fingerprint(version="2", url="http://b")


QUESTIONS = [
    {"name": "agreement", "dimension": "av", "inputs": ["prompt", "picture", "sound"], "question": "Do they agree?"},
    {"name": "noise", "dimension": "audio", "inputs": ["sound"], "question": "How noisy?", "higher_is_better": False},
]


def judge(url: str, **settings: Any) -> Any:
    values = {
        "url": f"{url}/v1",
        "model": "some-vlm",
        "questions": QUESTIONS,
        "backoff_s": 0.0,
        "attempts": 2,
        **settings,
    }
    (source,) = sources(ScoringSettings.model_validate({"scorers": [{"use": "vlm_judge", "settings": values}]}))
    return source.open("cpu")


def completion(content: object, **fields: Any) -> Reply:
    message = {"role": "assistant", "content": content if isinstance(content, str) else json.dumps(content)}
    return Reply({"choices": [{"index": 0, "finish_reason": "stop", "message": message, **fields}], "usage": {}})


def test_a_judge_is_asked_with_frames_sound_and_a_strict_schema() -> None:
    with reward_server(lambda *_: completion({"agreement": 7.5, "noise": 2})) as (url, seen):
        (row,) = judge(url, num_frames=2).score(CLIPS[:1])
    assert [score.value for score in row] == [7.5, 2.0] and seen.paths == ["/v1/chat/completions"]
    (document,) = seen.documents
    parts = document["messages"][0]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "image_url", "input_audio"]
    assert "Do they agree?" in parts[0]["text"] and CLIPS[0].text in parts[0]["text"]
    assert parts[3]["input_audio"]["format"] == "wav" and document["temperature"] == 0
    schema = document["response_format"]["json_schema"]
    assert schema["strict"] and schema["schema"]["required"] == ["agreement", "noise"]
    assert schema["schema"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion({"agreement": 7.5}), "scores of agreement, expected agreement, noise"),
        (completion({"agreement": 11, "noise": 1}), "agreement = 11, expected 0 to 10"),
        (completion("I would say seven."), "the model's answer is not JSON: I would say seven."),
        (completion("[1, 2]"), "the scores are a list"),
        (completion('{"agreement": NaN, "noise": 1}'), "agreement = nan"),
        (completion({"agreement": 1, "noise": 1}, finish_reason="length"), "the completion ended with length"),
        (
            completion({}, message={"content": None, "refusal": "I cannot watch this."}),
            "the model refused: I cannot watch",
        ),
        (Reply({"choices": []}), "no chat completion with one choice"),
        (Reply({"object": "error"}), "no chat completion with one choice"),
        (completion({}, message={"content": None}), "the model's answer is not JSON: None"),
    ],
)
def test_an_answer_outside_the_schema_is_a_failure(reply: Reply, reason: str) -> None:
    with reward_server(lambda *_: reply) as (url, _):
        (row,) = judge(url).score(CLIPS[:1])
    assert all(score.status == ScoreStatus.QUARANTINED and reason in score.reason for score in row), row
