"""Values that a config works out: ``${name:argument}``."""

from __future__ import annotations

import json
from pathlib import Path

from mosear.torchrun import log_name, started

FEATURES = "features.json"


def feature_labels(root: str) -> list[str]:
    """Label names of imported features, or those of their label sets; ``${feature_labels:DIR}`` in a config.

    Raises:
        ValueError: if the directory holds none, or the import knew no names.
    """
    path = Path(root) / FEATURES
    if not path.is_file():
        raise ValueError(f"features.root={root}: there is no {FEATURES} (`mosear features import` writes it)")
    content = json.loads(path.read_text(encoding="utf-8"))
    names = list(content.get("labels") or content.get("label_sets") or [])
    if not names:
        raise ValueError(
            f"{path} has no label names: set data.prompt.labels (and task.levels for task=score and task=series)"
        )
    return [str(name) for name in names]


def register_resolvers() -> None:
    """Make ``${started:FORMAT}``, ``${run_log:}`` and ``${feature_labels:DIR}`` known to OmegaConf; the first two are
    one value per process."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("started", started, replace=True)
    OmegaConf.register_new_resolver("run_log", log_name, replace=True)
    OmegaConf.register_new_resolver("feature_labels", feature_labels, replace=True)
