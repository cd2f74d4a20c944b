"""The previews of a training for the report: the first and the last of every prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from avpref.reports.report_data import PreviewPair
from avpref.trainer.monitoring.previews import preview_steps


def collect_previews(output: Path, prompt_ids: Sequence[str]) -> Iterator[PreviewPair]:
    """Previews of the training in ``output``, in the order of ``prompt_ids``; none where it made none."""
    steps = preview_steps(output)
    if not steps:
        return
    (first, first_folder), (last, last_folder) = steps[0], steps[-1]
    for prompt_id in prompt_ids:
        paths = [folder / f"{prompt_id}.mp4" for folder in (first_folder, last_folder)]
        if all(path.exists() for path in paths):
            yield PreviewPair(prompt_id, first, last, *(path.read_bytes() for path in paths))
