"""What a MoSE gate does: mean weights per layer over training, and per subset in the test."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from lightning import LightningModule, Trainer

from mosear.backbones.sequences import SequenceState
from mosear.callbacks.base import RunCallback
from mosear.evaluation.report import LineChart, Table
from mosear.experts.hooks import mose_hooks
from mosear.experts.passes import GROUPS
from mosear.experts.record import gate_weights
from mosear.methods.processes import gathered

if TYPE_CHECKING:
    from torch import Tensor


log = logging.getLogger(__name__)

COLLAPSED = 0.95
"""Mean weight of one group over layers and clips from which on the others' ranks lie idle."""


class GateTelemetry(RunCallback):
    """Does nothing for an adapter without a gate. Warns after training if the gate has given all to one group.

    Args:
        every_n_steps: how often training weights are logged (as ``train/gate_<group>/layer_<i>``) and kept.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps={every_n_steps} must be at least 1.")
        self.every_n_steps = every_n_steps
        self.training: list[tuple[int, Tensor]] = []
        self.subsets: dict[str, tuple[int, Tensor]] = {}
        self._weights: Tensor | None = None
        self._listening = False
        self._whole_prompts = False
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Listen to the gate, if there is one."""
        hooks = mose_hooks(getattr(pl_module, "backbone", None))
        if hooks is not None and self.hear not in hooks.observers:
            hooks.observers.append(self.hear)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop listening."""
        hooks = mose_hooks(getattr(pl_module, "backbone", None))
        if hooks is not None and self.hear in hooks.observers:
            hooks.observers.remove(self.hear)

    def hear(self, state: SequenceState) -> None:
        """Keep the first prompt pass of a batch; in a test, the first that hides nothing."""
        if self._listening and not (self._whole_prompts and state.hidden is not None):
            self._weights, self._listening = gate_weights(state).detach(), False

    def _taken(self) -> Tensor | None:
        weights, self._weights, self._listening = self._weights, None, False
        return weights

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Listen on the steps that are logged."""
        self._step = trainer.global_step  # the optimiser has moved on when the batch ends
        self._listening, self._whole_prompts = self._step % self.every_n_steps == 0, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log this process's mean over the batch, per layer and group."""
        if (weights := self._taken()) is None:
            return
        mean = weights.mean(1).cpu()
        self.training.append((self._step, mean))
        values = {
            f"train/gate_{group}/layer_{layer}": value
            for layer, row in enumerate(mean.tolist())
            for group, value in zip(GROUPS, row, strict=True)
        }
        # Not through the module: Lightning would log the same numbers again at every step up to the next measurement.
        for logger in trainer.loggers:
            logger.log_metrics(values, step=self._step)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A gate that has collapsed makes a small LoRA of the adapter, and nothing else shows it."""
        hooks = mose_hooks(getattr(pl_module, "backbone", None))
        config = None if hooks is None else hooks.active_config()
        if not self.training or config is None:
            return
        share, group = self.training[-1][1].mean(0).max(0)
        if share > COLLAPSED:
            log.warning(
                "The gate has collapsed: %s experts have %.0f %% of the weight (mean over layers), so the ranks of the "
                "others lie idle. adapter.kl_weight (now %g) holds it back; try 0.1.",
                GROUPS[int(group)].replace("_", "-"),
                100 * float(share),
                config.kl_weight,
            )

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each test replaces the last one's numbers."""
        self.subsets = {}

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Listen."""
        self._listening, self._whole_prompts = batch.data is not None, True

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add each clip's weights to its subset."""
        if (weights := self._taken()) is None:
            return
        for clip, own in zip(batch.data.clips, weights.transpose(0, 1).double().cpu(), strict=True):
            self._add(clip.subset, 1, own)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sum over processes."""
        parts, self.subsets = gathered(list(self.subsets.items())), {}
        for subset, (count, total) in parts:
            self._add(subset, count, total)

    def _add(self, subset: str, count: int, total: Tensor) -> None:
        before, sums = self.subsets.get(subset, (0, torch.zeros_like(total)))
        self.subsets[subset] = (before + count, sums + total)

    def state_dict(self) -> dict[str, Any]:
        """What was heard in training, so that the chart of a resumed run is whole."""
        if not self.training:
            return {"steps": []}
        steps, means = zip(*self.training, strict=True)
        return {"steps": list(steps), "means": torch.stack(means)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore it."""
        steps = state_dict["steps"]
        self.training = list(zip(steps, state_dict["means"].unbind(), strict=True)) if steps else []

    def summary(self) -> dict[str, Any]:
        """Empty without a gate.

        ``{"gate": {"groups": [...], "subsets": {name: {"n": .., "mean": [3], "layers": [[3], ..]}}, "training": []}}``
        """
        if not self.subsets and not self.training:
            return {}
        training = [{"step": step, "layers": _rounded(mean)} for step, mean in self.training]
        return {"gate": {"groups": list(GROUPS), "subsets": self._subsets(), "training": training}}

    def _subsets(self) -> dict[str, dict[str, Any]]:
        found = {}
        for name, (count, total) in sorted(self.subsets.items()):
            layers = total / count
            found[name] = {"n": count, "mean": _rounded(layers.mean(0)), "layers": _rounded(layers)}
        return found

    def charts(self) -> list[LineChart]:
        """Mean weight of each group over training steps."""
        if not self.training:
            return []
        caption = "Gate weight of each group of experts, mean over layers and clips; 1/3 each means no preference."
        series = {
            group: [(float(step), float(mean[:, index].mean())) for step, mean in self.training]
            for index, group in enumerate(GROUPS)
        }
        return [LineChart(title="Gate", series=series, x_label="step", caption=caption)]

    def tables(self) -> list[Table]:
        """One row per test subset and layer: the mean weight of each group of experts."""
        rows = [
            [subset, values["n"], layer, *weights]
            for subset, values in self._subsets().items()
            for layer, weights in enumerate(values["layers"])
        ]
        return [Table("gate/test", ["subset", "n", "layer", *GROUPS], rows)] if rows else []


def _rounded(values: Tensor) -> Any:
    return torch.round(values.double(), decimals=5).tolist()
