"""The gate: fixed rules on measured deltas. Every rule is a row; the verdict is yes only if every rule passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from avpref.datasets.evaluation import Comparison
from avpref.datasets.rows import GateRow
from avpref.domain import Dimension
from avpref.identity import digest
from avpref.settings import GateSettings

PROMOTE, REFUSE = "promote", "refuse"


@dataclass(frozen=True)
class RuleOutcome:
    """One rule: what was measured, the bound, and whether it holds."""

    rule: str
    dimension: str
    value: float
    bound: float
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verdict:
    """The decision and the rules that led to it."""

    verdict: str
    rules: tuple[RuleOutcome, ...]

    @property
    def is_promoted(self) -> bool:
        """Whether every rule passed."""
        return self.verdict == PROMOTE

    @property
    def reasons(self) -> list[str]:
        """One line per rule that refused."""
        return [rule.detail for rule in self.rules if not rule.passed]


def decide(
    comparisons: Mapping[Dimension, Comparison],
    displacement: Mapping[str, float | None],
    settings: GateSettings,
    meaningless: Sequence[str] = (),
) -> Verdict:
    """Apply the rules. ``displacement`` is the chosen side's mean loss change per modality (positive: it got worse).

    ``meaningless`` names scorers with random weights: whatever they say, nothing is promoted on it.
    """
    audio, av, video = comparisons[Dimension.AUDIO], comparisons[Dimension.AV], comparisons[Dimension.VIDEO]
    rules = [
        _at_least("audio_gain", Dimension.AUDIO, "delta", audio.delta_sd, settings.min_audio_delta_sd),
        _above("sync_gain", Dimension.AV, "lower bound of the interval", av.ci_low, settings.min_av_ci_low_sd),
        _above(
            "video_kept", Dimension.VIDEO, "lower bound of the interval", video.ci_low, settings.min_video_ci_low_sd
        ),
    ]
    rules += [
        _displaced(name, value, settings.max_displacement)
        for name, value in sorted(displacement.items())
        if value is not None
    ]
    rules += [_random(name) for name in meaningless]
    return Verdict(PROMOTE if all(rule.passed for rule in rules) else REFUSE, tuple(rules))


def rows(verdict: Verdict, inputs_hash: str) -> list[GateRow]:
    """The decision as table rows; the same inputs always give the same rows."""
    gate_id = "g" + digest("gate", inputs_hash, [[rule.rule, rule.bound] for rule in verdict.rules])
    return [GateRow(gate_id, **vars(rule), verdict=verdict.verdict, inputs_hash=inputs_hash) for rule in verdict.rules]


def _at_least(rule: str, dimension: Dimension, what: str, value: float, bound: float) -> RuleOutcome:
    sign = ">=" if value >= bound else "<"
    detail = f"{dimension} {what} {value:+.3f} sd {sign} {bound:+.3f} sd"
    return RuleOutcome(rule, dimension, value, bound, value >= bound, detail)


def _above(rule: str, dimension: Dimension, what: str, value: float, bound: float) -> RuleOutcome:
    sign = ">" if value > bound else "<="
    detail = f"{dimension} {what} {value:+.3f} sd {sign} {bound:+.3f} sd"
    return RuleOutcome(rule, dimension, value, bound, value > bound, detail)


def _random(scorer: str) -> RuleOutcome:
    return RuleOutcome("meaningful_scores", "", 0.0, 1.0, False, f"the scores of {scorer} mean nothing")


def _displaced(modality: str, value: float, bound: float) -> RuleOutcome:
    passed = value < bound
    detail = f"displacement of the chosen {modality} {value:+.5f} {'<' if passed else '>='} {bound:.5f}"
    return RuleOutcome("displacement", modality, value, bound, passed, detail)
