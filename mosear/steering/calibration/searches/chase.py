"""What calibration tries for CHASE: which direction is right, which heads matter, and which settings answer best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from mosear.steering.calibration.fitting import direction_accuracy, fit_reliability, usable
from mosear.steering.calibration.policy_search import Move, PolicySearch, step_of, with_step
from mosear.steering.calibration.search import Search, Trial
from mosear.steering.policies.base import Policy
from mosear.steering.policies.chase import Chase
from mosear.steering.policies.reliability import Reliability

if TYPE_CHECKING:
    from mosear.steering.calibration.stages import Stages

Head = tuple[int, int]

STRENGTHS = (0.0, 2.0, 4.0, 8.0)
SUPPRESSIONS = (0.0, 4.0, 8.0, 16.0)
FACTORS = (0.5, 0.7, 1.4, 2.0)
"""By which CHASE's strength and suppression are moved; from 0 they are moved to FIRST."""
FIRST = 1.0
CONFLICTS = tuple(round(0.1 * tenth, 1) for tenth in range(10))
LEANINGS = (-1.0, -0.5, -0.25, 0.25, 0.5, 1.0)
"""How far the priors are moved to the face, in log-odds."""
SHARES = (0.75, 0.5, 0.25, 0.125)
"""Of the ranked heads."""

GUESSES = tuple(
    Reliability(audio_temperature=temperature, visual_temperature=temperature, transcript_weight=weight)
    for temperature in (1.0, 2.0)
    for weight in (0.0, 1.0, 2.0)
)
"""Estimates to choose from where no clip says which modality is right."""
MILDER = (0.25, 0.5, 0.75, 1.0)
"""Of the best strength and suppression, where another policy acts on what is left."""


class ChaseSearch(PolicySearch):
    """Evidence, reliability, settings, then heads.

    Attributes:
        reliabilities: estimates to choose from, once :meth:`alone` has found them.
    """

    off: ClassVar[Policy] = Chase(strength=0.0)
    dose: ClassVar[str] = "strength"

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages)
        self.reliabilities: list[Reliability] = []

    @property
    def lean(self) -> bool:
        """Reliability was guessed: its priors are moved, too."""
        return self.reliabilities == [*GUESSES]

    def alone(self) -> Trial:
        """See the class."""
        start, search = self.evidence(Chase(detector=self.stages.detector)), self.stages.search
        self.reliabilities = self.estimates(start)
        first = replace(start, reliability=self.reliabilities[0])
        found = search_chase(search, first, self.reliabilities, lean=self.lean)
        return found if found.policy is None else search_heads(search, found, self.ranked_heads(found))

    def milder(self, policy: Policy) -> Sequence[Policy]:
        """Smaller strengths and suppressions."""
        own = step_of(policy, Chase)
        return [
            replace(own, strength=round(factor * own.strength, 3), suppress=round(factor * own.suppress, 3))
            for factor in MILDER
        ]

    def moves(self) -> Sequence[Move]:
        """All but the heads."""
        return chase_moves(self.reliabilities, lean=self.lean)

    def notes_about(self, chosen: Policy) -> dict[str, Any]:
        """How often the believed modality is the right one."""
        chase = step_of(chosen, Chase)
        readings, directions = self.stages.passes.readings_of(chase.detection), self.stages.directions
        names = [clip.subset for clip in self.stages.clips]
        assert isinstance(chase.reliability, Reliability)
        found = {
            when: direction_accuracy(estimate, readings, directions, names)
            for when, estimate in (("uncalibrated", Reliability()), ("calibrated", chase.reliability))
        }
        return {"direction_accuracy": found}

    def estimates(self, chase: Chase) -> list[Reliability]:
        """Reliability estimates to choose from; the first one to begin with."""
        readings, directions = self.stages.passes.readings_of(chase.detection), self.stages.directions
        known = directions[usable(readings, directions)]
        if len(known.unique()) < 2:
            return [*GUESSES]
        transcripts = bool((~readings["text"].isnan().any(-1)).any())
        fits = [
            fit_reliability(readings, directions, transcript=own)
            for own in ((True, False) if transcripts else (False,))
        ]
        return list(dict.fromkeys([*fits, Reliability()]))

    def ranked_heads(self, best: Trial) -> list[Head]:
        """All heads that may be steered, those first that alone do most for the right label.

        What steering one head does is its mean effect on ``log p(right) - max log p(wrong)`` over clips that ``best``
        steers, towards the modality that it decided on.
        """
        assert best.policy is not None
        chase = step_of(best.policy, Chase)
        flagged = (chase.decide(self.stages.passes.readings_of(chase.detection)).bonus != 0).any(-1)
        where = self.stages.spread(flagged & self.stages.passes.both)
        first = (
            0
            if chase.detector == "masked"
            else 1 + max(layer for layer, _ in chase.evidence(self.stages.layers, self.stages.heads))
        )
        pairs = [(layer, head) for layer in range(first, self.stages.layers) for head in range(self.stages.heads)]
        before = self.stages.margins(self.stages.passes.unsteered[where].double().numpy(), where)
        effects = {}
        for pair in self.stages.track(pairs, "heads: effect of each"):
            after = self.stages.margins(
                self.stages.passes.answers(with_step(best.policy, Chase, heads=(pair,)), where), where
            )
            effects[pair] = float((after - before).mean()) if len(where) else 0.0
        ranked = sorted(effects, key=lambda pair: -effects[pair])
        self.stages.notes["head_effects"] = [[*pair, round(effects[pair], 5)] for pair in ranked]
        return ranked

    def evidence(self, chase: Chase) -> Chase:
        """With the evidence heads whose readings best name what each modality shows; for the heads detector alone."""
        shown = {
            name: [getattr(clip.modality_labels, name) for clip in self.stages.clips] for name in ("audio", "visual")
        }
        labels = self.stages.passes.trie.labels
        told = torch.tensor([all(own[i] in labels for own in shown.values()) for i in range(len(self.stages.clips))])
        where = self.stages.spread(told & self.stages.passes.both)
        if chase.detector != "heads" or not len(where):
            return chase
        gold = {name: np.array([labels.index(str(own[i])) for i in where.tolist()]) for name, own in shown.items()}

        def named(pairs: Sequence[Head]) -> float:
            readings = self.stages.passes.heads_readings(replace(chase, evidence_heads=tuple(pairs)).detection, where)
            return float(np.mean([(readings[name].argmax(-1).numpy() == own).mean() for name, own in gold.items()]))

        every = chase.evidence(self.stages.layers, self.stages.heads)
        single = {pair: named([pair]) for pair in self.stages.track(every, "evidence: each head")}
        ranked = sorted(single, key=lambda pair: -single[pair])
        sets = [tuple(sorted(ranked[: max(1, round(share * len(ranked)))])) for share in (1.0, *SHARES)]
        together = {own: named(own) for own in self.stages.track(list(dict.fromkeys(sets)), "evidence: together")}
        best = max(together, key=lambda own: together[own])
        self.stages.notes["evidence_accuracy"] = round(together[best], 5)
        return replace(chase, evidence_heads=best)


