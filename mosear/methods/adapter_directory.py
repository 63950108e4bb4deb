"""What lies in the directory of a trained adapter: PEFT's files, which backbone it belongs to, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel

from mosear.backbones.identity import save_identity
from mosear.files import os_errors

README = """\
# {method} adapter of {backbone}

    import mosear                                       # PEFT then knows MoSE; a plain LoRA needs peft alone
    from mosear.backbones import load_backbone
    from peft import PeftModel

    backbone = load_backbone("{backbone}")
    model = PeftModel.from_pretrained(backbone.model, "THIS DIRECTORY").eval()

`python -m mosear predict CLIP --adapter THIS DIRECTORY` needs the run's `config.yaml` beside this directory as well.
`mosear.json` says which backbone the adapter belongs to.
"""


def save_adapter(network: PeftModel, name: str, identity: Mapping[str, Any], directory: Path) -> None:
    """Write the files.

    Args:
        network: whose adapter it is; its weights are whole.
        name: of the backbone.
        identity: of the backbone, see :func:`mosear.backbones.identity.identity`.
        directory: a new one.
    """
    with os_errors(directory):
        network.save_pretrained(str(directory))
    save_identity(directory, name, identity)
    method = getattr(network.peft_config["default"].peft_type, "value", None)
    text = README.format(method=method, backbone=name)  # instead of PEFT's empty model card
    (directory / "README.md").write_text(text, encoding="utf-8")
