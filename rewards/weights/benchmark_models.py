"""The networks of ``avpref bench`` in the catalogue of weights; see :mod:`avpref.rewards.weights.catalogue` about sizes and hashes."""

from __future__ import annotations

from avpref.domain import CHANNEL_MEAN, NO_SOUND, Terms
from avpref.rewards.weights.weight_entries import HubFile, Model, WebFile, WeightFile

I3D = Model(
    "i3d",
    (
        WeightFile(
            "i3d_pretrained_400.pt",
            WebFile(
                "https://huggingface.co/spaces/LanguageBind/Open-Sora-Plan-v1.0.0/resolve/"
                "810fa8c4bdb3a4c8eec9bd57375c29bde6fb46de/opensora/eval/fvd/videogpt/i3d_pretrained_400.pt"
            ),
            50_900_000,
        ),
    ),
    Terms("unknown: the file carries no licence; research only", commercial_use=False, sound=NO_SOUND),
    "I3D of Kinetics-400: FVD and KVD; size and hash are not published, so fetching records what comes",
)

AUDIOCLIP = Model(
    "audioclip",
    (
        WeightFile(
            "AudioCLIP-Full-Training.pt",
            WebFile("https://github.com/AndreyGuzhov/AudioCLIP/releases/download/v0.1/AudioCLIP-Full-Training.pt"),
            537_000_000,
        ),
    ),
    Terms("MIT", commercial_use=True, sound=CHANNEL_MEAN),
    "AudioCLIP: FAD of JavisBench, from its sound tower alone; size and hash are not published, so fetching records what comes",
)


def _panns(name: str, file: str, sha256: str) -> Model:
    url = f"https://zenodo.org/records/3987831/files/{file.replace('=', '%3D')}"
    return Model(
        name,
        (WeightFile(file, WebFile(url), 327_000_000, sha256),),
        Terms("CC-BY-4.0", commercial_use=True, sound=CHANNEL_MEAN),
        "PANNs Cnn14: FD-PANNs, inception score and KL; attribution required",
    )


PANNS = _panns("panns", "Cnn14_16k_mAP=0.438.pth", "e2ee543a27919542c2ea03eabaa70b24dcd4e6c8e05621de6b67a94e4c5058e6")
PANNS_32K = _panns(
    "panns_32k", "Cnn14_mAP=0.431.pth", "0dc499e40e9761ef5ea061ffc77697697f277f6a960894903df3ada000e34b31"
)

VGGISH = Model(
    "vggish",
    (
        WeightFile(
            "vggish-10086976.pth",
            WebFile("https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth"),
            288_600_000,
            "10086976245803799d9194e9a73d9b6c1549c71d1b80106f5cade5608a561f4b",
        ),
    ),
    Terms("Apache-2.0", commercial_use=True, sound=CHANNEL_MEAN),
    "VGGish: FD-VGG, the FAD of most tables",
)

PASST = Model(
    "passt",
    (
        WeightFile(
            "passt-s-f128-p16-s10-ap.476-swa.pt",
            WebFile(
                "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt"
            ),
            344_700_000,
            "302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c",
        ),
    ),
    Terms("Apache-2.0", commercial_use=True, sound=CHANNEL_MEAN),
    "PaSST: FD-PaSST, inception score and KL",
)

CLIP = Model(
    "clip",
    (
        WeightFile(
            "pytorch_model.bin",
            HubFile("openai/clip-vit-base-patch32", "pytorch_model.bin", "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"),
            605_000_000,
            "a63082132ba4f97a80bea76823f544493bffa8082296d62d71581a4feff1576f",
        ),
    ),
    Terms("MIT", commercial_use=True, sound=NO_SOUND),
    "CLIP ViT-B/32: CLIP score",
)

CAVP = Model(
    "cavp",
    (
        WeightFile(
            "cavp_epoch66.ckpt",
            HubFile(
                "SimianLuo/Diff-Foley",
                "diff_foley_ckpt/cavp_epoch66.ckpt",
                "b17ddbe76e6d42f4b4135eeb443b1c1644267e3e",
            ),
            454_000_000,
        ),
    ),
    Terms("MIT", commercial_use=True, sound=CHANNEL_MEAN),
    "CAVP of Diff-Foley: CAVP score; the size is that of the tensors in use, and the hash is not published",
)

BENCH_MODELS = (I3D, AUDIOCLIP, PANNS, PANNS_32K, VGGISH, PASST, CLIP, CAVP)
"""Networks of ``avpref bench``."""
