"""From a run's MoSE adapter to a plain LoRA beside it, with what that costs on a manifest."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from peft import PeftModel

from mosear.backbones.devices import chosen_device, device_problems
from mosear.backbones.identity import FILE as IDENTITY
from mosear.evaluation.answering import Answering
from mosear.evaluation.bootstrap import paired_difference
from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.runs import is_trained_adapter
from mosear.evaluation.summary import write_metrics
from mosear.experts.config import METHOD
from mosear.experts.export.to_lora import FITS, Fit, PlainLora, freeze_experts, observed
from mosear.experts.passes import GROUPS
from mosear.files import replaced
from mosear.methods.omni_system import OmniSystem
from mosear.runtime.adapters import load_adapter
from mosear.runtime.run import Run
from mosear.settings import AtLeastOne, check

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.datamodule import ClipDataModule

REPORT = "export.json"
SPLIT = "val"
SYSTEMS = ("base", "mose", "lora")


@dataclass(frozen=True)
class Export:
    """What to export, and on which clips the gate is averaged and the result is scored.

    Attributes:
        adapter: a run's ``adapter/``; the run's ``config.yaml`` lies beside it.
        out: where the LoRA goes; ``None`` = ``adapter_lora/`` beside the adapter.
        fit: see :mod:`mosear.experts.export.to_lora`.
        manifest: ``None`` = the run's validation clips of every subset. Freezing reads no labels, and conflict clips,
            which training may not see, are where a frozen gate costs most.
        limit: use this many clips, evenly spread over the manifest; ``None`` = all.
        batch_size: clips per step; ``None`` = the run's own.
        device: ``cpu``, ``cuda`` or ``cuda:N``; ``None`` = a GPU if there is one.
        backbone: overrides the backbone's name, e.g. where a local copy lies elsewhere.
        trust_remote_code: run code that the backbone's checkpoint brings along; a run cannot ask for it.
        overwrite: replace an earlier export.
    """

    adapter: Path
    out: Path | None = None
    fit: Fit = "refit"
    manifest: Path | None = None
    limit: AtLeastOne | None = None
    batch_size: AtLeastOne | None = None
    device: str | None = None
    backbone: str | None = None
    trust_remote_code: bool = False
    overwrite: bool = False

    @property
    def target(self) -> Path:
        """Where the LoRA goes."""
        return self.out if self.out is not None else self.adapter.with_name("adapter_lora")

    def check(self) -> None:
        """Find every mistake that can be found before weights are loaded.

        Raises:
            ValueError: naming all of them.
        """
        check(self)

    def further_problems(self) -> list[str]:
        """What is wrong with the device and with files."""
        return device_problems(self.device) + self._wrong_adapter() + self._wrong_target()

    def _wrong_adapter(self) -> list[str]:
        if not is_trained_adapter(self.adapter):
            return [f"{self.adapter} is not a trained adapter: it has no adapter_config.json (give RUN/adapter)"]
        method = json.loads((self.adapter / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type")
        problems = []
        if method != METHOD:
            problems.append(f"{self.adapter} holds a {method} adapter, not {METHOD}: there is no gate to freeze")
        if not (config := self.adapter.parent / "config.yaml").is_file():
            problems.append(
                f"{config} is missing: it says which backbone, prompt and clips the adapter was trained with"
            )
        return problems

    def _wrong_target(self) -> list[str]:
        if not self.target.exists():
            return []
        if not (self.target / REPORT).is_file():
            return [f"{self.target} exists and is not an earlier export, so it is not touched; choose another --out"]
        return [] if self.overwrite else [f"{self.target} exists; choose another --out, or replace it with --overwrite"]


def export_lora(export: Export) -> dict[str, Any]:
    """Score the MoSE adapter, freeze it, score the bare backbone and the LoRA as plain PEFT loads it.

    Returns:
        The content of ``export.json``.

    Raises:
        ValueError: see :meth:`Export.check`; and if no clip could be read.
    """
    export.check()
    run = Run.open(export.adapter, trust_remote_code=export.trust_remote_code)
    scorer = Scorer.of(run, export)
    network = load_adapter(scorer.backbone, export.adapter)
    rows: dict[str, list[PredictionRow]] = {}
    with observed(network) as observation:
        rows["mose"] = scorer(network, "mose")
    if not observation.prompts:
        raise ValueError(f"No clip of {scorer.data.paths[SPLIT]} could be read: {rows['mose'][0].unparsed_reason}.")
    fits = {fit: freeze_experts(network, observation, fit) for fit in FITS}
    bare = network.unload()
    rows["base"] = scorer(bare, "base")
    with replaced(export.target) as directory:
        fits[export.fit].save(directory)
        if (export.adapter / IDENTITY).is_file():
            shutil.copyfile(export.adapter / IDENTITY, directory / IDENTITY)
        network = PeftModel.from_pretrained(bare, str(directory)).eval()
        check_placement(network, fits[export.fit])
        rows["lora"] = scorer(network, "lora")
        report = {
            "adapter": str(export.adapter),
            "backbone": run.name,
            "manifest": str(scorer.data.paths[SPLIT]),
            "fit": export.fit,
            "rank": fits[export.fit].config.r,
            "relative_error": {fit: lora.relative_error for fit, lora in fits.items()},
            **compared(rows),
            "gate": {"groups": list(GROUPS), "layers": observation.mean_gate()},
        }
        write_metrics(report, directory / REPORT)
    return report


class TitledBar(RichProgressBar):
    """Says which system is being scored."""

    title = "Testing"

    @property
    def test_description(self) -> str:
        """What stands before the bar."""
        return self.title


class Scorer:
    """Answers the same clips with one system after the other, by label scoring.

    Args:
        backbone: its model is what answers.
        data: its validation clips are asked about.
        trainer: runs the loop.
    """

    def __init__(self, backbone: OmniBackbone, data: ClipDataModule, trainer: Trainer) -> None:
        self.backbone, self.data, self.trainer = backbone, data, trainer
        # Once: a loader's cache key names the device, and the trainer takes the weights back to the CPU after each use.
        self.loader = data.eval_loader(SPLIT)

    @classmethod
    def of(cls, run: Run, export: Export) -> Scorer:
        """With the backbone, prompt, budgets and precision of a run."""
        device = chosen_device(export.device)
        backbone = run.backbone(export.backbone, device=str(device))
        changes: dict[str, Any] = {}
        if export.batch_size is not None:
            changes["eval_batch_size"] = export.batch_size
        if export.manifest is not None:
            changes[SPLIT] = str(export.manifest)
        else:
            run.prepare_clips()
        data = run.data(backbone, **changes)
        data.manifests[SPLIT] = data.manifest(SPLIT).evenly(export.limit)
        trainer = Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision=run.cfg.trainer.get("precision"),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            callbacks=[TitledBar(leave=True)],
        )
        return cls(backbone, data, trainer)

    def __call__(self, network: nn.Module, name: str) -> list[PredictionRow]:
        """Predictions in manifest order; ``name`` goes into them."""
        assert isinstance(self.trainer.progress_bar_callback, TitledBar)
        self.trainer.progress_bar_callback.title = f"Scoring {name}"
        run = {"benchmark": str(self.data.paths[SPLIT]), "model": name}
        system = OmniSystem(self.backbone, network, self.data, Answering(readings=False), run=run, split=SPLIT)
        self.trainer.test(system, dataloaders=self.loader, verbose=False)
        return system.rows


def check_placement(network: PeftModel, lora: PlainLora) -> None:
    """Refuse a LoRA that plain PEFT puts elsewhere than MoSE was.

    Raises:
        ValueError: naming the first difference.
    """
    found = {name for name, module in network.get_base_model().named_modules() if hasattr(module, "lora_A")}
    if stray := sorted(found ^ lora.projections.keys()):
        raise ValueError(
            f"PEFT did not put the LoRA where MoSE was: {len(stray)} modules differ, the first is {stray[0]}. This "
            "version of PEFT reads target_modules differently for this backbone."
        )


def compared(rows: Mapping[str, Sequence[PredictionRow]]) -> dict[str, Any]:
    """Accuracy of each system, what the export costs, and how often LoRA and MoSE give the same answer.

    Args:
        rows: by system, the same clips in the same order.

    Returns:
        ``{"clips": .., "accuracy": {system: ..}, "cost": [mean, low, high], "agreement": .., "subsets": {name: the
        same}}``; ``cost`` is the accuracy of MoSE minus that of the LoRA with its paired 95 % interval.
    """
    subsets = {
        subset: _numbers({name: [row for row in own if row.subset == subset] for name, own in rows.items()})
        for subset in sorted({row.subset for row in rows["mose"]})
    }
    return {**_numbers(rows), "subsets": subsets}


def _numbers(rows: Mapping[str, Sequence[PredictionRow]]) -> dict[str, Any]:
    hits = {name: [row.credit for row in rows[name]] for name in SYSTEMS}
    same = [a.prediction == b.prediction for a, b in zip(rows["mose"], rows["lora"], strict=True)]
    clips = len(same)
    return {
        "clips": clips,
        "accuracy": {name: sum(own) / clips for name, own in hits.items()},
        "cost": list(paired_difference(hits["mose"], hits["lora"])),
        "agreement": sum(same) / clips,
    }


def cost_table(report: Mapping[str, Any]) -> Table:
    """Accuracies in percent, per subset where there are several."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"{report['manifest']}: accuracy", style="table.title"))
    table.add_column("subset")
    for heading in ("n", "base", "MoSE", "LoRA", "cost (95 %)", "same answer"):
        table.add_column(heading, justify="right")
    parts = dict(report["subsets"]) if len(report["subsets"]) > 1 else {}
    for name, own in [*parts.items(), ("all", report)]:
        mean, low, high = (100 * value for value in own["cost"])
        accuracies = [f"{100 * own['accuracy'][system]:.1f}" for system in SYSTEMS]
        cost = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"
        # Text, not str: rich would read markup such as [red] in a subset name.
        cells = [name.replace("_", " "), str(own["clips"]), *accuracies, cost, f"{own['agreement']:.1%}"]
        table.add_row(*map(Text, cells))
    return table
