"""Workers of a run have the version of the base model's class that the command has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic

from avpref.config.base_settings import BaseSections
from avpref.config.schema import Settings
from avpref.execution.contract import Worker, WorkerSpec
from avpref.flows.workers.generator import base_of
from avpref.models.bases.base_opening import open_same_base
from avpref.storage.unit import ItemT


@dataclass(frozen=True)
class SameBaseSpec(Generic[ItemT]):
    """Builds the worker of ``spec`` where the base model of ``sections`` has ``version``.

    ``folder`` is the working directory of the command, where modules that are not installed are found.
    """

    spec: WorkerSpec[ItemT]
    sections: BaseSections
    version: str
    folder: str

    def build(self) -> Worker[ItemT]:
        """Compare the versions, then build. Raises ClusterError where they differ, and as ``spec``."""
        open_same_base(self.sections, self.version, Path(self.folder))
        return self.spec.build()


def on_same_base(spec: WorkerSpec[ItemT], settings: Settings) -> WorkerSpec[ItemT]:
    """``spec`` with a check of the base model. The built-in one needs none: the product's version covers it."""
    version = base_of(settings).version
    return SameBaseSpec(spec, settings.base_sections, version, str(Path.cwd())) if version else spec
