"""The stages of a calibration: which direction is right, which heads matter, and which settings answer best."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mosear.inference.late_fusion import late_fusion, late_fusion_with_transcript
from mosear.steering import AttentionReallocation, Chase, Policies, Policy, Reliability
from mosear.steering.calibration.fitting import direction_accuracy, fit_reliability, usable
from mosear.steering.calibration.passes import ClipPasses
from mosear.steering.calibration.search import Board, FloatArray, Search, Trial
from mosear.steering.calibration.spaces import (
    SHARES,
    Head,
    chase_of,
    search_both,
    search_chase,
    search_heads,
    search_reallocation,
    with_chase,
)
from mosear.steering.conflict_detector import DIRECTIONS
from mosear.steering.telemetry import true_direction

if TYPE_CHECKING:
    from mosear.data.clip import Clip

Wanted = Literal["ar", "chase", "ar_chase"]
OFF = {"ar": AttentionReallocation(portion=0.0), "chase": Chase(strength=0.0)}
"""No steering, in the words of each policy."""

GUESSES = tuple(
    Reliability(audio_temperature=temperature, visual_temperature=temperature, transcript_weight=weight)
    for temperature in (1.0, 2.0)
    for weight in (0.0, 1.0, 2.0)
)
"""Estimates to choose from where no clip says which modality is right."""

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

    def run(self, wanted: Wanted, detector: Literal["masked", "heads"]) -> Trial:
        """Everything that ``wanted`` needs; the trial that was chosen, over all of them."""
        first = search_reallocation(self.search) if wanted != "chase" else None
        if wanted != "ar":
            start = self.evidence(Chase(detector=detector))
            estimates = self.estimates(start)
            lean = estimates == [*GUESSES]
            second = search_chase(self.search, replace(start, reliability=estimates[0]), estimates, lean=lean)
            if second.policy is not None:
                second = search_heads(self.search, second, self.ranked_heads(second))
            if first is not None and first.policy is not None and second.policy is not None:
                search_both(self.search, first, second, estimates, lean=lean)
        chosen = self._simplest(self.search.trials)
        if chosen.policy is not None and any(isinstance(step, Chase) for step in chosen.policy.steps):
            self._note_direction(chase_of(chosen.policy))
        return chosen

    def _simplest(self, trials: Sequence[Trial]) -> Trial:
        """The choice among all; but two policies at once must be better than the better one of them alone."""
        chosen = self.board.choose(trials)
        if not isinstance(chosen.policy, Policies):
            return chosen
        alone = self.board.choose(trial for trial in trials if not isinstance(trial.policy, Policies))
        return alone if self.board.as_good(alone, chosen) else chosen

    # -- direction --------------------------------------------------------------------------------------------------

    @property
    def directions(self) -> Tensor:
        """int64 ``[N]``: the modality that alone shows the label, as far as the clips say."""
        return torch.tensor([DIRECTIONS[true_direction(clip)] for clip in self.clips])

    def estimates(self, chase: Chase) -> list[Reliability]:
        """Reliability estimates to choose from; the first one to begin with."""
        readings, directions = self.passes.readings_of(chase), self.directions
        known = directions[usable(readings, directions)]
        if len(known.unique()) < 2:
            return [*GUESSES]
        transcripts = bool((~readings["text"].isnan().any(-1)).any())
        fits = [
            fit_reliability(readings, directions, transcript=own)
            for own in ((True, False) if transcripts else (False,))
        ]
        return list(dict.fromkeys([*fits, Reliability()]))

    def _note_direction(self, chase: Chase) -> None:
        readings = self.passes.readings_of(chase)
        names = [clip.subset for clip in self.clips]
        assert isinstance(chase.reliability, Reliability)
        found = {
            when: direction_accuracy(estimate, readings, self.directions, names)
            for when, estimate in (("uncalibrated", Reliability()), ("calibrated", chase.reliability))
        }
        self.notes["direction_accuracy"] = found

    # -- heads ------------------------------------------------------------------------------------------------------

    def ranked_heads(self, best: Trial) -> list[Head]:
        """All heads that may be steered, those first that alone do most for the right label.

        What steering one head does is its mean effect on ``log p(right) - max log p(wrong)`` over clips that ``best``
        steers, towards the modality that it decided on.
        """
        assert best.policy is not None
        chase = chase_of(best.policy)
        flagged = (chase.decide(self.passes.readings_of(chase)).bonus != 0).any(-1)
        where = self.spread(flagged & self.passes.both)
        first = (
            0 if chase.detector == "masked" else 1 + max(layer for layer, _ in chase.evidence(self.layers, self.heads))
        )
        pairs = [(layer, head) for layer in range(first, self.layers) for head in range(self.heads)]
        before = self._margins(self.passes.unsteered[where].double().numpy(), where)
        effects = {}
        for pair in self.track(pairs, "heads: effect of each"):
            after = self._margins(self.passes.answers(with_chase(best.policy, heads=(pair,)), where), where)
            effects[pair] = float((after - before).mean()) if len(where) else 0.0
        ranked = sorted(effects, key=lambda pair: -effects[pair])
        self.notes["head_effects"] = [[*pair, round(effects[pair], 5)] for pair in ranked]
        return ranked

    def evidence(self, chase: Chase) -> Chase:
        """With the evidence heads whose readings best name what each modality shows; for the heads detector alone."""
        shown = {name: [getattr(clip.modality_labels, name) for clip in self.clips] for name in ("audio", "visual")}
        labels = self.passes.trie.labels
        told = torch.tensor([all(own[i] in labels for own in shown.values()) for i in range(len(self.clips))])
        where = self.spread(told & self.passes.both)
        if chase.detector != "heads" or not len(where):
            return chase
        gold = {name: np.array([labels.index(str(own[i])) for i in where.tolist()]) for name, own in shown.items()}

        def named(pairs: Sequence[Head]) -> float:
            readings = self.passes.heads_readings(replace(chase, evidence_heads=tuple(pairs)), where)
            return float(np.mean([(readings[name].argmax(-1).numpy() == own).mean() for name, own in gold.items()]))

        every = chase.evidence(self.layers, self.heads)
        single = {pair: named([pair]) for pair in self.track(every, "evidence: each head")}
        ranked = sorted(single, key=lambda pair: -single[pair])
        sets = [tuple(sorted(ranked[: max(1, round(share * len(ranked)))])) for share in (1.0, *SHARES)]
        together = {own: named(own) for own in self.track(list(dict.fromkeys(sets)), "evidence: together")}
        best = max(together, key=lambda own: together[own])
        self.notes["evidence_accuracy"] = round(together[best], 5)
        return replace(chase, evidence_heads=best)

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

    def _margins(self, log_probs: FloatArray, where: Tensor) -> FloatArray:
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


def under_name(policy: Policy | None, wanted: Wanted) -> Policy:
    """A policy with exactly the steps that ``steering=wanted`` has; those that were not chosen do nothing."""
    found = {
        ("chase" if isinstance(step, Chase) else "ar"): step for step in (policy.steps if policy is not None else ())
    }
    steps = [found.get(name, OFF[name]) for name in wanted.split("_")]
    return steps[0] if len(steps) == 1 else Policies(steps)
