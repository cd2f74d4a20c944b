"""The page ``report.html``: verdict, change on held-out prompts, clips, distributions, training, origin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from avpref import __version__
from avpref.config.gate_settings import BootstrapProcedure, SequentialProcedure
from avpref.config.scoring_settings import ScoringSettings
from avpref.datasets.evidence.gate import RuleOutcome
from avpref.flows.stages.collect_report import ReportData
from avpref.flows.workers.scorers import sources
from avpref.reports import html as markup
from avpref.reports.figures import NAME
from avpref.reports.formatting import Content, Html, element, signed, table
from avpref.reports.plots import Panel, svg
from avpref.reports.report_clips import Shelf, before_and_after, pair_examples
from avpref.reports.shortcut_rows import audit_table
from avpref.storage.files import Files

STYLE = Path(__file__).with_name("report.css")
MAX_ROWS = 20
"""Rows of a table of single candidates; the rest is counted."""

RULES = {
    "audio_gain": "Audio improved: mean change",
    "sync_gain": "Sync improved: lower end of the interval",
    "video_kept": "Video kept: lower end of the interval",
    "displacement": "Chosen clips kept: rise of their training error",
    "meaningful_scores": "Scores mean something",
    "superiority": "Improved: lower end of the interval",
    "minimum_effect": "Improved: mean change",
    "non_inferiority": "Kept: lower end of the interval",
    "validity": "Rise of the share of clips that no scorer could judge",
    "enough_pairs": "Enough comparable pairs",
}
OF_ONE_DIMENSION = {"audio_gain", "sync_gain", "video_kept", "meaningful_scores"}
UNITS = {"displacement": ("", 5), "validity": ("", 3), "enough_pairs": ("", 0), "meaningful_scores": ("", 0)}
SIGNS = {"displacement": "below", "validity": "at most"} | dict.fromkeys(
    ("audio_gain", "minimum_effect", "enough_pairs", "meaningful_scores"), "at least"
)
SCORERS = {
    "toy": "The scorers know the embedded toy world and nothing else; their numbers do not carry over to other clips.",
    "signal": "The scorers measure properties of the signal. They are not the learned reward models of the paper.",
    "fake": "The scorers are fake: every number is derived from the clip's name. Nothing on this page says anything about quality.",
}

Panels = Mapping[str, Sequence[Panel]]

TINY = "The reward models are tiny and their weights are random: no number on this page says anything about quality."


def render(data: ReportData, panels: Panels, media: Files) -> tuple[str, int]:
    """The page and the number of its sections. Clips are read from ``media``."""
    shelf = Shelf(media)
    parts = [
        ("change", "Change on held-out prompts", _change(data, panels)),
        ("clips", "Before and after", _clips(data, shelf)),
        ("pairs", "Chosen and rejected", _pairs(data, panels, shelf)),
        ("rewards", "Rewards", _rewards(panels)),
        ("left-out", "What was left out", _left_out(data)),
        ("training", "Training", _training(data, panels)),
        ("stages", "Stages", _stages(data)),
        ("origin", "Origin", _origin(data)),
        ("next", "Look further", _commands(data)),
    ]
    links = (element("li", element("a", title, href=f"#{anchor}")) for anchor, title, _ in parts)
    body = (
        _banner(data),
        element("nav", element("ol", *links), aria_label="Sections"),
        element("main", *(markup.section(anchor, title, *content) for anchor, title, content in parts)),
        element("footer", element("p", f"avpref {__version__}, run {data.run_id}")),
    )
    return markup.page(f"{data.run_id}: {_word(data).lower()}", STYLE.read_text(encoding="utf-8"), *body), len(parts)


def _word(data: ReportData) -> str:
    return "Promoted" if data.is_promoted else "Refused"


def _banner(data: ReportData) -> Html:
    failed = sum(not rule.passed for rule in data.rules)
    why = f"all {len(data.rules)} rules passed" if data.is_promoted else f"{failed} of {len(data.rules)} rules refused"
    scoring = data.settings.scoring
    is_meaningless = "fake" in scoring.scorers or scoring.preset == "tiny"
    warning = [TINY] if scoring.preset == "tiny" else []
    return element(
        "header",
        element("p", "Run report", class_="over"),
        element("h1", data.run_id),
        element("p", element("strong", _mark(data.is_promoted), f" {_word(data)}"), f": {why}.", class_="decision"),
        element(
            "p",
            " ".join([*warning, *_said_of(scoring)]),
            class_="warning" if is_meaningless else "note",
        ),
        table("The gate, rule by rule", ("Rule", "Measured", "Required"), map(_rule, data.rules)),
        class_="promoted" if data.is_promoted else "refused",
    )


def _said_of(scoring: ScoringSettings) -> list[str]:
    """What a reader must know of each scorer: what it is worth, or under which licence its numbers are."""
    said = [SCORERS[name] for name in scoring.scorers if name in SCORERS]
    for source in sources(scoring):
        if source.is_network:
            use = "" if source.terms.commercial_use else ", not for commercial use"
            said.append(f"{source.name}: {source.terms.licence}{use}.")
    return said


def _mark(is_good: bool) -> str:
    return "✓" if is_good else "✕"


def _rule(rule: RuleOutcome) -> tuple[Content, ...]:
    name = f"{RULES.get(rule.rule, rule.rule)}{f' ({rule.dimension})' if rule.rule not in OF_ONE_DIMENSION else ''}"
    unit, digits = UNITS.get(rule.rule, ("\N{NO-BREAK SPACE}sd", 3))
    sign = SIGNS.get(rule.rule, "above")
    result = element(
        "span", f"{_mark(rule.passed)} {'passed' if rule.passed else 'refused'}", class_=_tone(rule.passed)
    )
    named = markup.join([result, markup.void("br"), name])
    return named, signed(rule.value, digits) + unit, f"{sign} {signed(rule.bound, digits)}{unit}"


def _tone(is_good: bool) -> str:
    return "good" if is_good else "bad"


def _interval(data: ReportData) -> str:
    settings = data.settings.evaluation
    match settings.procedure:
        case BootstrapProcedure():
            return f"a paired bootstrap over prompts with {settings.bootstrap_samples} resamples"
        case SequentialProcedure(look_prompts=size):
            return (
                f"that of a look after every {size} prompts: wider the earlier, so that all looks together err no more"
            )


def _change(data: ReportData, panels: Panels) -> Sequence[Content]:
    share = f"{100 * data.settings.evaluation.confidence:g} %"
    rows = [
        (
            NAME[dimension],
            f"{signed(one.delta_sd, 3)}",
            f"{signed(one.ci_low, 3)} to {signed(one.ci_high, 3)}",
            f"{100 * one.win_rate:.1f} %",
            str(one.num_pairs),
            f"{one.reference_sd:.3f}",
        )
        for dimension, one in data.comparisons.items()
    ]
    head = ("", "Change (sd)", f"{share} interval", "Win rate", "Prompts", "Reference sd")
    explained = (
        "Policy and reference start from the same noise on prompts that no training saw. The change is in standard deviations"
        f" of the reference's rewards; the interval is {_interval(data)}. Win rate: the"
        " share of prompts on which the policy's clip has the higher reward, ties counted half."
    )
    caption = "Policy minus reference, per dimension; sync is the agreement of sound and picture"
    return element("p", explained), table(caption, head, rows, kind="numbers"), _grid(panels["evaluation"])


def _clips(data: ReportData, shelf: Shelf) -> Sequence[Content]:
    explained = (
        "Up to two prompts each with the best, the middle and the worst change, by the sum of the three reward changes; none"
        " was picked by eye. Rewards are in standard deviations of the run's scored candidates."
    )
    return element("p", explained), before_and_after(data, shelf)


def _pairs(data: ReportData, panels: Panels, shelf: Shelf) -> Sequence[Content]:
    kept, asked = len(data.pairs), data.num_train_prompts
    names = ", ".join(sorted(set(data.pairs.strategy)))
    prompts = data.pairs.prompt_id.nunique()
    explained = (
        f"{kept} pairs ({names}) of {prompts} of {asked} training prompts. Below, up to two pairs each with the largest, the middle"
        " and the smallest total margin; the total is the sum or mean that the strategy ranks by."
    )
    return element("p", explained), _grid(panels["margins"]), audit_table(data.audit), pair_examples(data, shelf)


def _rewards(panels: Panels) -> Sequence[Content]:
    explained = (
        "Grey areas are the baseline, coloured lines what is compared with it; each is scaled to 100 % of its clips."
    )
    return element("p", explained), _grid(panels["rewards"])


def _left_out(data: ReportData) -> Sequence[Content]:
    skipped = _counted("Prompts without a pair, by reason", "prompt", data.skipped, ["reason"])
    excluded = _counted("Candidates without rank, by reason", "candidate", data.excluded, ["metric", "reason"])
    return skipped, excluded, _quarantine(data.quarantine)


def _counted(caption: str, noun: str, rows: pd.DataFrame, keys: list[str]) -> Html:
    if rows.empty:
        return element("p", f"{caption}: none.")
    groups = rows.groupby(keys, sort=True).agg(count=("detail", "size"), example=("detail", "first")).reset_index()
    cells = [tuple(str(value) for value in row) for row in groups.itertuples(index=False)]
    head = (*(key.capitalize() for key in keys), f"{noun.capitalize()}s", "For example")
    return table(caption, head, cells)


def _quarantine(rows: pd.DataFrame) -> Html:
    if rows.empty:
        return element("p", "Quarantine: nothing failed.")
    more = f"; the first {MAX_ROWS} are shown" if len(rows) > MAX_ROWS else ""
    shown = rows.sort_values(["stage", "candidate_id"]).head(MAX_ROWS)
    cells = [
        (row.candidate_id, row.stage, row.error, row.message, str(row.attempts))
        for row in shown.itertuples(index=False)
    ]
    head = ("Candidate", "Stage", "Error", "Message", "Attempts")
    return table(f"Quarantine: {len(rows)} failed{more}", head, cells)


def _training(data: ReportData, panels: Panels) -> Sequence[Content]:
    dpo = data.settings.dpo
    loss = dpo.loss
    explained = (
        f"SFT {len(data.curves.sft)} steps; AV-DPO {len(data.curves.dpo)} steps of {dpo.loop.batch_size} pairs, LoRA rank"
        f" {dpo.adapter.rank}, β {loss.beta_video:g} (video) and {loss.beta_audio:g} (audio), learning rate"
        f" {dpo.optimiser.lr:g}. Faint lines are single steps, strong lines running means. Implicit accuracy alone says"
        " little: watch displacement, the rise of the chosen clips' own error."
    )
    return element("p", explained), _grid(panels["training"])


def _stages(data: ReportData) -> Sequence[Content]:
    if not data.stages:
        return (element("p", "No times: the run was made stage by stage."),)
    longest = max(stage.seconds for stage in data.stages) or 1.0
    rows = [
        (
            stage.name,
            f"{stage.seconds:.1f} s",
            element("meter", value=f"{stage.seconds / longest:.4f}"),
            str(stage.rows),
        )
        for stage in data.stages
    ]
    total = sum(stage.seconds for stage in data.stages)
    caption = f"Wall time of this execution, {total:.0f} s in all; stages that were already done take none"
    return (table(caption, ("Stage", "Time", "Share of the longest", "Rows"), rows, kind="numbers"),)


def _origin(data: ReportData) -> Sequence[Content]:
    rows = [(name, element("code", value)) for name, value in data.origin]
    return (table("Everything that the adapter came from", ("What", "Id or hash"), rows, kind="hashes"),)


COMMANDS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("The run and its stages", lambda run: f"avpref runs show {run} --runs ."),
    ("The pairs", lambda run: f"avpref pairs show --run {run} --runs ."),
    ("The gate's decision again", lambda run: f"avpref gate check --run {run} --runs ."),
    ("All training curves", lambda run: f"tensorboard --logdir {run}/models"),
    ("Pairs, clips and SQL in a notebook", lambda run: f"AVPREF_RUN={run} marimo run NOTEBOOKS/inspect_pairs.py"),
)


def _commands(data: ReportData) -> Sequence[Content]:
    explained = element(
        "p",
        "In the folder that holds the run folder; ",
        element("code", "NOTEBOOKS"),
        " is the folder of that name in a checkout of the project.",
    )
    entries = [
        item
        for title, command in COMMANDS
        for item in (element("dt", title), element("dd", element("code", command(data.run_id))))
    ]
    return explained, element("dl", *entries)


def _grid(panels: Sequence[Panel]) -> Html:
    return element("div", *(markup.figure(svg(panel), panel.title) for panel in panels), class_="grid")
