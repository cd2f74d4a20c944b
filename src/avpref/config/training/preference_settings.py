"""Section ``dpo.loss``: the loss of a preference pair."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from avpref.config.section import ExtendedSection


class PreferenceLossSettings(ExtendedSection):
    """The AV-DPO loss (:mod:`avpref.trainer.losses`); the defaults are those of the released configuration."""

    ADDED: ClassVar[frozenset[str]] = frozenset(
        {
            *("target_margin", "margin_power", "weight_video", "weight_audio", "noise_weights"),
            *("unpaired", "chosen_weight", "rejected_weight"),
        }
    )

    form: Literal["per_modality", "joint"] = "per_modality"
    variant: Literal["sigmoid", "ipo", "hinge"] = "sigmoid"
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    beta_video: float = Field(default=3000.0, gt=0)
    beta_audio: float = Field(default=1000.0, gt=0)
    half: bool = True
    reduction: Literal["mean", "sum"] = "mean"
    flow_weight: float = Field(default=0.1, ge=0)
    unpaired: bool = False
    target_margin: float = Field(default=0.0, ge=0)
    margin_power: float = Field(default=0.0, ge=0)
    weight_video: float = Field(default=1.0, ge=0)
    weight_audio: float = Field(default=1.0, ge=0)
    noise_weights: tuple[float, ...] = ()
    chosen_weight: float = Field(default=1.0, ge=0)
    rejected_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.form == "joint" and (self.weight_video, self.weight_audio) != (1.0, 1.0):
            raise ValueError("form joint has one term for both modalities: weigh them by beta_video and beta_audio")
        if not self.unpaired and (self.chosen_weight, self.rejected_weight) != (1.0, 1.0):
            raise ValueError("chosen_weight and rejected_weight belong to unpaired: true")
        if self.unpaired and self.variant != "sigmoid":
            raise ValueError(f"unpaired has its own value function; variant {self.variant} is one of pairs")
        if any(weight < 0 for weight in self.noise_weights):
            raise ValueError("noise_weights must not be negative")
        return self
