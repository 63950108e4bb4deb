"""What lies in the directory of a trained adapter: PEFT's files, which backbone it belongs to, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel

from mosear.backbones.identity import save_identity
from mosear.files import os_errors
from mosear.methods.model_card import CARD, model_card


def save_adapter(network: PeftModel, name: str, identity: Mapping[str, Any], directory: Path) -> None:
    """Write the files.

    Args:
        network: whose adapter it is; its weights are whole.
        name: of the backbone.
        identity: of the backbone, see :func:`mosear.backbones.identity.identity`.
        directory: a new one.
    """
    with os_errors(directory):
        # Embeddings are frozen. Asked to find out whether they changed, PEFT looks for the backbone's config on a hub.
        network.save_pretrained(str(directory), save_embedding_layers=False)
    save_identity(directory, name, identity)
    # Instead of PEFT's empty model card; once the run is tested, its scores are added.
    (directory / CARD).write_text(model_card(network.peft_config["default"].to_dict(), name), encoding="utf-8")
