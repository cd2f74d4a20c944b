"""The report of a tiny run: self-contained, true to the run's files, safe with anyone's texts."""

from __future__ import annotations

import base64
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned_studies import draft_of, votes_of

from avpref.config.training_settings import SftWeights
from avpref.datasets import tables
from avpref.datasets.evidence.gate import PROMOTE, RuleOutcome
from avpref.datasets.rows import EvaluationSide
from avpref.datasets.votes.studies import plan_study
from avpref.datasets.votes.vote_results import result_of
from avpref.domain import Dimension, Terms
from avpref.errors import InputError
from avpref.flows.run import Run
from avpref.flows.stages.adapter_lineage import lineage
from avpref.flows.stages.collect_report import collect
from avpref.flows.stages.report import report
from avpref.media.reading import read_clip
from avpref.reports.figures import figures, training_panels
from avpref.reports.formatting import signed
from avpref.reports.plots import svg
from avpref.reports.report_clips import MediaBudget, spread
from avpref.reports.report_data import Curves, ReportData, RewardModel
from avpref.reports.report_page import SECTIONS, render, sections_of
from avpref.reports.templates import content_policy
from avpref.storage.run_folder import RunFolder, open_root

HOSTILE = "</p><script>alert('x')</script><img src=x onerror=alert(1)> & \"quoted\""
VOID = {"meta", "link", "br", "source", "img"}
SVG = "data:image/svg+xml;base64,"


