"""Checks of a configuration before the first stage, so that a run does not fail or mislead after hours of work."""

from __future__ import annotations

from avpref.config.schema import Settings
from avpref.console import say
from avpref.datasets.selection.prompt_blind import checked_prompt_blind
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.judges import require_judges
from avpref.flows.workers.prompt_sources import shapes_of
from avpref.flows.workers.run_metrics import checked_metrics


def check_before_first_stage(settings: Settings) -> None:
    """Print a warning where the metrics do not look at the prompt. Raises ConfigError where that is to be refused.

    Raises ConfigError for metrics, gate rules and a benchmark that do not fit, for judges that select pairs too, and for clips that the
    base model cannot make or train on; InputError for judges whose weights are absent.
    """
    require_judges(settings)
    base = base_of(settings)
    for shape in shapes_of(settings):
        base.sampler(settings.sampling, shape)
        base.timestep_law(settings.dpo.timesteps, shape)
    if settings.evaluation.bench.preset:
        from avpref.flows.bench.bench_sides import check_bench

        check_bench(settings)
    for finding in checked_prompt_blind(checked_metrics(settings), settings.audit.prompt_blind):
        say(f"prompt-blind rewards: {finding}")
