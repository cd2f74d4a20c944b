"""The schema of a pool's configuration file: one section per stage of ``avpref pool``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from avpref.config.data_settings import RecordingSettings
from avpref.config.executor_settings import Executor, InProcessExecutor
from avpref.config.learned_names import LearnedName
from avpref.config.observe_settings import ObserveSettings, ReportingSettings
from avpref.config.pool.caption_settings import CaptionSettings
from avpref.config.pool.filter_settings import FilteringSettings
from avpref.config.run_settings import RunSettings
from avpref.config.scorer_use import ScorerEntry
from avpref.config.scoring_settings import (
    ClapSettings,
    ImageBindSettings,
    ModelSettings,
    ScorerListSection,
    SynchformerSettings,
)
from avpref.config.section import Section


class BucketAccess(Section):
    """The store of sources that are written as ``s3://bucket/prefix``. Credentials come from the environment."""

    endpoint: str = Field(default="", description="URL of the store; empty: AWS, or AWS_ENDPOINT_URL")
    region: str = Field(default="", description="empty: AWS_REGION, or us-east-1")
    allow_http: bool = Field(default=False, description="connect to the endpoint without TLS")


class ScanSettings(Section):
    """Where the pool's videos are, which of them can be used, and which of them are the same recording."""

    sources: tuple[str, ...] = Field(
        default=(), description="folders, patterns, CSV and Parquet lists, tar files, s3://bucket/prefix"
    )
    bucket: BucketAccess = BucketAccess()
    require_sound: bool = Field(default=True, description="refuse recordings without sound")
    duplicates: Literal["drop", "keep"] = Field(
        default="drop", description="drop: of recordings that are the same, the best one is used"
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value


class CutSettings(Section):
    """How recordings are cut into clips. Cuts are ranges of time over the source."""

    detector: Literal["adaptive", "content", "histogram", "transnetv2", "none"] = Field(
        default="adaptive", description="none: a recording is one scene"
    )
    threshold: float | None = Field(
        default=None, gt=0, description="none: 3.0 adaptive, 27.0 content, 0.2 histogram, 0.5 transnetv2"
    )
    min_scene_frames: int = Field(default=15, gt=0, description="frames between two cuts")
    clips: Literal["scenes", "stride"] = Field(
        default="scenes", description="scenes: whole scenes, longer ones in equal parts; stride: a clip every stride_s"
    )
    min_s: float = Field(default=2.0, gt=0, description="shortest clip")
    max_s: float = Field(default=60.0, gt=0, description="longest clip")
    stride_s: float = Field(default=0.0, ge=0, description="with clips: stride; 0: max_s")
    margin_frames: int = Field(default=0, ge=0, description="frames left out on either side of a cut")

    @model_validator(mode="after")
    def _ordered(self) -> CutSettings:
        if self.min_s > self.max_s:
            raise ValueError(f"min_s {self.min_s:g} is more than max_s {self.max_s:g}")
        return self

    @property
    def cut_threshold(self) -> float:
        """The threshold, or the published one of the detector."""
        published = {"adaptive": 3.0, "content": 27.0, "histogram": 0.2, "transnetv2": 0.5, "none": 1.0}
        return published[self.detector] if self.threshold is None else self.threshold


class MeasureSettings(ScorerListSection):
    """The measures of a clip: built-in ones, and any scorer. All of them share one decoding of the clip."""

    scorers: tuple[ScorerEntry, ...] = ("frame_measures", "sound_measures", "flow_measures", "sync_measures")
    optional: tuple[LearnedName, ...] = Field(
        default=("speech", "sound_classes", "screen_text", "faces"),
        description="learned scorers that are added to scorers where their packages are installed",
    )
    preset: Literal["full", "tiny"] = Field(
        default="full", description="tiny: small reward models with random weights, for dry runs"
    )
    max_clip_bytes: int = Field(
        default=512 << 20, gt=0, description="size of a clip's pictures in memory; more: every second, third … frame"
    )
    audiobox: ModelSettings = ModelSettings()
    imagebind: ImageBindSettings = ImageBindSettings()
    synchformer: SynchformerSettings = SynchformerSettings()
    clap: ClapSettings = ClapSettings()


class WriteSettings(Section):
    """The form of the clips that are written."""

    fps_hz: float = Field(default=0.0, ge=0, description="0: the rate of the recording")
    height_px: int = Field(default=0, ge=0, multiple_of=2, description="0: the height of the recording")
    width_px: int = Field(default=0, ge=0, multiple_of=2, description="0: by the aspect ratio of the recording")
    sample_rate_hz: int = Field(default=0, ge=0, description="0: the rate of the recording")
    text: str = Field(
        default="", description="text of clips that have none; empty: such clips are not listed for import"
    )

    @model_validator(mode="after")
    def _has_height(self) -> WriteSettings:
        if self.width_px and not self.height_px:
            raise ValueError("width_px without height_px")
        return self


class PoolConfig(Section):
    """A complete configuration file of a pool."""

    run: RunSettings = RunSettings(name="pool", max_quarantined_share=1.0)
    executor: Executor = InProcessExecutor()
    observe: ObserveSettings = ObserveSettings()
    reporting: ReportingSettings = ReportingSettings()
    clip: RecordingSettings = RecordingSettings()
    scan: ScanSettings = ScanSettings()
    cut: CutSettings = CutSettings()
    measure: MeasureSettings = MeasureSettings()
    caption: CaptionSettings = CaptionSettings()
    filter: FilteringSettings = FilteringSettings()
    write: WriteSettings = WriteSettings()
