"""Finds out about conflicts in a batch: from readings that are given, from extra passes, or from the pass itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mosear.backbones.labels import LabelTrie
from mosear.inference.prompts import Prompts
from mosear.inference.unimodal import unimodal_predictions
from mosear.roles import TokenRole
from mosear.steering.heads import HeadsReader, HeadsReading
from mosear.steering.policies.detection import NO_TARGET, Decision, Detection
from mosear.steering.policies.reliability import Readings

DIRECTIONS = {"audio": int(TokenRole.AUDIO), "visual": int(TokenRole.VISUAL), None: NO_TARGET}
NO_LABELS = (
    "The policy compares what the model reads from each modality, as distributions over candidate labels. Name them: "
    "steer(model, policy, labels=(...)); or hand readings in: `with session.given(readings=...):`."
)

Listener = Callable[[Decision, Readings], None]


class ConflictDetector:
    """Brings evidence to a policy that decides.

    Args:
        detection: what it needs.
        thinker: the model.
        language_model: its decoder.
        trie: the candidate labels; without them all readings must be given.
        layers: of the decoder.
        heads: per layer.
    """

    def __init__(
        self,
        detection: Detection,
        thinker: Any,
        language_model: nn.Module,
        trie: LabelTrie | None,
        layers: int,
        heads: int,
    ) -> None:
        self.detection, self.trie = detection, trie
        self.busy = False
        """True while extra passes run: they are not steered."""
        self._given: list[tuple[Readings | None, Tensor | None]] = []
        self._thinker, self._language_model = thinker, language_model
        self._heads: HeadsReader | None = None
        if trie is not None and detection.detector == "heads":
            self._heads = HeadsReader(thinker, language_model, trie, detection.evidence(layers, heads), heads)

    @property
    def known_behind(self) -> int:
        """The last layer that cannot know the decision."""
        return -1 if self._heads is None else self._heads.last_layer

    @contextmanager
    def given(
        self, readings: Mapping[str, Tensor] | None, directions: Sequence[str | None] | Tensor | None
    ) -> Iterator[None]:
        """See :meth:`SteeringSession.given`."""
        if readings is not None:
            self._check(readings)
        if directions is not None and not isinstance(directions, Tensor):
            if unknown := sorted({str(name) for name in directions if name not in DIRECTIONS}):
                raise ValueError(f"directions must be 'audio', 'visual' or None, not {', '.join(unknown)}.")
            directions = torch.tensor([DIRECTIONS[name] for name in directions])
        self._given.append((readings, directions))
        try:
            yield
        finally:
            self._given.pop()

    def _check(self, readings: Mapping[str, Tensor]) -> None:
        needed = self.detection.modalities
        if missing := [name for name in needed if name not in readings]:
            raise ValueError(f"readings lack {', '.join(missing)}; the reliability estimate needs {', '.join(needed)}.")
        shapes = {name: tuple(reading.shape) for name, reading in readings.items()}
        labels = None if self.trie is None else len(self.trie.labels)
        if len(set(shapes.values())) > 1 or any(len(s) != 2 or s[1] != (labels or s[1]) for s in shapes.values()):
            raise ValueError(
                f"readings must be distributions [B, {labels or 'C'}], all of one shape; these are {shapes}."
            )

    def about(self, prompts: Prompts, listener: Listener) -> tuple[Tensor | None, HeadsReading | None]:
        """Judge the prompts of a pass that is about to run.

        Args:
            prompts: of the pass.
            listener: told the decision and the readings behind it, now or during the pass.

        Returns:
            The policy's state, ``None`` if no clip is to be steered; and what must watch the pass, if anything.
        """
        if not prompts.carry_both():
            listener(Decision.none(len(prompts.roles), prompts.roles.device), {})
            return None, None
        readings, directions = self._given[-1] if self._given else (None, None)
        oracle = None if directions is None else _rows(directions, prompts, "directions")
        conclude = partial(self._conclude, prompts, oracle, listener)
        if readings is not None:
            return conclude({name: _rows(reading, prompts, "readings") for name, reading in readings.items()}), None
        if self._heads is not None:
            return None, self._heads.begin(prompts, conclude)
        if self.trie is None:
            raise ValueError(NO_LABELS)
        self.busy = True
        try:
            found = unimodal_predictions(
                self._thinker,
                self._language_model,
                prompts.without_answers(),
                self.trie,
                [name for name in self.detection.modalities if prompts.present(name).any()],
                keep_transcript=self.detection.readings == "with_transcript",
            )
        finally:
            self.busy = False
        return conclude(found), None

    def _conclude(
        self, prompts: Prompts, oracle: Tensor | None, listener: Listener, readings: dict[str, Tensor]
    ) -> Tensor | None:
        # Given readings may be about more than this pass shows.
        shown = {
            name: reading.masked_fill(~prompts.present(name)[:, None], float("nan")) if name != "text" else reading
            for name, reading in readings.items()
        }
        decision = self.detection.decide(shown, oracle)
        listener(decision, shown)
        return decision.bonus if bool((decision.bonus != 0).any()) else None


def _rows(given: Tensor, prompts: Prompts, name: str) -> Tensor:
    """On the pass's device, and as ``generate`` expands rows for beams."""
    batch = len(prompts.roles)
    if batch % len(given):
        raise ValueError(f"The {name} given to the session are about {len(given)} clips, but a pass reads {batch}.")
    given = given.to(prompts.roles.device)
    return given if len(given) == batch else given.repeat_interleave(batch // len(given), dim=0)
