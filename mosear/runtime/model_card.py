"""The model card of a run's adapter, with what the run's files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mosear.evaluation.runs import ADAPTER, METRICS, RunFiles
from mosear.files import written_atomically
from mosear.methods.model_card import CARD, model_card


def card_of_run(run: Path, licence: str | None = None) -> str:
    """The card of a run, with its scores if it was tested.

    Args:
        run: its directory, with config and adapter.
        licence: see :func:`mosear.methods.model_card.model_card`.
    """
    files = RunFiles(run)
    adapter = json.loads((run / ADAPTER / "adapter_config.json").read_text(encoding="utf-8"))
    config: Any = OmegaConf.to_container(files.config)
    metrics = files.metrics if (run / METRICS).is_file() else None
    return model_card(adapter, str(config["backbone"]["name"]), config, metrics, licence)


def write_card(run: Path) -> None:
    """Put the card beside the adapter of a run."""
    with written_atomically(run / ADAPTER / CARD) as temporary:
        temporary.write_text(card_of_run(run), encoding="utf-8")
