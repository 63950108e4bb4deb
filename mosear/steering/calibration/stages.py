"""The stages of a calibration: each policy by itself, then two together, then the choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mosear.inference.late_fusion import late_fusion, late_fusion_with_transcript
from mosear.steering.calibration.passes import ClipPasses
from mosear.steering.calibration.policy_search import join, keys_of, search_of
from mosear.steering.calibration.search import Board, FloatArray, Search, Trial
from mosear.steering.conflict_detector import DIRECTIONS
from mosear.steering.policies.base import Policy
from mosear.steering.policies.sequence import Policies
from mosear.steering.telemetry import true_direction

if TYPE_CHECKING:
    from mosear.data.clip import Clip

Track = Callable[[Sequence[Any], str], Iterable[Any]]


@dataclass
class Stages:
    """Runs the stages one wants.

    Attributes:
        passes: of the model.
        board: scores them.
        search: remembers them.
        clips: in the order of the passes.
        layers: of the decoder.
        heads: per layer.
        head_clips: at most so many clips tell what a head is good for.
        track: shows progress.
        notes: what was measured beside the trials, for the settings file.
        detector: how policies that decide read their evidence.
    """

    passes: ClipPasses
    board: Board
    search: Search
    clips: Sequence[Clip]
    layers: int
    heads: int
    head_clips: int
    track: Track
    notes: dict[str, Any] = field(default_factory=dict)
    detector: Literal["masked", "heads"] = "masked"

    def run(self, wanted: str) -> Trial:
        """Everything that ``wanted`` (KEY or KEY_KEY) needs; the trial that was chosen, over all of them."""
        searches = [search_of(key)(self) for key in keys_of(wanted)]
        found = [own.alone() for own in searches]
        if len(searches) > 1 and all(trial.policy is not None for trial in found):
            join(self.search, searches[0], searches[1], found)
        chosen = self._simplest(self.search.trials)
        for own in searches:
            if chosen.policy is not None and any(step.key == own.off.key for step in chosen.policy.steps):
                self.notes.update(own.notes_about(chosen.policy))
        return chosen

    def _simplest(self, trials: Sequence[Trial]) -> Trial:
        """The choice among all; but two policies at once must be better than the better one of them alone."""
        chosen = self.board.choose(trials)
        if not isinstance(chosen.policy, Policies):
            return chosen
        alone = self.board.choose(trial for trial in trials if not isinstance(trial.policy, Policies))
        return alone if self.board.as_good(alone, chosen) else chosen

    # -- clips ------------------------------------------------------------------------------------------------------

    @property
    def directions(self) -> Tensor:
        """int64 ``[N]``: the modality that alone shows the label, as far as the clips say."""
        return torch.tensor([DIRECTIONS[true_direction(clip)] for clip in self.clips])

    def spread(self, wanted: Tensor) -> Tensor:
        """Positions of at most ``head_clips`` of the ``wanted [N]`` clips, the same number of each subset."""
        names = np.asarray([clip.subset for clip in self.clips])
        groups = [np.flatnonzero(wanted.numpy() & (names == name)) for name in self.board.counts]
        groups = sorted((group for group in groups if len(group)), key=len)
        chosen: list[int] = []
        for left, group in zip(range(len(groups), 0, -1), groups, strict=True):
            count = min(len(group), (self.head_clips - len(chosen)) // left)
            chosen += [int(group[i * len(group) // count]) for i in range(count)]
        return torch.tensor(sorted(chosen), dtype=torch.long)

    def margins(self, log_probs: FloatArray, where: Tensor) -> FloatArray:
        """``log p(right) - max log p(wrong)`` of the clips ``where``."""
        gold = self.board.gold[where.numpy()]
        rows = np.arange(len(gold))
        others = log_probs.copy()
        others[rows, gold] = -np.inf
        margins: FloatArray = log_probs[rows, gold] - others.max(1)
        return margins

    # -- controls ---------------------------------------------------------------------------------------------------

    def controls(self) -> dict[str, Trial]:
        """Late fusion of the same readings, with and without the transcript."""
        face, voice, text = (self.passes.readings[name].double().numpy() for name in ("visual", "audio", "text"))
        answers = {
            "late_fusion": late_fusion(face, voice),
            "late_fusion_transcript": late_fusion_with_transcript(face, voice, text),
        }
        gold = self.board.gold
        return {name: self.board.scored(name, None, own == gold, 0.0) for name, own in answers.items()}


def under_name(policy: Policy | None, wanted: str) -> Policy:
    """A policy with exactly the steps that ``steering=wanted`` has; those that were not chosen do nothing."""
    found = {step.key: step for step in (policy.steps if policy is not None else ())}
    steps = [found.get(key, search_of(key).off) for key in keys_of(wanted)]
    return steps[0] if len(steps) == 1 else Policies(steps)
