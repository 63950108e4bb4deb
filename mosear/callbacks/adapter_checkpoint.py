"""Saves the adapter in PEFT's own format while training."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from peft import PeftModel

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.identity import identity, save_identity
from mosear.backbones.partitioned import whole
from mosear.callbacks.base import RunCallback

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


class AdapterCheckpoint(RunCallback):
    """Keeps ``directory`` at the chosen adapter: loads with plain ``PeftModel.from_pretrained``.

    Args:
        directory: the adapter's directory; it is replaced as a whole.
        select: ``best`` = lowest ``monitor`` on validation data (the last one if nothing was validated); ``last`` = the
            end.
        monitor: what ``best`` means; lower is better.
    """

    def __init__(self, directory: str, *, select: Literal["best", "last"] = "best", monitor: str = "val/loss") -> None:
        if select not in ("best", "last"):
            raise ValueError(f"select={select!r} must be 'best' or 'last'.")
        self.directory, self.select, self.monitor = Path(directory), select, monitor
        self.best: float | None = None

    def saved_weights(self) -> Path | None:
        """The adapter's directory, once there is one."""
        return self.directory if self.directory.exists() else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save when validation improved."""
        value = trainer.callback_metrics.get(self.monitor)
        if self.select != "best" or trainer.sanity_checking or value is None or trainer.state.fn != "fit":
            return
        if self.best is None or float(value) < self.best:
            self.best = float(value)
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state if it is wanted, or if nothing was ever validated."""
        if self.select == "last" or self.best is None:
            self.save(trainer, pl_module)

    def save(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write next to the target, then swap: a reader never sees half an adapter. All processes call it."""
        network = pl_module.network
        assert isinstance(network, PeftModel), "only adapters are saved; the backbone is frozen"
        backbone = getattr(pl_module, "backbone", None)
        assert isinstance(backbone, OmniBackbone), "adapters are trained on a backbone"
        found = identity(backbone)
        with whole(parameter for parameter in network.parameters() if parameter.requires_grad):
            if trainer.is_global_zero:
                self._write(network, backbone.name, found)

    def _write(self, network: PeftModel, name: str, found: Mapping[str, Any]) -> None:
        staging = self.directory.with_name(self.directory.name + ".new")
        shutil.rmtree(staging, ignore_errors=True)
        network.save_pretrained(staging)
        save_identity(staging, name, found)
        method = getattr(network.peft_config["default"].peft_type, "value", None)
        text = README.format(method=method, backbone=name)  # instead of PEFT's empty model card
        (staging / "README.md").write_text(text, encoding="utf-8")
        old = self.directory.with_name(self.directory.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.directory.exists():
            os.replace(self.directory, old)
        os.replace(staging, self.directory)
        shutil.rmtree(old, ignore_errors=True)

    def state_dict(self) -> dict[str, float | None]:
        """The best value so far, so that a resumed run does not overwrite a better adapter."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, float | None]) -> None:
        """Restore the best value."""
        self.best = state_dict["best"]
