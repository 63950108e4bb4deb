"""Which modality to believe when two of them disagree, judged by what the model reads from each alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from mosear.inference.distributions import log_odds, log_of
from mosear.inference.unimodal import UnimodalPredictions as Readings
from mosear.settings import NotNegative, Positive, settings


@runtime_checkable
class ReliabilityEstimate(Protocol):
    """What CHASE asks. Any object with these three members will do, from a formula to a fitted model."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Readings that it needs, of ``audio``, ``visual`` and ``text``; each may cost a pass."""

    def calibrated(self, readings: Readings) -> dict[str, Tensor]:
        """The readings with honest confidence: what the conflict is measured on. NaN rows stay NaN."""

    def scores(self, readings: Readings) -> Tensor:
        """``[B, 2]``, for audio and video, from *calibrated* readings: the larger one is believed.

        Differences count as log-odds. NaN where a modality is absent.
        """


@settings
@dataclass(frozen=True)
class Reliability:
    """Confidence after temperature calibration, a prior per modality, and agreement with the transcript.

        P_m      = softmax(log p_m / T_m)                                               calibrated reading
        score_m  = confidence(P_m) + prior_m + lambda log sum_c P_m(c) P_T(c)
        confidence = log P_max - log(1 - P_max)        (log_odds)
                   = 1 - H(P) / log C                  (entropy)

    The last term, with the transcript's reading P_T, is left out for clips without a transcript.

    Our reading: the published text asks for the more reliable modality and gives no formula. All parameters come from
    calibration on a validation split.

    Attributes:
        confidence: see above.
        audio_temperature: T of the voice; above 1 it is trusted less than it says.
        visual_temperature: T of the face.
        text_temperature: T of the transcript.
        audio_prior: added to the voice's score.
        visual_prior: added to the face's score.
        transcript_weight: lambda; 0 asks for no reading of the transcript, which saves a pass.
    """

    confidence: Literal["log_odds", "entropy"] = "log_odds"
    audio_temperature: Positive = 1.0
    visual_temperature: Positive = 1.0
    text_temperature: Positive = 1.0
    audio_prior: float = 0.0
    visual_prior: float = 0.0
    transcript_weight: NotNegative = 0.0

    @property
    def modalities(self) -> tuple[str, ...]:
        """The transcript is read only if it counts."""
        return ("audio", "visual", "text") if self.transcript_weight else ("audio", "visual")

    def calibrated(self, readings: Readings) -> dict[str, Tensor]:
        """``softmax(log p / T)`` per modality."""
        return {
            name: (log_of(reading) / getattr(self, f"{name}_temperature")).softmax(-1)
            for name, reading in readings.items()
        }

    def scores(self, readings: Readings) -> Tensor:
        """See the class; ``readings`` are calibrated."""
        found = []
        for name in ("audio", "visual"):
            score = self._confidence(readings[name]) + getattr(self, f"{name}_prior")
            if self.transcript_weight and "text" in readings:
                agreement = log_of((readings[name] * readings["text"]).sum(-1))
                # NaN here, but not in the score: a clip without a transcript.
                score = score + self.transcript_weight * agreement.nan_to_num(nan=0.0)
            found.append(score)
        return torch.stack(found, dim=-1)

    def _confidence(self, reading: Tensor) -> Tensor:
        logs = log_of(reading)
        if self.confidence == "entropy":
            return 1 + (logs.exp() * logs).sum(-1) / math.log(reading.shape[-1])
        return log_odds(logs)
