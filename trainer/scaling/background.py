"""Checkpoints that are written while the training goes on.

A checkpoint's tensors are copied to the CPU between two steps; a thread writes the copies. One is written at a time.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from torch import Tensor

from avpref.trainer.checkpoint import CheckpointFolder, TrainingState
from avpref.trainer.scaling.sharding import gather


class BackgroundCheckpoints:
    """Saves into ``folder`` from a thread. Leaving the block waits for the last one. Only the ``is_writer`` rank writes."""

    def __init__(self, folder: CheckpointFolder, *, is_writer: bool) -> None:
        self._folder, self._is_writer = folder, is_writer
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._thread.join()
        if value is None:
            self.check()

    def save(self, step: int, state: TrainingState) -> None:
        """Copy ``state`` and start to write it as the checkpoint of ``step``. All ranks must call this.

        Waits for the checkpoint before. Raises the StorageError of an earlier one that failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()
        tensors = gather(state.tensors(), self._is_writer)
        if self._is_writer:
            self._thread = threading.Thread(target=self._write, args=(step, tensors), name=f"checkpoint {step}")
            self._thread.start()

    def check(self) -> None:
        """Raises the error of a checkpoint that failed."""
        if self._error is not None and (self._thread is None or not self._thread.is_alive()):
            raise self._error

    def _write(self, step: int, tensors: dict[str, Tensor]) -> None:
        try:
            self._folder.write(step, tensors)
        except BaseException as error:
            self._error = error
