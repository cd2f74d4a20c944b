"""Checks of a configuration before the first stage, so that a run does not fail or mislead after hours of work."""

from __future__ import annotations

from avpref.config.schema import Settings
from avpref.config.training_settings import SftWeights
from avpref.console import say
from avpref.datasets.selection.prompt_blind import checked_prompt_blind
from avpref.flows.workers.generator import base_of
from avpref.flows.workers.judges import require_judges
from avpref.flows.workers.prompt_sources import shapes_of
from avpref.flows.workers.run_metrics import checked_metrics


def check_before_first_stage(settings: Settings) -> None:
    """Print a warning where the metrics do not look at the prompt. Raises ConfigError where that is to be refused.

    Raises ConfigError for metrics, gate rules and a benchmark that do not fit, for judges that select pairs too, and for clips that the
    base model cannot make or train on, and for given weights that do not go with the layout of the adapter; InputError for judges whose
    weights are absent, and for an SFT adapter of another base.
    """
    require_judges(settings)
    if isinstance(settings.sft, SftWeights):
        from avpref.flows.stages.training.given_adapter import require_given_weights  # importing PEFT takes seconds

        require_given_weights(settings)
    base = base_of(settings)
    for shape in shapes_of(settings):
        base.sampler(settings.sampling, shape)
        base.timestep_law(settings.dpo.timesteps, shape)
    if settings.evaluation.bench.preset:
        from avpref.flows.bench.bench_sides import check_bench

        check_bench(settings)
    for finding in checked_prompt_blind(checked_metrics(settings), settings.audit.prompt_blind):
        say(f"prompt-blind rewards: {finding}")
