"""One execution of a run: its folder and settings, and everything that stages derive from them, each derived once.

A :class:`Run` is opened once per command and passed from stage to stage. Derived facts are computed when they are first
asked for and kept: read ``prompts`` only after stage ``prompts``, ``norm`` and ``pairs_hash`` after stage ``pair``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from avpref.config.training_settings import SftSettings, SftWeights
from avpref.datasets import tables
from avpref.datasets.selection.normalise import Norm
from avpref.domain import Prompt, Split
from avpref.errors import ConfigError, InputError
from avpref.flows.placement import placed_loop
from avpref.flows.workers.generator import NetworkFiles, base_of, codec_identity, text_identity
from avpref.flows.workers.prompt_sources import SftItem, clip_shape, open_prompt_source
from avpref.identity import digest, file_sha256
from avpref.media.geometry import ClipShape
from avpref.models.bases.base_model import Base
from avpref.models.checkpoints.checkpoint_files import checkpoint_hash
from avpref.storage.documents import RUN_FILE
from avpref.storage.file_hashes import sha256_of
from avpref.storage.run_folder import RunFolder, open_root
from avpref.storage.table_readers import pairs_hash, read_norm, read_prompts
from avpref.trainer.adapter_files import WEIGHTS_FILE
from avpref.trainer.job import TrainingJob
from avpref.trainer.launch import read_summary
from avpref.trainer.metrics import TrainingSummary
from avpref.trainer.run_job import ADAPTER_FOLDER, NETWORK_FILE, SUMMARY_FILE

NETWORKS = "networks"
"""Folder beside the runs of networks that were made from given weights."""
WEIGHTS_UNDER_FILE = "under_adapter.safetensors"
"""Given weights without the adapter that is folded into the network beside them."""
PAIR_DATA_FILE = "pairs.json"


@dataclass(frozen=True)
class Run(RunFolder):
    """A run that is being executed. Build with :meth:`of`."""

    @classmethod
    def of(cls, folder: RunFolder) -> Run:
        """The run in ``folder``, with nothing derived yet."""
        return cls(folder.root, folder.settings)

    @cached_property
    def prompts(self) -> list[Prompt]:
        """The sealed prompts of both splits, in order. Raises InputError before stage ``prompts`` has run."""
        return read_prompts(self.tables)

    def prompts_of(self, split: Split) -> list[Prompt]:
        """The prompts of one split. Raises as :attr:`prompts`."""
        return [prompt for prompt in self.prompts if prompt.split == split]

    @cached_property
    def _shapes(self) -> dict[str, ClipShape]:
        """Prompt → shape of its clips, where the run has several shapes. Raises as :attr:`prompts`."""
        clip, rows = self.settings.clip, self.tables.read(tables.PROMPT_SHAPES).to_pylist()
        sizes = {row["prompt_id"]: (row["num_frames"], row["height_px"], row["width_px"]) for row in rows}
        return {prompt: ClipShape(*size, clip.fps_hz, clip.sample_rate_hz) for prompt, size in sizes.items()}

    def shape_of(self, prompt_id: str) -> ClipShape:
        """The shape of the clips of a prompt. Raises as :attr:`prompts`."""
        return self._shapes[prompt_id] if self.settings.clip.shapes else clip_shape(self.settings)

    @cached_property
    def sft_items(self) -> list[SftItem]:
        """The clips that the SFT network is trained on. Raises as :attr:`prompts`."""
        return open_prompt_source(self.settings).sft_items(self.prompts)

    @cached_property
    def sft_output(self) -> Path:
        """Folder of the SFT network: in the run where it is trained, beside the runs where it is made of given weights."""
        match self.settings.sft:
            case SftWeights() as weights:
                return self.runs / NETWORKS / _weights_hash(weights, base_of(self.settings))
            case SftSettings():
                return self.model_folder("sft", self._sft_fingerprint())

    @cached_property
    def sft(self) -> NetworkFiles:
        """The SFT network's file and content hash. Raises InputError before stage ``sft`` has run."""
        path = self.sft_output / NETWORK_FILE
        return NetworkFiles(path, trained_hash(self, path))

    @property
    def sft_adapter(self) -> Path | None:
        """Folder of SFT's adapter, trained or given, which the policy continues; None where layout ``merged`` folds it in."""
        return self.sft_output / ADAPTER_FOLDER if self.settings.dpo.adapter.layout == "two_adapters" else None

    @property
    def weights_under(self) -> Path | None:
        """File of the given weights under SFT's adapter; None where SFT trained the adapter, and for layout ``merged``."""
        is_given = self.settings.continues_given_adapter
        return self.sft_output / WEIGHTS_UNDER_FILE if is_given else None

    @cached_property
    def previous(self) -> Run | None:
        """The run of the round before; None in the first round. Raises InputError where it is gone."""
        name = self.settings.rounds.previous
        if not name:
            return None
        if not (self.runs / name / RUN_FILE).exists():
            found = f"round {self.settings.rounds.round} builds on run {name}, which is not in {self.runs}"
            raise InputError(found, "the runs of the earlier rounds", f"restore {name}, or run all rounds again")
        return Run.of(open_root(self.runs / name))

    @cached_property
    def start(self) -> NetworkFiles:
        """The network that a round begins with: the policy of the round before, its adapter in this run; in the first round SFT's.

        Raises InputError where the round before has no adapter.
        """
        if self.previous is None:
            return self.sft
        policy = self.previous.policy
        folder = self.root / "models" / f"start-{policy.hash[:16]}" / ADAPTER_FOLDER
        return replace(policy, checkpoint=self.sft.checkpoint, adapter=folder)

    @cached_property
    def networks(self) -> dict[str, NetworkFiles]:
        """The networks that candidates of this and earlier rounds may come from, by hash."""
        earlier = {} if self.previous is None else self.previous.networks
        return {**earlier, self.sft.hash: self.sft, self.start.hash: self.start}

    @cached_property
    def scorers(self) -> list[dict[str, Any]]:
        """The scorers in the score table, sorted by name: scorer, fingerprint, licence, commercial_use, is_meaningful.

        Raises InputError before stage ``score`` has run.
        """
        columns = ["scorer", "fingerprint", "licence", "commercial_use", "is_meaningful"]
        distinct = self.tables.read(tables.SCORES).group_by(columns).aggregate([])
        return distinct.sort_by([("scorer", "ascending"), ("fingerprint", "ascending")]).to_pylist()

    @cached_property
    def norm(self) -> Norm:
        """The norm that the pairs were selected with. Raises InputError before stage ``pair`` has run."""
        return read_norm(self.tables)

    @cached_property
    def pairs_hash(self) -> str:
        """Content hash of the pair table. Raises InputError before stage ``pair`` has run."""
        return pairs_hash(self.tables)

    @cached_property
    def training_job(self) -> TrainingJob:
        """The AV-DPO job; its output folder is named by everything that it depends on."""
        settings, executor = self.settings, self.settings.executor
        loop = placed_loop(executor, settings.dpo.loop)
        routing = settings.scoring.modalities
        depends_on: list[object] = [
            self.sft.hash,
            self.pairs_hash,
            settings.dpo.model_dump(mode="json"),
            settings.run.seed,
        ]
        version = base_of(settings).version
        depends_on += [*([routing] if routing else []), *([version] if version else [])]
        is_later = self.previous is not None
        depends_on += [["start", self.start.adapter_hash, settings.rounds.reference]] if is_later else []
        sft_adapter = self.sft_adapter
        depends_on += [] if sft_adapter is None else [["sft", trained_hash(self, sft_adapter / WEIGHTS_FILE)]]
        weights_under = self.weights_under
        depends_on += [] if weights_under is None else [["under", trained_hash(self, weights_under)]]
        output = self.model_folder("dpo", self.fingerprint("dpo", *depends_on))
        return TrainingJob(
            settings=settings.dpo.model_copy(update={"loop": loop}),
            base=settings.base,
            base_version=version,
            network=settings.network,
            clip=settings.clip,
            data=output / PAIR_DATA_FILE,
            output=output,
            seed=settings.run.seed,
            weights=self.sft.checkpoint,
            sft_adapter=sft_adapter,
            sft_is_folded=sft_adapter is not None,
            weights_under=weights_under,
            device=loop.device,
            dtype=settings.dpo.base_dtype,
            start_adapter=self.start.adapter,
            reference="start" if is_later and settings.rounds.reference == "previous" else "base",
        )

    @cached_property
    def policy(self) -> NetworkFiles:
        """The SFT network with the trained adapter. Raises InputError before stage ``train`` has run."""
        adapter = self.training_job.output / ADAPTER_FOLDER
        adapter_hash = trained_hash(self, adapter / WEIGHTS_FILE)
        policy_hash = digest("policy", self.sft.hash, adapter_hash, size=64)
        return NetworkFiles(self.sft.checkpoint, policy_hash, adapter, adapter_hash)

    @cached_property
    def training_summary(self) -> TrainingSummary:
        """The numbers that the AV-DPO training wrote at its end. Raises InputError before stage ``train`` has run."""
        trained_hash(self, self.training_job.output / SUMMARY_FILE)
        return read_summary(self.training_job)

    def _sft_fingerprint(self) -> str:
        """Hash of everything that SFT training depends on: of the prompts the SFT set alone."""
        settings = self.settings
        parts: dict[str, object] = {name: getattr(settings, name).model_dump(mode="json") for name in ("clip", "sft")}
        parts["network"] = dict(base_of(settings).identity)
        parts["set"] = digest("sft set", settings.prompts.kind, [item.item_id for item in self.sft_items])
        parts["codec"], parts["text"] = codec_identity(settings), text_identity(settings)
        parts["negative"] = settings.sampling.negative_prompt
        if isinstance(settings.sft, SftSettings) and (settings.sft.network or settings.sft.audio_clips):
            parts["start"] = start_hash(settings.sft, base_of(settings))
            parts["sound"] = file_sha256(settings.sft.audio_clips) if settings.sft.audio_clips else ""
        return self.fingerprint("sft", parts, settings.run.seed)


def trained_hash(folder: RunFolder, path: Path) -> str:
    """Content hash of a trained file. Raises InputError where it does not exist yet."""
    if not folder.models.bring(path):
        fix = f"avpref runs resume {folder.run_id} --runs {folder.runs}"
        raise InputError(
            f"{path.name} has not been trained yet in run {folder.run_id}", "a finished training stage", fix
        )
    return sha256_of(path)


def start_hash(sft: SftSettings, base: Base) -> str:
    """Hash of the network that SFT starts from; empty for random values. Raises InputError where it is absent."""
    return base.given_hash(sft.network) if sft.network else ""


def _weights_hash(weights: SftWeights, base: Base) -> str:
    if not weights.network:
        raise ConfigError(
            "sft.network is empty",
            "a file or folder of a trained network",
            "--set sft.network=checkpoints/JavisDiT-v1.0",
        )
    lora = checkpoint_hash(Path(weights.lora)) if weights.lora else ""
    return digest("network", base.given_hash(weights.network), lora, weights.dtype, dict(base.identity))
