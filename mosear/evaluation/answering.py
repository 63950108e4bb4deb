"""How the model is made to answer in evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mosear.evaluation.contribution import Contribution
from mosear.settings import AtLeastOne, settings


@settings
@dataclass(frozen=True)
class Answering:
    """How the model answers in evaluation.

    Attributes:
        method: ``score`` compares the candidate labels' log-probabilities; ``generate`` decodes greedily and parses the
            text.
        max_new_tokens: for ``generate``.
        readings: also ask for what each modality says alone (three more passes; the late-fusion controls need them).
        contribution: also measure how much each modality contributes. It reads label scores, whatever ``method`` is.
    """

    method: Literal["score", "generate"] = "score"
    max_new_tokens: AtLeastOne = 16
    readings: bool = True
    contribution: Contribution = field(default_factory=Contribution)
