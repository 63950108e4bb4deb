"""The model card of an adapter: ``README.md`` in its directory, with the front matter that hubs read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
UNDECIDED = "undecided"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
TAGS = ("emotion-recognition", "multimodal", "peft", "mosear")

LOADING = """\
## How to load it

    import mosear                                       # PEFT then knows MoSE; a plain LoRA needs peft alone
    from mosear.backbones import load_backbone
    from peft import PeftModel

    backbone = load_backbone("{backbone}")
    model = PeftModel.from_pretrained(backbone.model, "THIS DIRECTORY").eval()

`mosear predict CLIP --adapter THIS DIRECTORY` needs the run's `config.yaml` in this directory or beside it.
`mosear.json` says which backbone the adapter belongs to.
"""
LIMITS = """\
## Limits

Emotion labels are opinions of annotators about people. Scores hold for clips like those they were measured on. The
licences of backbone and data apply as well. Check them and the law before you use this model on people.
"""


def model_card(
    adapter: Mapping[str, Any],
    backbone: str,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    licence: str | None = None,
) -> str:
    """The card's text.

    Args:
        adapter: its settings, as ``adapter_config.json`` holds them.
        backbone: its name.
        config: of the run; ``None`` before the run has ended.
        metrics: of the run's test; ``None`` before it.
        licence: an identifier of the hub, such as ``apache-2.0``; ``None`` = its owner has not chosen one.
    """
    name = shown_backbone(backbone)
    method = _plain(adapter.get("peft_type"))
    parts = [_front_matter(backbone, licence), f"# {method} adapter of {name}\n", _about(adapter, name, config)]
    if metrics is not None:
        parts.append(_scores(metrics))
    return "\n".join([*parts, LOADING.format(backbone=name), LIMITS])


def shown_backbone(name: str) -> str:
    """The name of a backbone as others may see it: of a local directory its last part."""
    return name if _HUB_ID.fullmatch(name) and not Path(name).exists() else Path(name).name


def _front_matter(backbone: str, licence: str | None) -> str:
    chosen = {"license": licence} if licence else {"license": "other", "license_name": UNDECIDED}
    base = {"base_model": shown_backbone(backbone), "base_model_relation": "adapter"}
    fields: dict[str, Any] = {"library_name": "peft", **base, **chosen, "tags": list(TAGS)}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False)}---\n"


def _about(adapter: Mapping[str, Any], backbone: str, config: Mapping[str, Any] | None) -> str:
    kind = [_plain(adapter.get("peft_type"))]
    if (rank := adapter.get("r")) is not None:
        kind.append(f"rank {rank}")
    if targets := adapter.get("target_modules"):
        listed = ", ".join(sorted(targets)) if isinstance(targets, list | set | tuple) else f"`{targets}`"
        kind.append("on " + listed.replace("|", "\\|"))  # a pattern may not end the cell
    lines = [
        "Weights that mosear trained beside a frozen omni-modal language model, which sees and hears a clip, reads its "
        "transcript, and says which emotion a person shows.\n",
        "| | |",
        "|---|---|",
        f"| base | {backbone} |",
        f"| adapter | {', '.join(kind)} |",
    ]
    if config is not None:
        method = str(_at(config, "method", "_target_")).rpartition(".")[2]
        rate, epochs = _at(config, "tuning", "learning_rate"), _at(config, "trainer", "max_epochs")
        corpus = "mosear's synthetic corpus" if _at(config, "data", "prepare") else "clips of a manifest"
        labels = _at(config, "data", "prompt", "labels") or []
        lines += [
            f"| recipe | {config.get('name')}, seed {config.get('seed')} |",
            f"| method | {method}, learning rate {rate}, at most {epochs} epochs |",
            f"| training data | {corpus} |",
            f"| labels | {', '.join(map(str, labels))} |",
        ]
    return "\n".join(lines) + "\n"


def _scores(metrics: Mapping[str, Any]) -> str:
    lines = [
        f"## Scores on {metrics.get('benchmark')}\n",
        "In brackets: 95 % bootstrap intervals over clips.\n",
        "| subset | clips | accuracy | macro F1 |",
        "|---|---:|---:|---:|",
    ]
    for name, scores in metrics["subsets"].items():
        low, high = (100 * value for value in scores["interval"])
        accuracy = f"{100 * scores['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
        lines.append(f"| {name.replace('_', ' ')} | {scores['n']} | {accuracy} | {100 * scores['macro_f1']:.1f} |")
    for name in ("conflict_mean", "gap"):
        if metrics.get(name) is not None:
            lines.append(f"| {name.replace('_', ' ')} | | {100 * metrics[name]:.1f} | |")
    return "\n".join(lines) + "\n"


def _at(config: Mapping[str, Any], *keys: str) -> Any:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _plain(method: Any) -> str:
    return str(getattr(method, "value", method))
