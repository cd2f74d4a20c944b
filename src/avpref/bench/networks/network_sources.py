"""Networks before they are loaded: name, settings and a fingerprint of everything that features depend on, except the clip."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avpref.bench.preset_files import Scalar
from avpref.domain import Terms
from avpref.errors import ConfigError
from avpref.identity import digest
from avpref.rewards.weights import benchmark_models, catalogue

if TYPE_CHECKING:
    from avpref.bench.networks.feature_networks import FeatureNetwork

VERSION = 1
MEANINGLESS = Terms("random weights", commercial_use=True, is_meaningful=False)
MODELS: Mapping[str, catalogue.Model] = {
    "i3d": benchmark_models.I3D,
    "audioclip": benchmark_models.AUDIOCLIP,
    "panns": benchmark_models.PANNS,
    "panns_32k": benchmark_models.PANNS_32K,
    "vggish": benchmark_models.VGGISH,
    "passt": benchmark_models.PASST,
}
"""Networks of distances and class probabilities, and their entries in the catalogue of weights."""


@dataclass(frozen=True)
class NetworkSource:
    """A network of :data:`MODELS` with the settings of its front end. Picklable: actors receive it and load the network.

    ``is_tiny``: a small network of random weights, for tests and dry runs.
    """

    name: str
    settings: tuple[tuple[str, Scalar], ...]
    is_tiny: bool = False

    @property
    def terms(self) -> Terms:
        """Licence of the weights, and whether features are meaningful."""
        return MEANINGLESS if self.is_tiny else MODELS[self.name].terms

    @property
    def weights_id(self) -> str:
        """Identity of the bytes of the weights. Raises InputError where they are absent."""
        if self.is_tiny:
            return "tiny"
        return catalogue.weights_id(catalogue.resolve(MODELS[self.name]))

    @property
    def fingerprint(self) -> str:
        """Hash of version, weights and settings: equal fingerprints give equal features of equal clips. Raises InputError."""
        return digest("feature network", VERSION, self.name, self.weights_id, dict(self.settings))

    def open(self, device: str) -> FeatureNetwork:
        """Load the network on ``device``. Raises InputError where weights are absent or do not fit, ConfigError for a wrong setting."""
        from avpref.rewards.weights.published_networks import published_network, tiny_network

        network = tiny_network(self.name) if self.is_tiny else published_network(self.name)
        return _with_front_end(self.name, network, device, dict(self.settings))


def _with_front_end(name: str, network: Any, device: str, values: Mapping[str, Any]) -> FeatureNetwork:
    from avpref.bench.networks import feature_networks as kinds

    match name:
        case "i3d":
            return kinds.I3dNetwork(network, device, values["frames"], values["range"])
        case "audioclip":
            return kinds.AudioClipNetwork(network, device, values["cut_s"], values["amplitude"] == "int16")
        case "panns" | "panns_32k":
            rate_hz = 16000 if name == "panns" else 32000
            return kinds.Cnn14Network(network, device, values["cut_s"], kinds.FRONT_ENDS[rate_hz])
        case "vggish":
            return kinds.VggishNetwork(network, device, values["cut_s"])
        case "passt":
            return kinds.PasstNetwork(network, device, values["cut_s"])
    raise ConfigError(f"no network {name}", ", ".join(MODELS), "correct the preset")