def search_chase(search: Search, start: Chase, reliabilities: Sequence[Reliability], *, lean: bool = False) -> Trial:
    """Strengths first, then everything that costs few passes, until nothing improves.

    Args:
        search: where trials go.
        start: its detector, heads and reliability are kept to begin with; every clip that can be steered is.
        reliabilities: estimates to choose from.
        lean: also move their priors. Fitted ones favour no direction, which the objective does not know to keep.
    """
    every = replace(start, conflict_threshold=0.0)
    grid = [
        replace(every, strength=strength, suppress=suppress)
        for strength, suppress in product(STRENGTHS, SUPPRESSIONS)
        if strength or suppress
    ]
    best = search.run("chase: strength", grid)
    return search.climb("chase: settings", best, chase_moves(reliabilities, lean=lean), rounds=2)


def chase_moves(reliabilities: Sequence[Reliability], *, lean: bool) -> list[Move]:
    """Conflict threshold, reliability, soft, leaning and strengths: the first ones need hardly any new pass."""

    def estimates(policy: Policy) -> Iterator[Policy]:
        return (with_step(policy, Chase, reliability=estimate) for estimate in reliabilities)

    leaning = [_leanings] if lean else []
    return [_thresholds, estimates, _softness, *leaning, _strengths, _thresholds]


def search_heads(search: Search, best: Trial, ranked: Sequence[Head]) -> Trial:
    """Shares of the ranked heads instead of all.

    Args:
        search: where trials go.
        best: holds the settings so far.
        ranked: (layer, head), the most useful first.
    """
    assert best.policy is not None
    counts = sorted({max(1, round(share * len(ranked))) for share in SHARES}, reverse=True)
    found = search.run("chase: heads", [with_step(best.policy, Chase, heads=tuple(ranked[:n])) for n in counts], best)
    return search.climb("chase: heads, settings", found, [_strengths, _thresholds], rounds=1)


def _thresholds(policy: Policy) -> Iterator[Policy]:
    return (with_step(policy, Chase, conflict_threshold=threshold) for threshold in CONFLICTS)


def _softness(policy: Policy) -> Iterator[Policy]:
    return (with_step(policy, Chase, soft=soft) for soft in (False, True))


def _strengths(policy: Policy) -> Iterator[Policy]:
    chase = step_of(policy, Chase)
    for name in ("suppress", "strength"):
        current = getattr(chase, name)
        for value in [factor * current for factor in FACTORS] if current else [FIRST]:
            yield with_step(policy, Chase, **{name: round(value, 3)})


def _leanings(policy: Policy) -> Iterator[Policy]:
    estimate = step_of(policy, Chase).reliability
    assert isinstance(estimate, Reliability)
    for shift in LEANINGS:
        moved = replace(
            estimate, audio_prior=estimate.audio_prior - shift / 2, visual_prior=estimate.visual_prior + shift / 2
        )
        yield with_step(policy, Chase, reliability=moved)
