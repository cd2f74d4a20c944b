"""The card of exported pairs (``README.md``): YAML for the hub, then what the pairs are, their columns, origin and terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc
import yaml

from avpref.datasets.foreign_pairs.pair_layout import METADATA_FILE, SHARD_FOLDER, SPLIT
from avpref.exchange.markdown_table import markdown_table
from avpref.exchange.pair_rows import PairRows

SIZE_CLASSES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
"""Size categories of the hub: upper bound and name."""
COLUMNS = {
    "hf": (
        ("pair_id, prompt_id, prompt, taxonomy", "ids of pair and prompt, the text, its category if there is one"),
        ("chosen, rejected", "the two clips: mp4 with H.264 picture and AAC sound"),
        ("label", "1: the clip in `chosen` is preferred"),
        ("dimension", "what the pair speaks for: `all`, or one dimension"),
        ("rank", "1 for the pair of a prompt with the largest margin"),
        ("margins", "reward of chosen − reward of rejected, per dimension, and the margin that selected the pair"),
        ("chosen_scores, rejected_scores", "raw scores, per metric; see below for units and directions"),
        ("chosen_clip, rejected_clip", "candidate id, origin, SHA-256, size, rates, length, seed, network and sampler"),
        ("strategy, norm_id, run_id, product_version", "how and where the pair was selected"),
    ),
    "diffusion-dpo": (
        ("caption", "the text"),
        ("mp4_0, mp4_1", "the two clips, bytes of an mp4; a hash of the pair's id decides which comes first"),
        ("label_0, label_1", "1.0 for the preferred clip, 0.0 for the other"),
        ("pair_id, clip_0_uid, clip_1_uid", "ids of the pair and of its clips"),
        ("dimension", "what the pair speaks for: `all`, or one dimension"),
    ),
    "csv": (
        ("chosen, rejected", "files of the two clips, relative to pairs.csv; chosen is preferred"),
        ("text", "the prompt"),
        ("pair_id, dimension, taxonomy", "id, what the pair speaks for, category of the prompt"),
    ),
}


def dataset_card(manifest: Mapping[str, Any], rows: PairRows) -> str:
    """The card of an export with this manifest."""
    front = yaml.safe_dump(_front_matter(manifest), sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n" + "\n\n".join(_sections(manifest, rows)) + "\n"


def _front_matter(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata for the hub, and the files that ``datasets`` reads."""
    is_listed = manifest["files"][0]["name"] == METADATA_FILE
    pattern = f"{SPLIT}/**" if is_listed else f"{SHARD_FOLDER}/{SPLIT}-*.parquet"
    size = next((name for bound, name in SIZE_CLASSES if manifest["num_pairs"] < bound), "n>1M")
    front: dict[str, Any] = {
        "pretty_name": f"Audio-video preference pairs of {manifest['run_id']}",
        "license": "other",
        "task_categories": ["text-to-video"],
        "tags": ["preference", "dpo", "audio", "video", "avpref"],
        "size_categories": [size],
    }
    if manifest["export"] != "csv":
        front["configs"] = [{"config_name": "default", "data_files": [{"split": SPLIT, "path": pattern}]}]
    return front


def _sections(manifest: Mapping[str, Any], rows: PairRows) -> list[str]:
    clip = manifest["clip"]
    shape = (
        f"{clip['num_frames']} frames of {clip['width_px']} x {clip['height_px']} px at {clip['fps_hz']:g} Hz, "
        f"sound at {clip['sample_rate_hz']} Hz"
    )
    intro = (
        f"{manifest['num_pairs']} preference pairs of {manifest['num_prompts']} prompts for text-to-audio-video generators. "
        f"Of each pair, the chosen clip is preferred to the rejected one. Clips: {shape}."
    )
    columns = markdown_table(("column", "meaning"), COLUMNS[manifest["export"]])
    metrics = markdown_table(
        ("metric", "unit", "better", "dimension", "scorer"),
        [
            (
                row["name"],
                row["unit"],
                "higher" if row["higher_is_better"] else "lower",
                row["dimension"],
                row["scorer"],
            )
            for row in manifest["metrics"]
        ],
    )
    return [
        f"# Audio-video preference pairs of `{manifest['run_id']}`",
        intro,
        f"## Load\n\n{_loading(manifest)}",
        f"## Columns\n\n{columns}",
        f"## How the pairs were made\n\n{_making(manifest)}\n\n{_origins(rows)}",
        f"## Metrics\n\n{metrics}",
        f"## Terms\n\n{_terms(manifest)}",
    ]


def _loading(manifest: Mapping[str, Any]) -> str:
    if manifest["export"] == "csv":
        return "```sh\navpref pairs import pairs.csv --config FILE\n```"
    name = "mp4_0" if manifest["export"] == "diffusion-dpo" else "chosen"
    decode = ""
    if manifest["files"][0]["name"] == METADATA_FILE:
        decode = (
            'for side in ("chosen", "rejected"):\n    pairs = pairs.cast_column(side, datasets.Video(decode=False))\n'
        )
    value = "[0]" if manifest["export"] == "diffusion-dpo" else '[0]["bytes"]'
    if decode:
        value = '[0]["path"]'
    return (
        f'```python\nimport datasets\n\npairs = datasets.load_dataset("FOLDER_OR_REPOSITORY", split="{SPLIT}")\n{decode}'
        f'clip = pairs["{name}"]{value}  # an mp4 with picture and sound\n```'
    )


def _making(manifest: Mapping[str, Any]) -> str:
    rows = [
        ("run", f"`{manifest['run_id']}`"),
        ("strategy", f"`{manifest['strategy']}`"),
        ("norm of the scores", f"`{manifest['norm_id']}`" if manifest["norm_id"] else "none"),
        ("hash of the pairs", f"`{manifest['pairs_hash']}`"),
        ("hash of the settings", f"`{manifest['settings_hash']}`"),
        ("made with", f"avpref {manifest['product_version']}"),
    ]
    return markdown_table(("fact", "value"), rows)


def _origins(rows: PairRows) -> str:
    """Counts of chosen and rejected clips by origin."""
    counts = []
    for side in ("chosen", "rejected"):
        origins = rows.table[f"{side}_clip"].combine_chunks().field("origin")
        counts += [(side, row["values"], str(row["counts"])) for row in pc.value_counts(origins).to_pylist()]
    return markdown_table(("side", "origin of the clip", "pairs"), sorted(counts))


def _terms(manifest: Mapping[str, Any]) -> str:
    lines = [
        (
            row["scorer"],
            row["licence"],
            "yes" if row["commercial_use"] else "no",
            "yes" if row["is_meaningful"] else "no: random weights",
        )
        for row in manifest["scorers"]
    ]
    table = markdown_table(("scorer", "licence of its weights", "commercial use", "meaningful numbers"), lines)
    return (
        "The preferences come from the numbers of these scorers, whose terms apply to what is made of them:\n\n"
        f"{table}\n\n{_base_terms(manifest)}"
        "Texts and clips keep the terms of their sources: those of the prompts, of recordings that serve as ground truth, and of the "
        "network that generated the clips. Whoever publishes this data set states its licence in place of `other`."
    )


def _base_terms(manifest: Mapping[str, Any]) -> str:
    """The terms of the network that generated the clips, where the pairs state them."""
    terms = manifest.get("base_terms")
    if terms is None:
        return ""
    use = "commercial use is allowed" if terms["commercial_use"] else "no commercial use"
    return f"Generated clips come from base model `{terms['base_model']}`: {terms['licence']}; {use}.\n\n"
