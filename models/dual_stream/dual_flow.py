"""Flow matching of the dual-stream network: the error of each modality, over the frames that are to be generated."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from avpref.models.flow import Latents, velocity_target

EPSILON = 1e-6


class ModalityErrors(NamedTuple):
    """Mean squared velocity errors, [B] each; their sum is the loss of a row."""

    video: Tensor
    audio: Tensor

    @property
    def total(self) -> Tensor:
        """The loss of each row [B]."""
        return self.video + self.audio


def flow_errors(
    velocity: Latents,
    data: Latents,
    noise: Latents,
    video_mask: Tensor | None = None,
    audio_mask: Tensor | None = None,
) -> ModalityErrors:
    """Errors of ``velocity`` against noise − data. Masks [B, T] and [B, L]: True where latents are to be generated.

    The masked mean is (Σ + 1e-6) / (number + 1e-6) as released, so a modality that is known as a whole has the constant error 1.
    """
    tracks = zip(velocity, data, noise, (video_mask, audio_mask), strict=True)
    errors = []
    for predicted, x0, x1, mask in tracks:
        assert predicted is not None and x0 is not None and x1 is not None
        errors.append(masked_mean((predicted.float() - velocity_target(x0, x1)).square(), mask))
    return ModalityErrors(*errors)


def masked_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``error`` [B, C, F, ...] over all but rows, or over the frames of ``mask`` [B, F]."""
    if mask is None:
        return error.flatten(1).mean(dim=1)
    of_frames = error.transpose(1, 2).flatten(2).sum(dim=2)
    num_values = error[0, :, 0].numel()
    weights = mask.to(error.dtype)
    return ((of_frames * weights).sum(dim=1) + EPSILON) / (weights.sum(dim=1) * num_values + EPSILON)
