"""Previews: clips with sound that a training samples from the same texts and seeds before its first step and every N steps.

Clips are mp4 files under ``previews/step_STEP/`` beside the metrics, and pictures with sound in TensorBoard. The codec is opened for
the first preview: no training step runs an encoder or a decoder.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from avpref.config.base_settings import BaseSections
from avpref.config.data_settings import ClipSettings
from avpref.config.network_settings import SamplingSettings
from avpref.errors import InputError
from avpref.media.geometry import ClipShape
from avpref.media.writing import encode_clip
from avpref.models.bases.base_opening import open_base
from avpref.models.codecs.codec import Codec
from avpref.models.flow import Latents
from avpref.models.sampling import draw_noise
from avpref.models.text import TextBatch
from avpref.storage.local_files import replace
from avpref.trainer.monitoring.media_events import MediaEvents
from avpref.trainer.parallel import Context

PREVIEWS = "previews"
METADATA_KEY = "avpref"


@dataclass(frozen=True, eq=False)
class PreviewTexts:
    """Inputs of the samples: texts [K, L, D] with a negative one, seeds, settings of sampling, and the base model."""

    names: tuple[str, ...]
    text: TextBatch
    negative: TextBatch
    seeds: tuple[int, ...]
    sampling: SamplingSettings
    base: BaseSections


def save_previews(path: Path, previews: PreviewTexts) -> None:
    """Write ``previews`` atomically. Raises StorageError."""
    record = {
        "names": previews.names,
        "seeds": previews.seeds,
        "sampling": previews.sampling.model_dump(mode="json"),
        "base": previews.base.model_dump(mode="json"),
    }
    tensors = {"text": previews.text.states, "text_mask": previews.text.mask}
    tensors |= {"negative": previews.negative.states, "negative_mask": previews.negative.mask}
    replace(path, save({name: t.contiguous() for name, t in tensors.items()}, {METADATA_KEY: json.dumps(record)}))


def load_previews(path: Path) -> PreviewTexts:
    """Read a file of :func:`save_previews`. Raises InputError for one that is absent or unreadable."""
    try:
        with safe_open(path, framework="pt") as stream:
            record = json.loads((stream.metadata() or {})[METADATA_KEY])
            tensors: dict[str, Tensor] = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        fix = "run the command again, which writes it, or set loop.previews.every to 0"
        raise InputError(f"{path}: {error}", "texts of previews", fix) from error
    return PreviewTexts(
        tuple(record["names"]),
        TextBatch(tensors["text"], tensors["text_mask"]),
        TextBatch(tensors["negative"], tensors["negative_mask"]),
        tuple(record["seeds"]),
        SamplingSettings.model_validate(record["sampling"]),
        BaseSections.model_validate(record["base"]),
    )


@dataclass(frozen=True)
class PreviewPlan:
    """Shape of the clips, the training's output folder, steps between previews, and the number of the last step."""

    clip: ClipSettings
    output: Path
    every: int
    steps: int

    def is_due(self, step: int) -> bool:
        """Whether there is a preview after ``step`` steps: before the first, every ``every``, and after the last."""
        return step % self.every == 0 or step == self.steps

    @property
    def shape(self) -> ClipShape:
        """The shape of the clips."""
        clip = self.clip
        return ClipShape(clip.num_frames, clip.height_px, clip.width_px, clip.fps_hz, clip.sample_rate_hz)


class Previews:
    """Samples previews of a network in training. Every rank samples, because ranks may hold parts of the network; the first writes."""

    def __init__(self, network: nn.Module, texts: PreviewTexts, plan: PreviewPlan, context: Context) -> None:
        self._network, self._texts, self._plan, self._context = network, texts, plan, context
        self._base = open_base(texts.base)
        self._sampler = self._base.sampler(texts.sampling, plan.shape)
        self._codec: Codec | None = None

    def after_step(self, step: int) -> None:
        """Write the previews after ``step`` steps if they are due. Raises StorageError."""
        if not self._plan.is_due(step):
            return
        texts = self._texts
        codec = self._open()
        noise = self._on_device(draw_noise(codec.latent_shapes(), texts.seeds))
        text, negative = (
            TextBatch(*(tensor.to(self._context.device) for tensor in batch)) for batch in (texts.text, texts.negative)
        )
        latents = self._sampler.sample(self._network, noise, text, negative)
        if self._context.is_first:
            self._write(step, codec.decode(latents))

    def _open(self) -> Codec:
        if self._codec is None:
            self._codec = self._base.codec(self._plan.shape, str(self._context.device))
        return self._codec

    def _on_device(self, latents: Latents) -> Latents:
        return Latents(*(None if tensor is None else tensor.to(self._context.device) for tensor in latents))

    def _write(self, step: int, clips: Sequence[tuple[NDArray[np.uint8], NDArray[np.float32]]]) -> None:
        shape, folder = self._plan.shape, preview_folder(self._plan.output, step)
        with MediaEvents(self._plan.output / "tensorboard") as events:
            for name, (frames, audio) in zip(self._texts.names, clips, strict=True):
                replace(folder / f"{name}.mp4", encode_clip(frames, shape.fps_hz, audio, shape.sample_rate_hz))
                events.add_video(f"preview/{name}", animated(frames, shape.fps_hz), frames.shape[1:3], step)
                events.add_audio(f"preview/{name}/sound", audio, shape.sample_rate_hz, step)


def preview_folder(output: Path, step: int) -> Path:
    """Folder of the clips that the training in ``output`` sampled after ``step`` steps."""
    return output / PREVIEWS / f"step_{step:08d}"


def preview_steps(output: Path) -> list[tuple[int, Path]]:
    """Steps after which the training in ``output`` sampled previews, with their folders, in order."""
    folders = sorted((output / PREVIEWS).glob("step_*"))
    return [(int(folder.name.removeprefix("step_")), folder) for folder in folders]


def animated(frames: NDArray[np.uint8], fps_hz: float) -> bytes:
    """Frames uint8 [T, H, W, 3] as an animated GIF, which TensorBoard shows as a picture that moves."""
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, format="GIF", save_all=True, append_images=pictures[1:], duration=round(1000 / fps_hz), loop=0
    )
    return buffer.getvalue()
