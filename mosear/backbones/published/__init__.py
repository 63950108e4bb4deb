"""Sizes of the published checkpoints, so that a run can be planned before its weights are there.

The JSON files hold what decides about shapes and positions in ``config.json``, thinker part, as published. They are
never used to load weights: a checkpoint's own ``config.json`` always wins, and it is read first wherever it lies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SIZES = {
    "Qwen/Qwen2.5-Omni-3B": "Qwen2.5-Omni-3B",
    "Qwen/Qwen2.5-Omni-7B": "Qwen2.5-Omni-7B",
    "Qwen/Qwen3-Omni-30B-A3B-Instruct": "Qwen3-Omni-30B-A3B",
    "Qwen/Qwen3-Omni-30B-A3B-Thinking": "Qwen3-Omni-30B-A3B",
    "Qwen/Qwen3-Omni-30B-A3B-Captioner": "Qwen3-Omni-30B-A3B",
}
"""File here by hub id."""


def published_sizes(name: str) -> dict[str, Any] | None:
    """The thinker's config of a published checkpoint, ``None`` for other names."""
    if name not in SIZES:
        return None
    found: dict[str, Any] = json.loads((Path(__file__).parent / f"{SIZES[name]}.json").read_text(encoding="utf-8"))
    return found


def known_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """Thinker config of a backbone without any download: its own ``config.json``, or the published sizes.

    Args:
        name: an embedded backbone, a checkpoint directory or a hub id (in the hub's cache, or published).
        revision: branch, tag or commit on the hub.

    Raises:
        ValueError: if nothing on this machine says how large the backbone is.
    """
    from transformers import PreTrainedConfig

    from mosear.backbones.loading import source_of

    source = source_of(name)
    try:
        config, _ = PreTrainedConfig.get_config_dict(source, revision=revision, local_files_only=True)
    except OSError as error:
        found = published_sizes(name)
        if found is None:
            raise ValueError(
                f"Nothing on this machine says how large {name!r} is. Give a checkpoint directory, download its "
                f"config.json (hf download {name} config.json), or name one of: {', '.join(SIZES)}."
            ) from error
        return found
    thinker: dict[str, Any] = config.get("thinker_config", config)
    return thinker
