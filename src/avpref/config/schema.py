"""The schema of a configuration file: one class per section, frozen; unknown keys are refused.

Files are complete and flat (no inheritance, no interpolation). Where a section may take several forms, the key ``kind``
selects the class, and one ``match`` in the flows turns each class into its implementation.
"""

from __future__ import annotations

from avpref.config.base_settings import BaseSections, BaseSettings
from avpref.config.codec_settings import CodecSettings, IdentityCodecSettings, TextSettings, WordTextSettings
from avpref.config.data_settings import ClipSettings, PromptSettings, RecordingSettings
from avpref.config.executor_settings import Executor, InProcessExecutor
from avpref.config.gate_settings import EvaluationSettings, PromotionSettings
from avpref.config.network_settings import NetworkSettings, SamplingSettings
from avpref.config.observe_settings import ObserveSettings, ReportingSettings
from avpref.config.pairs_settings import AuditSettings, PairSettings
from avpref.config.round_settings import RoundSettings
from avpref.config.run_settings import RunSettings
from avpref.config.scoring_settings import ScoringSettings
from avpref.config.section import Section
from avpref.config.storage_settings import FolderStorage, RetentionSettings, Storage
from avpref.config.training.prior_settings import PriorTrainingSettings
from avpref.config.training_settings import DpoSettings, Sft, SftWeights


class Settings(Section):
    """A complete configuration file."""

    run: RunSettings = RunSettings()
    executor: Executor = InProcessExecutor()
    storage: Storage = FolderStorage()
    observe: ObserveSettings = ObserveSettings()
    clip: ClipSettings
    prompts: PromptSettings
    base: BaseSettings = BaseSettings()
    codec: CodecSettings = IdentityCodecSettings()
    text: TextSettings = WordTextSettings()
    network: NetworkSettings | None = None
    prior: PriorTrainingSettings | None = None
    sft: Sft
    sampling: SamplingSettings = SamplingSettings()
    scoring: ScoringSettings = ScoringSettings()
    pairs: PairSettings = PairSettings()
    audit: AuditSettings = AuditSettings()
    dpo: DpoSettings
    rounds: RoundSettings = RoundSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    retention: RetentionSettings = RetentionSettings()
    promotion: PromotionSettings = PromotionSettings()
    reporting: ReportingSettings = ReportingSettings()

    @property
    def base_sections(self) -> BaseSections:
        """The sections that describe the base model."""
        return BaseSections(base=self.base, network=self.network, codec=self.codec, text=self.text)

    @property
    def continues_given_adapter(self) -> bool:
        """Whether AV-DPO continues an SFT adapter that is a file beside given weights."""
        return isinstance(self.sft, SftWeights) and self.dpo.adapter.layout == "two_adapters"


class ScoreJob(Section):
    """Configuration of a command that scores a list of clips without a generator: a subset of the sections."""

    run: RunSettings = RunSettings(name="scores")
    executor: Executor = InProcessExecutor()
    observe: ObserveSettings = ObserveSettings()
    clip: RecordingSettings = RecordingSettings()
    scoring: ScoringSettings = ScoringSettings(scorers=("audiobox", "imagebind", "synchformer", "videoalign"))


class BenchJobSettings(Section):
    """Configuration of ``avpref bench``: a subset of the sections; presets choose the scorers."""

    run: RunSettings = RunSettings(name="bench", unit_candidates=8)
    executor: Executor = InProcessExecutor()
    observe: ObserveSettings = ObserveSettings()
    clip: RecordingSettings = RecordingSettings()
    scoring: ScoringSettings = ScoringSettings()
