"""Metric sets that do not look at the prompt where they should.

A reward that does not depend on the prompt can rise while the clip stops showing what the prompt asks for. In the published case
(UniRL 411 and 418) a cosine of sound and picture tripled while the video collapsed into noise: the sound was also compared with
the prompt, the picture was not. A metric without the prompt is therefore safe only beside a metric that compares the same part of
the clip with the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from avpref.domain import Metric, MetricInput
from avpref.errors import ConfigError

PARTS = (MetricInput.PICTURE, MetricInput.SOUND)
Action = Literal["warn", "refuse", "off"]


def prompt_blind(metrics: Sequence[Metric]) -> tuple[str, ...]:
    """One sentence per finding: that no metric looks at the prompt, or per dimension which part of a clip nothing compares with it.

    A dimension is named if none of its metrics looks at the prompt and they look at a part (picture or sound) that no metric of the
    whole set compares with the prompt.
    """
    aware = [metric for metric in metrics if MetricInput.PROMPT in metric.inputs]
    if not aware:
        names = ", ".join(metric.name for metric in metrics)
        return (f"no metric looks at the prompt ({names}): a clip of something else can score as well",)
    compared = frozenset[MetricInput]().union(*(metric.inputs for metric in aware))
    findings = []
    for dimension in dict.fromkeys(metric.dimension for metric in metrics):
        own = [metric for metric in metrics if metric.dimension == dimension]
        if any(metric in aware for metric in own):
            continue
        parts = [part for part in PARTS if part not in compared and any(part in metric.inputs for metric in own)]
        if parts:
            findings.append(_finding(str(dimension), own, parts))
    return tuple(findings)


def checked_prompt_blind(metrics: Sequence[Metric], action: Action) -> tuple[str, ...]:
    """The findings of :func:`prompt_blind`; none with ``off``. Raises ConfigError for the first one with ``refuse``."""
    if action == "off":
        return ()
    findings = prompt_blind(metrics)
    if findings and action == "refuse":
        raise ConfigError(
            "; ".join(findings),
            "a metric that compares picture or sound with the prompt, such as text_video and text_audio (audit.prompt_blind is refuse)",
            "add it to scoring.metrics, or accept the risk: --set audit.prompt_blind=warn",
        )
    return findings


def _finding(dimension: str, own: Sequence[Metric], parts: Sequence[MetricInput]) -> str:
    names = ", ".join(metric.name for metric in own)
    verb = "does" if len(own) == 1 else "do"
    return (
        f"{dimension} rests on {names} alone, which {verb} not look at the prompt, and no metric compares the"
        f" {' or the '.join(parts)} with the prompt: the reward can rise while the clip stops showing what was asked for"
    )
