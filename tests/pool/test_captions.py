"""Captions from a service of the test: strict answers, retries, costs, and a reason for every clip that has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pool_clips import BuildPool, plain_video
from reward_server import Reply, reward_server

from avpref.config.pool.caption_settings import CaptionSettings
from avpref.errors import ConfigError
from avpref.pool.caption.caption_request import SCHEMA, description_of
from avpref.pool.lost_items import read_lost
from avpref.pool.pool_folder import PoolFolder
from avpref.pool.pool_tables import CAPTIONS
from avpref.rewards.service.service_client import ServiceFailure

GOOD = {"visual": "a pattern", "auditory": "notes", "text": "a pattern moves to notes", "category": "Pattern"}


def completion(content: object, **message: Any) -> dict[str, Any]:
    text = content if isinstance(content, str) else json.dumps(content)
    choice = {"message": {"content": text, **message}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 1000, "completion_tokens": 50}}


def sets(url: str, **values: object) -> tuple[str, ...]:
    chosen = {"url": url, "model": "omni", "backoff_s": 0.0, "attempts": 2, **values}
    return tuple(f"caption.{name}={json.dumps(value)}" for name, value in chosen.items())


def captions(pool: PoolFolder) -> list[dict[str, Any]]:
    return pool.tables.read(CAPTIONS).to_pylist()


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for number in range(3):
        plain_video(folder / f"{number}.mp4", 70 + number, 2.2)
    (folder / "0.txt").write_text("known text")
    return folder


def test_existing_texts_are_kept_and_others_are_asked_for_once(videos: Path, build_pool: BuildPool) -> None:
    with reward_server(lambda document, number: Reply(completion(GOOD))) as (url, seen):
        prices = {"price_per_million_input": 1.0, "price_per_million_output": 10.0}
        pool = build_pool(videos, sets=sets(url, **prices), until="caption")
        assert sorted((row["origin"], row["text"]) for row in captions(pool)) == [
            ("existing", "known text"),
            *([("made", "a pattern moves to notes")] * 2),
        ]
        made = next(row for row in captions(pool) if row["origin"] == "made")
        assert made["cost"] == pytest.approx(1000e-6 + 500e-6) and made["category"] == "pattern"
        assert len(seen.documents) == 2 and set(seen.paths) == {"/chat/completions"}
        build_pool(videos, sets=sets(url, **prices), until="caption")
        assert len(seen.documents) == 2
    request = seen.documents[0]
    kinds = [part["type"] for part in request["messages"][0]["content"]]
    assert kinds == ["text", *["image_url"] * 16, "input_audio"] and request["model"] == "omni"
    assert request["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.slow
def test_a_wrong_answer_is_asked_for_again_with_another_seed(videos: Path, build_pool: BuildPool) -> None:
    answers = {0: completion("no JSON"), 1: completion(GOOD)}
    with reward_server(lambda document, number: Reply(answers[document["seed"]])) as (url, seen):
        pool = build_pool(videos, sets=sets(url), until="caption")
    assert [row["requests"] for row in captions(pool) if row["origin"] == "made"] == [2, 2]
    assert [document["seed"] for document in seen.documents].count(1) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (completion("words"), "not JSON"),
        (completion({**GOOD, "mood": "x"}), "unknown keys"),
        (completion({"visual": "x"}), "lacks"),
        (completion({**GOOD, "auditory": ""}), "auditory"),
        (completion(GOOD, refusal="no"), "refused"),
        (completion([GOOD]), "list"),
        ({"error": "x"}, "no chat completion"),
        (b"<html>", "not JSON"),
    ],
)
def test_nonsense_is_a_failure_with_its_reason(body: Any, reason: str, videos: Path, build_pool: BuildPool) -> None:
    if isinstance(body, dict):
        with pytest.raises(ServiceFailure, match=reason):
            description_of(body)
        return
    with reward_server(lambda document, number: Reply(body)) as (url, _):
        pool = build_pool(videos, sets=sets(url), until="caption")
    assert [row["origin"] for row in captions(pool)] == ["existing"]
    lost = read_lost(pool, "caption")
    assert len(lost) == 2 and all(reason in row.reason for row in lost)


def test_a_service_that_is_away_costs_rows_and_is_asked_again_by_the_next_execution(
    videos: Path, build_pool: BuildPool
) -> None:
    with reward_server(lambda document, number: Reply({"error": "busy"}, status=503)) as (url, seen):
        pool = build_pool(videos, sets=sets(url), until="caption")
        assert len(seen.documents) == 4 and len(captions(pool)) == 1
    assert all("HTTP 503" in row.reason for row in read_lost(pool, "caption"))
    with reward_server(lambda document, number: Reply(completion(GOOD))) as (url, seen):
        pool = build_pool(videos, sets=sets(url), until="caption")
        assert len(captions(pool)) == 3 and not read_lost(pool, "caption") and len(seen.documents) == 2
        build_pool(videos, sets=sets(url), until="caption")
        assert len(seen.documents) == 2 and len(captions(pool)) == 3


@pytest.mark.parametrize("kind", ["hangs", "refuses"])
def test_a_service_that_never_answers_costs_rows(kind: str, videos: Path, build_pool: BuildPool) -> None:
    with reward_server(lambda document, number: Reply(completion(GOOD), delay_s=1.5)) as (url, _):
        address = url if kind == "hangs" else "http://127.0.0.1:9/v1"
        pool = build_pool(videos, sets=sets(address, timeout_s=0.3, attempts=1), until="caption")
    assert [row["origin"] for row in captions(pool)] == ["existing"]
    assert len(read_lost(pool, "caption")) == 2 and all(row.reason for row in read_lost(pool, "caption"))


@pytest.mark.slow
def test_clips_that_fail_a_threshold_are_not_sent(videos: Path, build_pool: BuildPool) -> None:
    strict = "filter.filters=[{measure: duration_s, min: 10.0}]"
    with reward_server(lambda document, number: Reply(completion(GOOD))) as (url, seen):
        pool = build_pool(videos, sets=(*sets(url), strict), until="caption")
    assert not seen.documents and not captions(pool)


@pytest.mark.slow
def test_texts_are_compared_with_clips_by_scorers_that_read_them(videos: Path, build_pool: BuildPool) -> None:
    checks = ("caption.checks=[imagebind]", "measure.preset=tiny")
    limit = "filter.filters=[{name: contradiction, measure: text_video, min: 2.0}]"
    with reward_server(lambda document, number: Reply(completion(GOOD))) as (url, _):
        pool = build_pool(videos, sets=(*sets(url), *checks, limit), until="filter")
    with pool.connect() as con:
        rows = con.execute("SELECT clip_id, measure, value FROM agreements ORDER BY ALL").fetchall()
        reasons = con.execute("SELECT filter, is_kept FROM decisions").fetchall()
    assert {row[1] for row in rows} == {"text_video", "text_audio"} and len(rows) == 6
    assert all(row[2] is not None and -1 <= row[2] <= 1 for row in rows)
    assert reasons == [("contradiction", False)] * 3


def test_settings_refuse_credentials_and_a_url_without_a_model(build_pool: BuildPool, videos: Path) -> None:
    with pytest.raises(ValueError, match="credentials"):
        CaptionSettings(url="http://user:secret@host/v1")
    with pytest.raises(ConfigError, match="model"):
        build_pool(videos, sets=("caption.url=http://127.0.0.1:9",))
