"""CHASE: detect a conflict between face and voice, then steer attention to the more reliable one, per head.

After Sun et al., Findings of ACL 2026, arXiv:2605.01024; no weight is changed. The formulas are our reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Interval, MinLen
from torch import Tensor

from mosear.inference.distributions import jensen_shannon
from mosear.roles import TokenRole
from mosear.settings import NotNegative, settings
from mosear.steering.policies.base import AttentionView, Edit, Policy, outside
from mosear.steering.policies.detection import NO_TARGET, Decision, Detection
from mosear.steering.policies.reliability import Readings, Reliability, ReliabilityEstimate

Pairs = Annotated[Sequence[tuple[int, int]], MinLen(1), "[layer, head] pairs; null means the default"]


@settings
@dataclass(frozen=True)
class Chase(Policy):
    """Adds to the attention logits of the believed modality's tokens where face and voice disagree.

    With ``P_A`` and ``P_V`` the (calibrated) label distributions read from voice and face alone, ::

        c = JS(P_A, P_V) in bits                            nothing happens if c < conflict_threshold, or to a clip
                                                            without both modalities
        target = argmax over {A, V} of score                see Reliability
        p'_j = p_j exp(+beta c s) / Z                       tokens of the target       (beta = strength)
        p'_j = p_j exp(-gamma c s) / Z                      tokens of the other one    (gamma = suppress)
        p'_j = p_j / Z                                      all other tokens;          Z makes the row's sum what it was
        s = 1, or with soft: tanh(|score_A - score_V| / 2)

    in the given heads. Multiplying probabilities equals adding to logits. ``s`` is the difference between the two
    probabilities that scores, taken as log-odds, give the modalities: near 0 when the direction is a guess.

    Detectors. ``masked`` reads each modality in an extra pass over the prompt in which the others are hidden.
    ``heads`` needs no extra pass: it sends what the last prompt token collects from each modality's tokens, in
    ``evidence_heads``, through the unembedding, and acts in the layers behind them. It is approximate: see
    :class:`mosear.steering.heads.HeadsReader`.

    Attributes:
        detector: see above.
        conflict_threshold: in [0, 1]; 0 steers every clip with both modalities.
        strength: beta, not negative. Around 10, little attention is left for anything but the target.
        suppress: gamma, not negative. Raising one modality alone cannot help heads that hardly see it.
        soft: scale the strength with the margin of reliability.
        heads: (layer, head) pairs to act in, from calibration; ``None`` means all.
        target: ``reliable``; ``audio`` or ``visual`` forces one; ``oracle`` takes the true direction, which the
            session is given (a control: it shows the ceiling).
        readings: what the masked detector shows beside a modality: nothing (``alone``), or the clip's transcript, which
            then counts as evidence in both readings (``with_transcript``).
        reliability: judges the readings.
        evidence_heads: (layer, head) pairs that the heads detector reads; ``None`` means all of the first half of the
            layers.
    """

    key: ClassVar[str] = "chase"
    needs_both: ClassVar[bool] = True

    detector: Literal["masked", "heads"] = "masked"
    conflict_threshold: Annotated[float, Interval(ge=0, le=1)] = 0.1
    strength: NotNegative = 4.0
    suppress: NotNegative = 0.0
    soft: bool = False
    heads: Pairs | None = None
    target: Literal["reliable", "audio", "visual", "oracle"] = "reliable"
    readings: Literal["alone", "with_transcript"] = "alone"
    reliability: Annotated[Reliability | ReliabilityEstimate, "it must have modalities, calibrated() and scores()"] = (
        field(default_factory=Reliability)
    )
    evidence_heads: Pairs | None = None

    # -- what fits a model ------------------------------------------------------------------------------------------

    def problems(self, layers: int, heads: int) -> list[str]:
        """Heads that the decoder does not have, and evidence behind which no head is left to steer."""
        found = []
        for name in ("heads", "evidence_heads"):
            pairs = getattr(self, name) or ()
            found += outside(f"Chase.{name}", [layer for layer, _ in pairs], layers, "layer")
            found += outside(f"Chase.{name}", [head for _, head in pairs], heads, "head")
        if not found and self.detector == "heads":
            evidence = self.evidence(layers, heads)
            first = 1 + max(layer for layer, _ in evidence)
            steered = [layer for layer, _ in self.heads] if self.heads is not None else list(range(layers))
            early = sorted({layer for layer in steered if layer < first}) if self.heads is not None else []
            if early:
                found.append(
                    f"Chase.heads: detector=heads has read its evidence after layer {first - 1}, too late for layers "
                    f"{', '.join(map(str, early))}; name later heads, or earlier evidence_heads"
                )
            elif not any(layer >= first for layer in steered):
                found.append(f"Chase.evidence_heads: no layer is left to steer behind layer {first - 1}, the last one")
        return found

    def evidence(self, layers: int, heads: int) -> tuple[tuple[int, int], ...]:
        """Heads that the heads detector reads."""
        if self.evidence_heads is not None:
            return tuple(self.evidence_heads)
        return tuple((layer, head) for layer in range(max(1, layers // 2)) for head in range(heads))

    @property
    def detection(self) -> Detection:
        """Its own settings of the detector, and :meth:`decide`."""
        return Detection(
            decide=self.decide,
            silent=Chase(detector=self.detector, strength=0.0, evidence_heads=self.evidence_heads),
            modalities=self.reliability.modalities,
            detector=self.detector,
            readings=self.readings,
            directions=self.target == "oracle",
            evidence=self.evidence,
        )

    def once_decided(self) -> Chase:
        """The heads that act, and how late the decision comes."""
        return Chase(detector=self.detector, heads=self.heads, evidence_heads=self.evidence_heads)

    def as_json(self) -> dict[str, Any]:
        """With a :class:`Reliability`; JSON holds no other estimate."""
        if type(self.reliability) is not Reliability:
            raise ValueError(f"its reliability is a {type(self.reliability).__name__}, not a Reliability")
        return super().as_json()

    def acts_in(self, layer: int) -> bool:
        """Layers of ``heads``."""
        return self.heads is None or any(own == layer for own, _ in self.heads)

    def idle(self, state: Tensor | None) -> bool:
        """Without a decision in favour of anybody."""
        return state is None

    # -- what it decides --------------------------------------------------------------------------------------------

    def decide(self, readings: Readings, oracle: Tensor | None = None) -> Decision:
        """Conflict, direction and strength per clip.

        Args:
            readings: as the model gives them, not calibrated.
            oracle: int64 ``[B]`` :class:`TokenRole` of the true modality, -1 where there is none (such a clip is left
                alone); for ``target='oracle'``.
        """
        calibrated = self.reliability.calibrated(readings)
        conflict = jensen_shannon(calibrated["audio"], calibrated["visual"])
        scores = self.reliability.scores(calibrated)
        target = self._direction(scores, oracle)
        active = (conflict >= self.conflict_threshold) & (target != NO_TARGET)  # NaN is not
        target = torch.where(active, target, NO_TARGET)
        size = torch.where(active, conflict, 0.0)
        if self.soft and self.target == "reliable":
            size = size * torch.tanh((scores[:, 0] - scores[:, 1]).abs().nan_to_num() / 2)
        chosen = torch.stack([target == int(TokenRole.AUDIO), target == int(TokenRole.VISUAL)], dim=-1)
        bonus = size[:, None] * torch.where(chosen, self.strength, -self.suppress)
        return Decision(conflict, scores, target, bonus)

    def _direction(self, scores: Tensor, oracle: Tensor | None) -> Tensor:
        audio = torch.full_like(scores[:, 0], int(TokenRole.AUDIO), dtype=torch.long)
        visual = torch.full_like(audio, int(TokenRole.VISUAL))
        if self.target == "oracle":
            if oracle is None:
                raise ValueError(
                    "Chase(target='oracle') needs the true directions: run the batch inside "
                    "`with session.given(directions=[...]):`."
                )
            return oracle.to(audio)
        if self.target != "reliable":
            return audio if self.target == "audio" else visual
        return torch.where(scores[:, 0] > scores[:, 1], audio, visual)  # a tie goes to the face, as in late fusion

    # -- what it does -----------------------------------------------------------------------------------------------

    def apply(self, probabilities: Tensor, view: AttentionView) -> Edit:
        """``view.state`` is the decision's bonus ``[B, 2]``; without one nothing changes."""
        if view.state is None:
            return probabilities, torch.zeros_like(view.mass[..., 0], dtype=torch.bool)
        logits = torch.cat([view.state, torch.zeros_like(view.state[:, :1])], dim=-1)
        weights = (logits - logits.amax(-1, keepdim=True)).exp()[:, None, None]
        before = view.mass.sum(-1)
        after = (view.mass * weights).sum(-1)
        # Where all attention lies on what is pushed down by more than a float can say, there is nothing to renormalise.
        active = (view.state != 0).any(-1)[:, None, None] & (after > torch.finfo(after.dtype).tiny)
        if self.heads is not None:
            own = tuple(head for layer, head in self.heads if layer == view.layer)
            active = active & head_mask(own, probabilities.shape[1], probabilities.device)[:, None]
        factors = weights * (before / torch.where(active, after, 1.0))[..., None]
        return view.scaled(probabilities, torch.where(active[..., None], factors, 1.0)), active


@lru_cache(maxsize=1024)
def head_mask(chosen: tuple[int, ...], heads: int, device: torch.device) -> Tensor:
    """bool ``[heads]``, True on ``chosen``. Kept, since to copy it to a device anew in every pass would stall it."""
    return torch.tensor([head in chosen for head in range(heads)], device=device)
