"""The networks whose features are compared between sets of clips: front end clip by clip, then the network, one clip at a time.

Clips never share a batch, so features depend on the clip alone. Each network names its arrays: ``features`` and, where it
classifies, ``logits``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from avpref.bench.networks.bench_clip import BenchClip, NoFeatures, cut_or_padded
from avpref.bench.networks.video_frames import FvdRange, fvd_input
from avpref.models.features import cnn14, passt, vggish
from avpref.models.features.cnn14 import AT_16_KHZ, AT_32_KHZ, FrontEnd

Arrays = Mapping[str, NDArray[np.float32]]
"""Array name → float32 [rows, D]; one row per clip, several where the network hears pieces."""
JAVISBENCH_RATE_HZ = 16000
MIN_CNN14_HOPS = 31


class NetworkInput(NamedTuple):
    """Input of a network, and a remark on how the clip was fitted, empty where nothing was."""

    tensor: Tensor
    remark: str = ""


class FeatureNetwork(ABC):
    """A network with its front end."""

    def __init__(self, network: nn.Module, device: str) -> None:
        self._network, self._device = network.to(device).eval(), device

    @abstractmethod
    def inputs(self, clip: BenchClip) -> NetworkInput:
        """The front end of one clip, on the CPU. Raises NoFeatures where the network has none of it."""

    @abstractmethod
    def outputs(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """Arrays by name from ``inputs`` on the device."""

    def features(self, inputs: Tensor) -> Arrays:
        """Arrays of one clip. Raises NoFeatures for values that are not finite."""
        with torch.inference_mode():
            arrays = {
                name: value.float().cpu().numpy() for name, value in self.outputs(inputs.to(self._device)).items()
            }
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise NoFeatures(f"the network gave {name} that are not finite")
        return arrays


class I3dNetwork(FeatureNetwork):
    """FVD and KVD: logits [1, 400] of ``num_frames`` frames."""

    def __init__(self, network: nn.Module, device: str, num_frames: int, value_range: FvdRange) -> None:
        super().__init__(network, device)
        self._num_frames, self._range = num_frames, value_range

    def inputs(self, clip: BenchClip) -> NetworkInput:
        """See the base class; a clip of fewer frames than the network takes has no features."""
        frames = clip.frames()
        if len(frames) < self._num_frames:
            raise NoFeatures(f"{len(frames)} frames, fewer than the {self._num_frames} that the video network takes")
        return NetworkInput(fvd_input(frames, self._num_frames, self._range)[None])

    def outputs(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """See the base class."""
        return {"logits": self._network(inputs)}


class AudioClipNetwork(FeatureNetwork):
    """FAD of JavisBench: features [1, 1024] of ``cut_s`` seconds at 16 kHz.

    ``is_int16``: samples are multiplied by 32,768 first, as AudioCLIP expects; published numbers are without.
    """

    def __init__(self, network: nn.Module, device: str, cut_s: float, is_int16: bool) -> None:
        super().__init__(network, device)
        self._cut_s, self._is_int16 = cut_s, is_int16

    def inputs(self, clip: BenchClip) -> NetworkInput:
        """See the base class; shorter sound is followed by zeros, as published, and remarked on."""
        sound, wanted = clip.librosa_sound(JAVISBENCH_RATE_HZ), int(self._cut_s * JAVISBENCH_RATE_HZ)
        remark = f"sound of {len(sound) / JAVISBENCH_RATE_HZ:.2f} s, filled with zeros to {self._cut_s:g} s"
        samples = cut_or_padded(sound, wanted) * (32768.0 if self._is_int16 else 1.0)
        return NetworkInput(torch.from_numpy(samples.astype(np.float32))[None], remark if len(sound) < wanted else "")

    def outputs(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """See the base class."""
        return {"features": self._network(inputs)}


class Cnn14Network(FeatureNetwork):
    """FD-PANNs, inception score, KL: features [1, 2048] and logits [1, 527] of at most ``cut_s`` seconds."""

    def __init__(self, network: nn.Module, device: str, cut_s: float, front_end: FrontEnd) -> None:
        super().__init__(network, device)
        self._cut_s, self._front_end = cut_s, front_end

    def inputs(self, clip: BenchClip) -> NetworkInput:
        """See the base class; sound of fewer than 31 hops has no features."""
        rate_hz = self._front_end.rate_hz
        sound = clip.centred_sound(rate_hz)[: int(self._cut_s * rate_hz)]
        shortest = MIN_CNN14_HOPS * self._front_end.hop_samples
        if len(sound) < shortest:
            raise NoFeatures(f"sound of {len(sound) / rate_hz:.2f} s, shorter than {shortest / rate_hz:.2f} s")
        return NetworkInput(torch.from_numpy(np.ascontiguousarray(sound))[None])

    def outputs(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """See the base class."""
        tags: cnn14.TagsAndFeatures = self._network(inputs)
        return {"features": tags.features, "logits": tags.logits}


class VggishNetwork(FeatureNetwork):
    """FD-VGG: features [P, 128], a row per 0.96 s of at most ``cut_s`` seconds."""

    def __init__(self, network: nn.Module, device: str, cut_s: float) -> None:
        super().__init__(network, device)
        self._cut_s = cut_s

    def inputs(self, clip: BenchClip) -> NetworkInput:
        """See the base class; sound shorter than one piece has no features."""
        sound = clip.centred_sound(vggish.RATE_HZ)[: int(self._cut_s * vggish.RATE_HZ)]
        if len(sound) < vggish.SHORTEST_SAMPLES:
            shortest_s = vggish.SHORTEST_SAMPLES / vggish.RATE_HZ
            raise NoFeatures(f"sound of {len(sound) / vggish.RATE_HZ:.2f} s, shorter than {shortest_s:.3f} s")
        return NetworkInput(vggish.log_mel_pieces(sound))

    def outputs(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """See the base class."""
        return {"features": self._network(inputs)}


class PasstNetwork(FeatureNetwork):
    """FD-PaSST, inception score, KL: features [1, 768] and logits [1, 527] of at most ``cut_s`` seconds, filled to 10 s."""

    def __init__(self, network: nn.Module, device: str, cut_s: float) -> None:
        super().__init__(network, device)
        self._cut_s = cut_s

    def inputs(self, clip: BenchClip) -> NetworkInput:
        """See the base class."""
        sound = clip.centred_sound(passt.RATE_HZ)[: int(self._cut_s * passt.RATE_HZ)]
        return NetworkInput(passt.log_mel(passt.padded_sound(torch.from_numpy(np.ascontiguousarray(sound))[None])))

    def outputs(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """See the base class."""
        tags: cnn14.TagsAndFeatures = self._network(inputs)
        return {"features": tags.features, "logits": tags.logits}


FRONT_ENDS: Mapping[int, FrontEnd] = {16000: AT_16_KHZ, 32000: AT_32_KHZ}
"""Front ends of Cnn14 by sample rate."""