class Page(HTMLParser):
    """Elements with their attributes and texts; complains about tags that do not close."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.found: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, f"left open: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.found if name == tag]

    @property
    def words(self) -> str:
        return "".join(self.text)


@pytest.fixture(scope="module")
def data(tiny_run: RunFolder) -> ReportData:
    return collect(Run.of(tiny_run))


@pytest.fixture(scope="module")
def written(tiny_run: RunFolder) -> Page:
    return Page((tiny_run.root / "report.html").read_text(encoding="utf-8"))


def rendered(data: ReportData) -> Page:
    return Page(render(data, figures(data)).decode())


def attributes(page: Page) -> Iterator[tuple[str, str, str]]:
    return ((tag, name, value) for tag, attrs in page.found for name, value in attrs.items())


def test_nothing_comes_from_outside(written: Page) -> None:
    assert not written.all("script") and not written.all("iframe")
    for tag, name, value in attributes(written):
        assert not name.startswith("on") and name != "style", f"<{tag} {name}>"
        if name in ("src", "href", "srcset", "poster"):
            assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:40]}>"
    assert "@import" not in written.source and not re.search(r"url\((?!#)", written.source)
    policy = next(attrs["content"] for attrs in written.all("meta") if "http-equiv" in attrs)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    (style,) = re.findall("<style>(.*?)</style>", written.source, re.DOTALL)
    assert policy == content_policy(style)


def test_every_drawing_has_a_light_and_a_dark_copy(written: Page, data: ReportData) -> None:
    panels = [panel for plot in figures(data).values() for panel in plot.panels]
    by_text = {attrs["alt"]: attrs["src"] for attrs in written.all("img")}
    assert len(written.all("img")) == len(written.all("source")) == len(written.all("picture")) == len(panels)
    darks = [attrs["srcset"] for attrs in written.all("source")]
    assert {attrs["media"] for attrs in written.all("source")} == {"(prefers-color-scheme: dark)"}
    for panel in panels:
        drawings = svg(panel)
        assert base64.b64decode(by_text[panel.alt_text].removeprefix(SVG)) == drawings.light
        assert SVG + base64.b64encode(drawings.dark).decode() in darks


def test_it_can_be_read_without_seeing_it(written: Page) -> None:
    assert len(written.all("h1")) == 1 and written.all("html")[0]["lang"] == "en"
    ids = [value for _, name, value in attributes(written) if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(attrs["aria-labelledby"] in ids for attrs in written.all("section"))
    assert {attrs["href"][1:] for attrs in written.all("a")} == {attrs["id"] for attrs in written.all("section")}
    assert written.all("video") and all(attrs.get("aria-label") for attrs in written.all("video"))
    assert written.all("img") and all(attrs.get("alt") for attrs in written.all("img"))
    assert len(written.all("caption")) == len(written.all("table"))


def test_it_says_what_the_run_found(written: Page, tiny_run: RunFolder, data: ReportData) -> None:
    assert "Refused" in written.words or "Promoted" in written.words
    assert "scorers are fake" in written.words
    for one in data.comparisons.values():
        assert signed(one.delta_sd, 3) in written.words
        assert f"{signed(one.ci_low, 3)} to {signed(one.ci_high, 3)}" in written.words
    for reason in set(tiny_run.tables.read(tables.SKIPPED)["reason"].to_pylist()):
        assert reason in written.words
    found = lineage(Run.of(tiny_run))
    for value in (found["run_id"], found["settings_hash"], found["policy_hash"], *found["tables"].values()):
        assert value in written.words
    assert all(stage.name in written.words for stage in data.stages) and data.stages


def test_the_clips_are_the_committed_ones_and_decode(written: Page, tiny_run: RunFolder) -> None:
    clips = written.all("video")
    assert 0 < len(clips) <= 24
    committed = {path.read_bytes() for path in (tiny_run.root / "clips").rglob("*.mp4")}
    for attrs in clips:
        embedded = base64.b64decode(attrs["src"].removeprefix("data:video/mp4;base64,"))
        assert embedded in committed
    clip = read_clip(io.BytesIO(embedded))
    assert clip.has_video and clip.has_audio
    assert len(written.source) < 8_000_000


def test_before_and_after_are_the_two_sides_of_one_prompt(tiny_run: RunFolder, data: ReportData) -> None:
    rows = tiny_run.tables.read(tables.EVALUATIONS).to_pandas()
    for prompt, clips in data.held_out.clips.iterrows():
        for side in EvaluationSide:
            own = rows[(rows.prompt_id == prompt) & (rows.side == side)]
            assert set(own.candidate_id) == {clips[side]}
            reward = own[(own.kind == "reward") & (own.name == "audio")].value.iloc[0]
            assert data.held_out.rewards.at[prompt, (side, "audio")] == pytest.approx(reward, nan_ok=True)


def test_best_comes_first_and_prompts_without_rewards_are_left_out(data: ReportData) -> None:
    rewards = data.held_out.rewards.copy()
    rewards.iloc[0, 0] = np.nan
    gain = replace(data.held_out, rewards=rewards).gain
    assert len(gain) == len(rewards) - 1 and rewards.index[0] not in gain.index
    assert gain.is_monotonic_decreasing
    prompt = gain.index[0]
    policy, reference = rewards.loc[prompt, EvaluationSide.POLICY], rewards.loc[prompt, EvaluationSide.REFERENCE]
    assert gain.iloc[0] == pytest.approx(sum(policy[each] - reference[each] for each in Dimension))


def test_equal_runs_give_equal_files(tiny_run: RunFolder, tmp_path: Path) -> None:
    copy = open_root(Path(shutil.copytree(tiny_run.root, tmp_path / tiny_run.run_id)))
    kept = {path.name: path.read_bytes() for path in (copy.root / "plots").glob("*.png")}
    assert set(kept) == {"evaluation.png", "margins.png", "rewards.png", "training.png"}
    shutil.rmtree(copy.root / "plots")
    (copy.root / "report.html").unlink()
    assert report.fn(Run.of(copy)).rows == len(SECTIONS) + len(kept)
    first = (copy.root / "report.html").read_bytes()
    assert report.fn(Run.of(copy)).rows == len(SECTIONS) + len(kept)
    assert (copy.root / "report.html").read_bytes() == first
    assert {path.name: path.read_bytes() for path in (copy.root / "plots").glob("*.png")} == kept


def test_hostile_texts_stay_texts(data: ReportData) -> None:
    failed = pd.DataFrame([[f"c{n}", "score", HOSTILE, HOSTILE, 2] for n in range(25)], columns=data.quarantine.columns)
    skipped = data.skipped.assign(detail=HOSTILE)
    page = rendered(
        replace(data, texts=dict.fromkeys(data.texts, HOSTILE), quarantine=failed, skipped=skipped, run_id=HOSTILE)
    )
    assert not page.all("script") and not [attrs for attrs in page.all("img") if not attrs["src"].startswith(SVG)]
    assert not [name for _, name, _ in attributes(page) if name.startswith("on")]
    assert page.words.count(HOSTILE) > 20
    assert HOSTILE in page.all("video")[0]["aria-label"]
    assert "25 failed; the first 20 are shown" in page.words


def test_the_other_verdict(data: ReportData) -> None:
    rules = tuple(replace(rule, passed=True) for rule in data.rules)
    page = rendered(replace(data, verdict=PROMOTE, rules=rules))
    assert f"all {len(rules)} rules passed" in page.words and "✕" not in page.words
    assert page.all("header")[0]["class"] == "promoted"


def test_votes_of_people_have_a_section_where_there_are_any(data: ReportData) -> None:
    study = plan_study(draft_of(9))
    votes = [vote for place in range(3) for vote in votes_of(study, place, lambda item, aspect: 1)]
    page = rendered(replace(data, studies=(result_of(study, votes, {0: "ada", 1: "bo", 2: "cy"}),)))
    assert study.study_id in page.words and "9 of 9 items have all votes" in page.words
    assert [attrs["href"] for attrs in page.all("a")][2] == "#votes" and "votes" not in sections_of(data)
    assert not [attrs for attrs in rendered(data).all("a") if attrs["href"] == "#votes"]


def test_large_or_lost_clips_are_named_not_embedded(tiny_run: RunFolder, data: ReportData) -> None:
    clip = next(iter(data.candidates.values()))
    size = (tiny_run.root / clip.path).stat().st_size
    budget = MediaBudget(tiny_run.media, remaining_bytes=size)
    assert budget.player(clip, "first", "x").source and budget.remaining_bytes == 0
    assert "not embedded" in budget.player(clip, "second", "x").absence
    lost = {name: replace(each, path=f"clips/none-{name}.mp4") for name, each in data.candidates.items()}
    page = rendered(replace(data, candidates=lost))
    assert not page.all("video") and "the file is missing" in page.words and "clips/none-" in page.words


def test_rules_read_as_they_are_declared(data: ReportData) -> None:
    rules = (
        RuleOutcome("superiority", "audio", 0.25, 0.1, True, ""),
        RuleOutcome("audio_gain", "audio", -0.5, 0.5, False, ""),
        RuleOutcome("validity", "", 1.0, 0.01, False, ""),
        RuleOutcome("rule_of_another_version", "av", 0.25, 0.1, True, ""),
    )
    page = rendered(replace(data, rules=rules))
    rows = [
        " ".join(row.split()) for row in re.findall(r"<tr>(.*?)</tr>", page.source.split("</header>")[0], re.DOTALL)
    ]
    texts = [" ".join(re.sub("<.*?>", " ", row).replace("\N{NO-BREAK SPACE}", " ").split()) for row in rows[1:]]
    assert texts == [
        "✓ passed Improved: lower end of the interval (audio) +0.250 sd above +0.100 sd",
        "✕ refused Audio improved: mean change −0.500 sd at least +0.500 sd",
        "✕ refused Rise of the share of clips without a valid score +1.000 at most +0.010",
        "✓ passed rule_of_another_version (av) +0.250 sd above +0.100 sd",
    ]
    assert "3 of 4 rules refused" not in page.words and "2 of 4 rules refused" in page.words


def test_the_licence_of_every_reward_model_is_named(data: ReportData) -> None:
    models = (RewardModel("One", Terms("MIT", True)), RewardModel("Two", Terms("CC BY-NC 4.0", False)))
    words = rendered(replace(data, reward_models=models)).words
    assert "One: MIT." in words and "Two: CC BY-NC 4.0, not for commercial use." in words


@given(st.integers(0, 40), st.integers(1, 4))
def test_examples_are_spread_over_the_ranking(count: int, each: int) -> None:
    found = spread(count, each)
    positions = [position for position, _ in found]
    assert positions == sorted(set(positions)) and len(positions) == min(count, 3 * each)
    assert all(0 <= position < count for position in positions)
    if count >= 2:
        assert dict(found)[0] == "best" and dict(found)[count - 1] in ("worst", "best")


def test_a_joint_loss_has_one_curve(data: ReportData) -> None:
    columns = [name for name in data.curves.dpo if not name.startswith(("preference_", "drift_"))]
    panels = training_panels(replace(data, curves=Curves(data.curves.sft, data.curves.dpo[columns])))
    assert "preference" in panels[1].alt_text and all(svg(panel).light for panel in panels)


def test_given_weights_have_no_curve_and_are_named(data: ReportData) -> None:
    sft = SftWeights(network="shipped:toyworld")
    given_weights = replace(
        data, settings=data.settings.model_copy(update={"sft": sft}), curves=Curves(pd.DataFrame(), data.curves.dpo)
    )
    titles = [panel.title for panel in training_panels(given_weights)]
    assert "SFT loss" not in titles and "AV-DPO loss" in titles
    words = " ".join(rendered(given_weights).words.split())
    assert "SFT network: given weights, shipped:toyworld; AV-DPO 8 steps" in words


def test_a_run_without_evaluation_is_refused_with_the_command_that_helps(tiny_run: RunFolder, tmp_path: Path) -> None:
    copy = open_root(Path(shutil.copytree(tiny_run.root, tmp_path / tiny_run.run_id)))
    (copy.root / "evaluation.json").unlink()
    with pytest.raises(InputError, match="has not been evaluated") as caught:
        collect(Run.of(copy))
    assert caught.value.fix.startswith(f"avpref runs resume {copy.run_id}")


def test_the_commands_exist(written: Page, tiny_run: RunFolder) -> None:
    from avpref.cli.main import app

    commands = re.findall("<dd><code>(.*?)</code></dd>", written.source)
    assert all(tiny_run.run_id in command for command in commands)
    own = [shlex.split(command)[1:] for command in commands if command.startswith("avpref ")]
    assert len(own) == 4 and len(commands) == 6
    for arguments in own:
        app.parse_args(arguments, exit_on_error=False, print_error=False)
