"""Modules that have moved: the old name of each, and the new one.

An import of an old name fails with the new one in its message, and so does a ``_target_`` of a config. Nothing is
imported under two names.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from typing import Any

MOVED = {
    "mosear.packing": "mosear.tensor_buffer",
    "mosear.backbones.hooks": "mosear.backbones.sequence_hooks",
    "mosear.callbacks.steering": "mosear.callbacks.steered_evaluation",
    "mosear.evaluation.compare_clips": "mosear.evaluation.compare.clips",
    "mosear.evaluation.compare_multirun": "mosear.evaluation.compare.multirun",
    "mosear.evaluation.compare_runs": "mosear.evaluation.compare.collect",
    "mosear.evaluation.compare_scores": "mosear.evaluation.compare.scores",
    "mosear.evaluation.fusion": "mosear.inference.late_fusion",
    "mosear.evaluation.generation": "mosear.inference.generation",
    "mosear.evaluation.parsing": "mosear.inference.parsing",
    "mosear.evaluation.report.steering": "mosear.evaluation.report.attention",
    "mosear.evaluation.scoring": "mosear.inference.scoring",
    "mosear.evaluation.steering": "mosear.steering.telemetry",
    "mosear.experts.conductor": "mosear.experts.hooks",
    "mosear.experts.export.__main__": "mosear.commands.export",
    "mosear.experts.sequence_state": "mosear.backbones.sequence_state",
    "mosear.experts.SequenceState": "mosear.backbones.SequenceState",
    "mosear.experts.state": "mosear.backbones.sequences",
    "mosear.experts.to_lora": "mosear.experts.export.to_lora",
    "mosear.runtime.annotations": "mosear.config.annotations",
    "mosear.runtime.benchmark_rules": "mosear.config.benchmark_rules",
    "mosear.runtime.calibration": "mosear.runtime.calibrate",
    "mosear.runtime.calibration_passes": "mosear.steering.calibration.passes",
    "mosear.runtime.calibration_stages": "mosear.steering.calibration.stages",
    "mosear.runtime.devices": "mosear.backbones.devices",
    "mosear.runtime.distributed": "mosear.torchrun",
    "mosear.runtime.dry_run": "mosear.planning.dry_run",
    "mosear.runtime.export_lora": "mosear.runtime.export",
    "mosear.runtime.loggers": "mosear.loggers.build",
    "mosear.runtime.memory": "mosear.planning.memory",
    "mosear.runtime.memory_clip": "mosear.planning.clip",
    "mosear.runtime.memory_plan": "mosear.planning.plan",
    "mosear.runtime.memory_trace": "mosear.planning.trace",
    "mosear.runtime.problems": "mosear.problems",
    "mosear.runtime.process_rules": "mosear.config.process_rules",
    "mosear.runtime.rules": "mosear.config.rules",
    "mosear.runtime.signature": "mosear.config.signature",
    "mosear.runtime.steering": "mosear.steering.configured",
    "mosear.runtime.targets": "mosear.config.targets",
    "mosear.runtime.validation": "mosear.config.validation",
    "mosear.runtime.wandb_logger": "mosear.loggers.wandb_logger",
    "mosear.runtime.wandb_results": "mosear.loggers.wandb_results",
    "mosear.steering.calibrate": "mosear.commands.calibrate",
    "mosear.steering.calibration.spaces": "mosear.steering.calibration.searches",
    "mosear.steering.evidence": "mosear.inference.unimodal",
    "mosear.steering.fitting": "mosear.steering.calibration.fitting",
    "mosear.steering.judge": "mosear.steering.conflict_detector",
    "mosear.steering.search": "mosear.steering.calibration.search",
    "mosear.steering.spaces": "mosear.steering.calibration.searches",
    "mosear.training": "mosear.methods",
    "mosear.training.base": "mosear.pretraining",
    "mosear.training.batches": "mosear.data.batches",
    "mosear.training.conflict_mixing": "mosear.methods.conflict_mixing",
    "mosear.training.loss": "mosear.methods.answer_tuning.loss",
    "mosear.training.mixing_pairs": "mosear.methods.conflict_mixing.pairs",
    "mosear.training.mixing_target": "mosear.methods.conflict_mixing.target",
    "mosear.training.modality_dropout": "mosear.methods.answer_tuning.modality_dropout",
    "mosear.training.module": "mosear.methods.omni_system",
    "mosear.training.module.EmotionTuner": "mosear.methods.omni_system.OmniSystem",
    "mosear.training.teacher": "mosear.methods.conflict_mixing.teacher",
}
"""Old dotted name of a module, or of what a package offered, to the new one."""

COMMANDS = {
    "mosear.experts.export.__main__": "python -m mosear export",
    "mosear.steering.calibrate": "python -m mosear calibrate",
}
"""Commands that were called by the names of their modules."""


def new_name(path: str) -> str | None:
    """The new name of a dotted path below a module that has moved; ``None`` for others."""
    parts = path.split(".")
    for length in range(len(parts), 1, -1):
        old = ".".join(parts[:length])
        if old in MOVED:
            return ".".join([MOVED[old], *parts[length:]])
    return None


class MovedFinder(MetaPathFinder):
    """Asked last: says where a module is that was not found."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        """Never finds one.

        Raises:
            ModuleNotFoundError: with the new name, for a module that has moved.
        """
        if fullname in MOVED:
            command = f", and the command is `{COMMANDS[fullname]}`" if fullname in COMMANDS else ""
            raise ModuleNotFoundError(f"{fullname} is now {MOVED[fullname]}{command}", name=fullname)


def missing(package: str, name: str) -> Exception:
    """What a package raises for a name that it does not have (any more)."""
    if told := new_name(f"{package}.{name}"):
        return ImportError(
            f"{package}.{name} is now {told}"
        )  # an AttributeError would lose its text in `from .. import`
    return AttributeError(f"module {package!r} has no attribute {name!r}")


def say_where_modules_are() -> None:
    """Let imports of old names fail with the new ones."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
