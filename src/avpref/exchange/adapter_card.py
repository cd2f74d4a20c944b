"""The card of an exported adapter (``README.md``): YAML for the hub, base, data, training, gate, clips, terms and how to load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from avpref.config.training_settings import SftWeights
from avpref.domain import Terms
from avpref.exchange.adapter_source import AdapterSource
from avpref.exchange.evaluation_clips import ClipPair
from avpref.exchange.load_snippets import SNIPPETS
from avpref.exchange.markdown_table import markdown_table
from avpref.models.checkpoints.lora_files import Lora
from avpref.storage.documents import RESULT_FILE

S_PER_H = 3600.0


@dataclass(frozen=True)
class AdapterCard:
    """The parts of a card: the adapter, the terms of its base, the exported factors (None for another base model than the built-in
    one, and for a whole network) and their layout, the base on a hub (may be empty), clips, and whether a whole network is exported."""

    source: AdapterSource
    base_terms: Terms
    lora: Lora | None
    layout: str
    base_model: str
    revision: str
    clips: Sequence[ClipPair]
    merged: bool = False


def adapter_card(card: AdapterCard) -> str:
    """The text of the card."""
    front = yaml.safe_dump(_front_matter(card), sort_keys=False, allow_unicode=True)
    noun = "A LoRA adapter for a joint audio-video generator, trained"
    if card.merged:
        noun = "A joint audio-video generator with a LoRA adapter folded into its weights, which was trained"
    sections = [
        f"# {'Network' if card.merged else 'Adapter'} of `{card.source.run_id}`",
        f"{noun} with AV-DPO (direct preference optimisation with a loss per "
        "modality) on preference pairs that were selected by reward models.",
        f"## Base and adapter\n\n{_base(card)}",
        f"## Training\n\n{_training(card.source)}",
        f"## Evaluation\n\n{_evaluation(card.source)}",
        f"## Clips before and after\n\n{_clips(card)}",
        f"## Load\n\n{_load(card)}",
        f"## Terms\n\n{_terms(card)}",
    ]
    return f"---\n{front}---\n" + "\n\n".join(sections) + "\n"


def _front_matter(card: AdapterCard) -> dict[str, Any]:
    relation = "finetune" if card.merged else "adapter"
    named = {"base_model": card.base_model, "base_model_relation": relation} if card.base_model else {}
    return {
        **named,
        "library_name": card.layout,
        "license": "other",
        "pipeline_tag": "text-to-video",
        "tags": [*([] if card.merged else ["lora"]), "dpo", "audio", "video", "avpref"],
    }


def _base(card: AdapterCard) -> str:
    source = card.source
    record, sft = source.record, source.run.settings.sft
    trained = sft.network if isinstance(sft, SftWeights) else f"trained by run {source.run_id}"
    config = source.lora_config
    sizes = [("rank, alpha", f"{config.get('r')}, {config.get('lora_alpha'):g}")] if config else []
    if card.lora is not None:
        num_values = sum(pair.down.numel() + pair.up.numel() for pair in card.lora.factors.values())
        sizes.append(("layers, values", f"{len(card.lora.factors)}, {num_values}"))
    return markdown_table(
        ("fact", "value"),
        [
            ("base model", f"`{card.base_model}`" if card.base_model else f"`{trained}`"),
            ("revision", f"`{card.revision}`" if card.revision else "not stated"),
            ("SHA-256 of the base network", f"`{record.reference_hash}`"),
            ("SHA-256 of the trained adapter", f"`{record.adapter_hash}`"),
            ("hash of base and adapter", f"`{record.policy_hash}`"),
            ("layout of this export", card.layout),
            *sizes,
        ],
    )


def _training(source: AdapterSource) -> str:
    lineage, settings = source.record.lineage, source.run.settings
    dpo = settings.dpo
    result = source.run.documents.read(RESULT_FILE) or {}
    pairs = result.get("pairs", {})
    spent = result.get("spent", {})
    gpu_h = _of_stages(spent, "gpu_s") / S_PER_H if spent else None
    worker_h = _of_stages(spent, "busy_s") / S_PER_H if spent else None
    return markdown_table(
        ("fact", "value"),
        [
            ("run, seed", f"`{source.run_id}`, {lineage.get('seed')}"),
            ("hash of the pairs", f"`{lineage.get('pairs_hash')}`"),
            ("pairs", _number(pairs.get("kept"))),
            ("strategy", f"`{pairs.get('strategy', settings.pairs.strategy)}`"),
            ("norm of the scores", f"`{lineage.get('norm_id')}`"),
            ("beta of video, of audio", f"{dpo.loss.beta_video:g}, {dpo.loss.beta_audio:g}"),
            ("loss", f"{dpo.loss.form}, {dpo.loss.variant}; flow weight {dpo.loss.flow_weight:g}"),
            ("steps, batch, learning rate", f"{dpo.loop.steps}, {dpo.loop.batch_size}, {dpo.optimiser.lr:g}"),
            ("GPU-hours of the whole run", _number(gpu_h)),
            ("worker-hours of the whole run", _number(worker_h)),
            ("hash of the settings", f"`{lineage.get('settings_hash')}`"),
            ("made with", f"avpref {lineage.get('product_version')}"),
        ],
    )


def _of_stages(spent: Mapping[str, Any], name: str) -> float:
    """Seconds of all stages of the run, over all executions."""
    return float(sum(stage.get(name) or 0.0 for stage in spent.get("stages", ())))


def _evaluation(source: AdapterSource) -> str:
    record = source.record
    compared = [
        (
            name,
            f"{row['delta_sd']:+.3f}",
            f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}",
            f"{row['win_rate']:.1%}",
            str(row["num_pairs"]),
        )
        for name, row in record.evaluation.items()
    ]
    confidence = _joined(sorted({f"{1 - 2 * row.get('level', 0.025):.0%}" for row in record.evaluation.values()}))
    dimensions = markdown_table(
        ("dimension", "change (SD of the base)", f"interval ({confidence})", "prompts won", "prompts"), compared
    )
    rules = markdown_table(
        ("rule", "dimension", "value", "bound", "passed"),
        [
            (
                rule["rule"],
                rule["dimension"],
                _number(rule["value"]),
                _number(rule["bound"]),
                "yes" if rule["passed"] else "no",
            )
            for rule in record.rules
        ],
    )
    promoted = ", ".join(source.serves_as)
    verdict = f"The gate's verdict: **{record.verdict}**" + (f"; serves as {promoted}." if promoted else ".")
    reasons = "".join(f"\n* {reason}" for reason in record.reasons)
    return (
        "Base and adapter on the same held-out prompts and noise, judged by the reward models of the run.\n\n"
        f"{dimensions}\n\n{verdict}{reasons}\n\n{rules}"
    )


def _clips(card: AdapterCard) -> str:
    if not card.clips:
        return "None are enclosed."
    rows = [
        (clip.text, f"[before]({clip.before})", f"[after]({clip.after})", f"{clip.gain:+.3f}") for clip in card.clips
    ]
    table = markdown_table(("prompt", "base", "with the adapter", "sum of the changes of its rewards"), rows)
    return f"Held-out prompts of the largest and the smallest gain and evenly between them, with sound.\n\n{table}"


def _load(card: AdapterCard) -> str:
    model = card.source.run.settings.base.model
    if card.merged:
        return f"The files are the whole network of base model `{model}` in the layout `{card.layout}`, the adapter folded in."
    if card.lora is None:
        return f"The files are in the layout `{card.layout}` of base model `{model}`."
    base = card.base_model if card.layout == "diffusers" and card.base_model else "BASE"
    snippet = SNIPPETS[card.layout].replace("BASE", base)
    note = {
        "peft": "`BASE` is the file or folder of the base network, `FOLDER` this folder.",
        "diffusers": "`BASE` is a folder or repository of the base network for diffusers, `FOLDER` this folder. "
        "`audio_lora_weights.safetensors` holds the audio branch, for which diffusers has no class.",
        "comfyui": "In ComfyUI: copy `avpref_lora.safetensors` into `models/loras` and add the node Load LoRA. In Python:",
    }[card.layout]
    return f"{note}\n\n```python\n{snippet}```"


def _terms(card: AdapterCard) -> str:
    source, terms = card.source, card.base_terms
    rows = [
        (
            row["scorer"],
            row["licence"],
            "yes" if row["commercial_use"] else "no",
            "yes" if row["is_meaningful"] else "no: random weights",
        )
        for row in source.record.lineage.get("scorers", ())
    ]
    table = markdown_table(("scorer", "licence of its weights", "commercial use", "meaningful numbers"), rows)
    use = "commercial use is allowed" if terms.commercial_use else "no commercial use"
    return (
        f"Base model: {terms.licence}; {use}.\n\n"
        f"The pairs were selected with these scorers, whose terms apply to what is made of their numbers:\n\n{table}\n\n"
        "The terms of the training prompts apply as well. Whoever publishes this adapter states its licence "
        "in place of `other`."
    )


def _joined(values: Sequence[object]) -> str:
    return " or ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _number(value: Any) -> str:
    if value is None:
        return "not recorded"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
