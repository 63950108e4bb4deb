"""Tries steering policies on the same validation clips and chooses one; pure but for the function that answers.

Legend: N clips, C labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from mosear.steering.policies.base import Policy

FloatArray = npt.NDArray[np.float64]
Objective = Literal["mean", "conflict"]
CONSISTENT = "consistent"
CONFLICTS = ("video_aligned", "audio_aligned")
SURE = 1.96
"""Standard errors that a gain must exceed."""

Answers = Callable[[Policy], FloatArray]
"""Log-probabilities of the labels ``[N, C]`` under a policy."""


def check_subsets(subsets: Iterable[str], objective: Objective) -> None:
    """Are the subsets there that calibration needs?

    Raises:
        ValueError: naming what is missing.
    """
    found = sorted(set(subsets))
    has = ", ".join(found) or "no clips at all"
    if CONSISTENT not in found or len(found) < 2:
        raise ValueError(
            f"Calibration needs clips of subset {CONSISTENT!r}, which must lose nothing, and of at least one other "
            f"subset in which face and voice disagree (video_aligned, audio_aligned, ...); found: {has}."
        )
    if objective == "conflict" and (missing := [name for name in CONFLICTS if name not in found]):
        raise ValueError(
            f"objective=conflict averages {' and '.join(CONFLICTS)}, but no clip is {' or '.join(missing)}; found: "
            f"{has}. Add such clips, or use objective=mean."
        )


@dataclass(frozen=True)
class Trial:
    """One policy, scored.

    Attributes:
        stage: of the search in which it was first tried.
        policy: ``None`` = no steering.
        correct: bool ``[N]``.
        accuracy: per subset.
        objective: what is maximised.
        change: mean total variation distance between steered and unsteered label distributions, in [0, 1]: how strong
            the intervention is, whatever the policy.
    """

    stage: str
    policy: Policy | None
    correct: npt.NDArray[np.bool_]
    accuracy: Mapping[str, float]
    objective: float
    change: float


class Board:
    """Scores label distributions of fixed clips.

        mean       average of the accuracies of all subsets
        conflict   average of the accuracies on video_aligned and audio_aligned

    Args:
        subsets: ``[N]`` names.
        gold: ``[N]`` index of the right label.
        unsteered: ``[N, C]`` log-probabilities without steering.
        objective: what is maximised.

    Raises:
        ValueError: if the clips lack a subset that calibration needs.
    """

    def __init__(
        self, subsets: Sequence[str], gold: Sequence[int], unsteered: FloatArray, objective: Objective = "mean"
    ) -> None:
        self.subsets, self.gold = np.asarray(subsets), np.asarray(gold)
        self.counts = {
            str(name): int(count) for name, count in zip(*np.unique(subsets, return_counts=True), strict=True)
        }
        self.objective = objective
        check_subsets(subsets, objective)
        self.weighted = CONFLICTS if objective == "conflict" else tuple(self.counts)
        self._unsteered = _distribution(unsteered)
        self.unsteered = self.trial("unsteered", None, unsteered)

    def trial(self, stage: str, policy: Policy | None, log_probs: FloatArray) -> Trial:
        """Score ``log_probs [N, C]``."""
        distribution = _distribution(log_probs)
        change = float(np.abs(distribution - self._unsteered).sum(1).mean() / 2)
        return self.scored(stage, policy, log_probs.argmax(1) == self.gold, change)

    def scored(self, stage: str, policy: Policy | None, correct: npt.NDArray[np.bool_], change: float) -> Trial:
        """Score ``correct [N]``."""
        accuracy = {name: float(correct[self.subsets == name].mean()) for name in self.counts}
        objective = float(np.mean([accuracy[name] for name in self.weighted]))
        return Trial(stage, policy, correct, accuracy, objective, change)

    def loses_nothing(self, trial: Trial) -> bool:
        """On consistent clips, compared with no steering."""
        return trial.accuracy[CONSISTENT] >= self.unsteered.accuracy[CONSISTENT]

    def promise(self, trial: Trial) -> float:
        """What guides the search: the objective, less what consistent clips lose."""
        return trial.objective - max(0.0, self.unsteered.accuracy[CONSISTENT] - trial.accuracy[CONSISTENT])

    def lead(self, first: Trial, second: Trial) -> tuple[FloatArray, FloatArray, float]:
        """How far the first is ahead in each subset of the objective, with standard errors, paired by clip.

            d_i = [first right on i] - [second right on i]
            SE_s^2 = var_s(d) / n_s  in subset s,      SE^2 = 1/S^2 sum_s SE_s^2  of the objective (S subsets)

        Returns:
            ``[S]`` leads, ``[S]`` errors of these, and the error of their mean.
        """
        difference = first.correct.astype(float) - second.correct.astype(float)
        parts = [difference[self.subsets == name] for name in self.weighted]
        errors = np.array([part.std() / math.sqrt(len(part)) for part in parts])
        return np.array([part.mean() for part in parts]), errors, math.sqrt(float((errors**2).sum())) / len(parts)

    def as_good(self, trial: Trial, best: Trial) -> bool:
        """Is the trial within one standard error of the best one, in the objective and in each subset of it?

        In each subset, so that two subsets that are traded against each other do not pass for a draw.
        """
        lost, errors, overall = self.lead(best, trial)
        return float(lost.mean()) <= overall and bool((lost <= errors).all())

    def proven(self, trial: Trial) -> bool:
        """Does the trial gain more than chance would give: is the 95 % interval of its gain above 0?"""
        gains, _, overall = self.lead(trial, self.unsteered)
        return float(gains.mean()) > SURE * overall

    def choose(self, trials: Iterable[Trial]) -> Trial:
        """The weakest of those that are as good as the best, as far as these clips can tell.

        Trials that lose consistent clips, or whose gain is not :meth:`proven`, are out; no steering is always in. The
        best of the rest is the one with the largest objective; of those that are :meth:`as_good`, the one with the
        least ``change`` wins.
        """
        allowed = [
            self.unsteered,
            *(trial for trial in trials if self.loses_nothing(trial) and self.proven(trial)),
        ]
        best = max(allowed, key=lambda trial: (trial.objective, -trial.change))
        return min(
            (trial for trial in allowed if trial is best or self.as_good(trial, best)),
            key=lambda trial: (trial.change, -trial.objective),
        )


@dataclass
class Search:
    """Remembers what was tried.

    Attributes:
        board: scores.
        answers: runs the model.
        limit: at most so many policies; further ones are passed over. ``None`` = no limit.
        track: shows progress over what is tried: called with the policies, and what they have in common.
        trials: all so far, in order.
    """

    board: Board
    answers: Answers
    limit: int | None = None
    track: Callable[[Sequence[Policy], str], Iterable[Policy]] = lambda policies, _: policies
    trials: list[Trial] = field(default_factory=list)
    _tried: dict[Policy, Trial] = field(default_factory=dict)

    def run(self, stage: str, policies: Iterable[Policy], start: Trial | None = None) -> Trial:
        """Try policies that were not tried yet; the most promising of them all and ``start``."""
        given = list(dict.fromkeys(policies))
        fresh = [policy for policy in given if policy not in self._tried]
        if self.limit is not None:
            fresh = fresh[: max(0, self.limit - len(self.trials))]
        for policy in self.track(fresh, stage) if fresh else ():
            trial = self.board.trial(stage, policy, self.answers(policy))
            self.trials.append(trial)
            self._tried[policy] = trial
        known = [self._tried[policy] for policy in given if policy in self._tried]
        known += [start] if start is not None else []
        return max(known or [self.board.unsteered], key=lambda trial: (self.board.promise(trial), -trial.change))

    def climb(
        self, stage: str, start: Trial, moves: Sequence[Callable[[Policy], Iterable[Policy]]], rounds: int = 3
    ) -> Trial:
        """From ``start``, apply one kind of move after the other, keeping the best, until a round changes nothing."""
        best = start
        for number in range(rounds):
            before = best
            for move in moves:
                if best.policy is not None:
                    best = self.run(f"{stage}, round {number + 1}", move(best.policy), best)
            if best is before:
                break
        return best


def _distribution(log_probs: FloatArray) -> FloatArray:
    shifted = np.exp(log_probs - log_probs.max(1, keepdims=True))
    normalised: FloatArray = shifted / shifted.sum(1, keepdims=True)
    return normalised
