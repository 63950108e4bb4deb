"""What a completion is worth: plain functions with TRL's signature, ``reward(completions, **columns)``.

A reward takes the texts of N completions, and by keyword the columns of :data:`COLUMNS`, lists of N each. It returns N
numbers, ``None`` where it does not apply. A completion's reward is the weighted sum of those that apply.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mosear.evaluation.metrics.wheel import Level, wheel_scores
from mosear.evaluation.metrics.wheel_tables import read_wheels
from mosear.inference.parsing import parse_list, rlvr_answer
from mosear.problems import ABSENT, ConfigError, Problem

log = logging.getLogger(__name__)

Reward: TypeAlias = Callable[..., Sequence[float | None]]
Columns: TypeAlias = Mapping[str, Sequence[Any]]

OF_CLIPS = ("id", "label", "labels", "score", "text", "reason")
COLUMNS = ("prompts", "completion_ids", "parsed", *OF_CLIPS, "cues", "modality_labels")
"""Of each completion: the question and its transcript, the tokens with the end token, the label that is read in it
(``None`` = unparsed), and what the manifest says about its clip; cues and labels of single modalities are mappings with
keys ``video``, ``audio`` and ``text``."""

SHOWN = 200
"""Characters of a completion in a message."""


class RewardError(ConfigError):
    """A reward that fails, or gives something else than a number or ``None``."""


# -- rewards -----------------------------------------------------------------------------------------------------------


def format_reward(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """1 where the whole completion is ``<think>..</think> <answer>..</answer>``, each tag once, over any lines."""
    return [float(rlvr_answer(text) is not None) for text in completions]


def accuracy_reward(
    completions: Sequence[str], *, label: Sequence[str | None], parsed: Sequence[str | None], **columns: Any
) -> list[float | None]:
    """1 where the label that is read in the completion is the clip's; unparsed completions get 0.

    Case, width, punctuation and ``data.prompt.synonyms`` do not matter, as in evaluation. Clips without a label: none.
    """
    return [None if gold is None else float(found == gold) for gold, found in zip(label, parsed, strict=True)]


def length_reward(
    completions: Sequence[str], *, completion_ids: Sequence[Sequence[int]], limit: int, buffer: int, **columns: Any
) -> list[float | None]:
    """DAPO's soft penalty of long completions (arXiv:2503.14476, equation 13).

    0 up to ``limit - buffer`` tokens,  (limit - buffer - tokens) / buffer up to ``limit``,  -1 beyond
    """
    if not 0 < buffer <= limit:
        raise ValueError(f"buffer={buffer} must lie in (0, limit={limit}]")
    return [max(-1.0, min(0.0, (limit - buffer - len(ids)) / buffer)) for ids in completion_ids]


class WheelReward:
    """F1 of emotion words by emotion wheels, for open vocabularies: the mean over wheels that know the clip's words.

    Words are read from the text inside ``<answer>`` (else from all of it) as a list; gold are the clip's ``labels``,
    else its ``label``. A clip whose words are on no wheel has none.

    Args:
        tables: directory or JSON file of the wheels, see :mod:`mosear.evaluation.metrics.wheel_tables`.
        version: what to call them.
        level: inner ("level1") or middle ("level2") ring.
    """

    def __init__(self, tables: str, version: str = "unnamed", level: Level = "level1") -> None:
        self.tables, self.level = read_wheels(tables, version=version), level

    def __call__(
        self,
        completions: Sequence[str],
        *,
        label: Sequence[str | None],
        labels: Sequence[Sequence[str]],
        **columns: Any,
    ) -> list[float | None]:
        """One reward per completion."""
        return [
            self._score(text, list(several) or ([one] if one else []))
            for text, one, several in zip(completions, label, labels, strict=True)
        ]

    def _score(self, text: str, gold: list[str]) -> float | None:
        answer = rlvr_answer(text)
        words = parse_list(text if answer is None else answer)
        found = wheel_scores([gold], [words], self.tables, level=self.level)["per_wheel"].values()
        known = [scores["f1"] for scores in found if scores["n"]]
        return sum(known) / len(known) if known else None


# -- all of them -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """What N completions are worth.

    Attributes:
        total: float32 ``[N]``; NaN where no reward applies.
        by_name: float32 ``[N]`` of each reward; NaN where it does not apply.
    """

    total: Tensor
    by_name: Mapping[str, Tensor]


class Rewards:
    """Calls all rewards and adds them up.

    Args:
        functions: by name; ``None`` = left out.
        weights: by name, 1 where none is given.
    """

    def __init__(self, functions: Mapping[str, Reward | None], weights: Mapping[str, float]) -> None:
        self.functions = {name: function for name, function in functions.items() if function is not None}
        self.weights = {name: float(weights.get(name, 1.0)) for name in self.functions}

    def __call__(self, completions: Sequence[str], columns: Columns) -> Scored:
        """The rewards of N completions."""
        by_name = {
            name: torch.tensor([math.nan if r is None else r for r in self._called(name, completions, columns)])
            for name in self.functions
        }
        parts = torch.stack([self.weights[name] * values for name, values in by_name.items()])
        return Scored(parts.nansum(0).masked_fill(parts.isnan().all(0), math.nan), by_name)

    def _called(self, name: str, completions: Sequence[str], columns: Columns) -> list[float | None]:
        function = self.functions[name]
        try:
            given: list[Any] = list(function(completions=list(completions), **columns))
        except Exception as error:
            index = self._culprit(function, completions, columns)
            log.exception("The reward %r failed.", name)
            raise RewardError([_failed(name, completions, columns, index, error)]) from error
        if len(given) != len(completions):
            message = f"It gave {len(given)} rewards for {len(completions)} completions."
            raise RewardError([Problem(_key(name), given, message, "Return one number or None per completion.")])
        for index, value in enumerate(given):
            if value is not None and not (isinstance(value, Real) and math.isfinite(value)):
                message = f"It gave this for {_where(completions, columns, index)}."
                remedy = "Return finite numbers, and None where the reward does not apply."
                raise RewardError([Problem(_key(name), value, message, remedy)])
        return [None if value is None else float(value) for value in given]

    @staticmethod
    def _culprit(function: Reward, completions: Sequence[str], columns: Columns) -> int | None:
        """The first completion on which a reward fails alone; ``None`` if it fails on all of them together only."""
        for index, text in enumerate(completions):
            try:
                function(completions=[text], **{name: [values[index]] for name, values in columns.items()})
            except Exception:
                return index
        return None


def reward_problems(functions: Mapping[str, Any], weights: Mapping[str, Any]) -> Iterator[str]:
    """Rewards that cannot be called, and weights of none."""
    named = {name: function for name, function in functions.items() if function is not None}
    if not named:
        yield "rewards={} must name at least one reward"
    for name, function in named.items():
        if not callable(function):
            yield (
                f"rewards.{name}={function!r} must be a function: give rewards.{name}._target_=package.module.function "
                "and _partial_=true"
            )
        elif complaint := _complaint(function):
            yield (
                f"rewards.{name}={_name(function)} cannot be called as reward(completions, **columns): {complaint}; "
                f"the columns are {', '.join(COLUMNS)}, so take **columns, and give its own settings beside _target_"
            )
    if unknown := sorted(set(weights) - set(functions)):  # a reward that is left out may keep its weight
        yield f"weights name {', '.join(unknown)}, but the rewards are {', '.join(named)}"


def _complaint(function: Any) -> str | None:
    if isinstance(function, partial):  # **columns would swallow a setting that is misspelt
        unknown = sorted(set(function.keywords) - set(inspect.signature(function.func).parameters))
        if unknown:
            return f"it has no setting {', '.join(unknown)}"
    try:
        inspect.signature(function).bind(completions=[], **{name: [] for name in COLUMNS})
    except TypeError as error:
        return str(error)
    except ValueError:  # some functions written in C publish no signature
        return None
    return None


def _name(function: Any) -> str:
    return getattr(getattr(function, "func", function), "__qualname__", type(function).__name__)


def _key(name: str) -> str:
    return f"method.rewards.{name}"


def _failed(name: str, completions: Sequence[str], columns: Columns, index: int | None, error: Exception) -> Problem:
    where = f"all {len(completions)} completions together" if index is None else _where(completions, columns, index)
    message = f"It raised {type(error).__name__}: {error} - on {where}."
    return Problem(_key(name), ABSENT, message, "Mend the function; the log has the whole traceback.")


def _where(completions: Sequence[str], columns: Columns, index: int) -> str:
    text = completions[index]
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    ids: Iterable[Any] = columns.get("id", ())
    clip = list(ids)[index] if "id" in columns else "unknown"
    return f"completion {index} (of clip {clip!r}): {shown!r}"
