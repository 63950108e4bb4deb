"""What a tuning method is: it turns a batch of encoded clips into a loss.

A method is one folder here and one file ``conf/method/NAME.yaml`` whose ``_target_`` is a :class:`Method`. Training,
checkpoints, validation of configs, memory estimates and results know this protocol alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from mosear.data.sample import OmniBatch
    from mosear.evaluation.report import LineChart, Table
    from mosear.methods.omni_system import OmniSystem
    from mosear.methods.step_trace import StepTrace
    from mosear.problems import Problem


@dataclass(frozen=True)
class Loss:
    """What a training step gives.

    Attributes:
        value: to go backward from; the mean over the clips of the global batch.
        logs: what to log, by name below ``train/``; ``loss`` is what the progress bar shows.
    """

    value: Tensor
    logs: Mapping[str, Tensor]


class Method(ABC):
    """One way of tuning. Its constructor takes settings alone; the model comes with :meth:`setup`.

    Attributes:
        learns_written: the answers of its batches are as ``data.prompt.answer_format`` asks for them, with the reasons
            of the manifest; else they are labels.
    """

    learns_written: ClassVar[bool] = False

    @abstractmethod
    def setup(self, system: OmniSystem) -> None:
        """Once before the first step, on every process together; may read training clips.

        State that was loaded before is to be kept, not made anew.
        """

    @abstractmethod
    def loss(self, batch: OmniBatch, batch_idx: int) -> Loss:
        """The loss of this process's clips.

        Args:
            batch: with answers and encoded media.
            batch_idx: of the micro-batch in the epoch.
        """

    def state_dict(self) -> dict[str, Any]:
        """What all processes share: entries of a checkpoint, plain values and tensors."""
        return {}

    def load_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Find :meth:`state_dict`'s entries again; called before :meth:`setup`."""
        return None

    def rank_state(self) -> dict[str, Any]:
        """What this process has to keep for itself."""
        return {}

    def load_rank_state(self, state: Mapping[str, Any]) -> None:
        """Put :meth:`rank_state` back; called after :meth:`setup`."""
        return None

    @classmethod
    def rules(cls, cfg: DictConfig) -> Iterable[Problem]:
        """Combinations that cannot work, found before anything is built; ``cfg.method`` are the settings."""
        return ()

    @classmethod
    def writes_answers(cls, cfg: DictConfig) -> bool:
        """Does training write whole answers, so that text may come before the label? Others score labels at once."""
        return cls.learns_written

    @abstractmethod
    def clips_of_step(self, batch_size: int) -> Mapping[str, int]:
        """What passes a step runs, for people: clips by kind of pass."""

    def weight_copies(self) -> int:
        """Copies of the weights that train which a step holds beside them, in float32; for the memory estimate."""
        return 0

    @abstractmethod
    def memory_step(self, step: StepTrace) -> Tensor:
        """The passes of the largest step, on tensors without memory; returns a scalar to go backward from."""

    def summary(self) -> Mapping[str, Any]:
        """What ``metrics.json`` is to say, at the end of a run."""
        return {}

    def charts(self) -> Sequence[LineChart]:
        """For the report."""
        return ()

    def tables(self) -> Sequence[Table]:
        """For W&B, and as ``NAME.csv`` in the run directory."""
        return ()
