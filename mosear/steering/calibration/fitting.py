"""Fits a reliability estimate to clips of which it is known whether face or voice is right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mosear.inference.distributions import SMALLEST, log_odds
from mosear.roles import TokenRole
from mosear.steering.policies.reliability import Readings, Reliability

RIDGE = 0.01
"""Pulls the parameters to the defaults. Small beside the mean loss, which starts near log 2: it decides only what the
clips leave open, such as the temperature of readings that are always right."""

ITERATIONS = 200


def fit_reliability(
    readings: Readings, directions: Tensor, *, transcript: bool = False, ridge: float = RIDGE
) -> Reliability:
    """Temperatures, prior and transcript weight with which the right modality scores higher.

        minimise    sum_i w_i log(1 + exp(-y_i (score_V,i - score_A,i))) + ridge / 2 |theta|^2
        theta    =  (log T_A, log T_V, prior_V - prior_A, lambda)         y_i = +1 if the face is right, -1 the voice

    Both directions have the same total weight, 1/2, however many clips they have. Score differences become log-odds of
    the direction, which is what ``Chase(soft=True)`` takes them for. lambda is not negative, and stays 0 without
    ``transcript``; clips without a transcript then say nothing about it. The prior is split evenly between the
    modalities, and the temperature of the transcript, which acts like a factor on lambda, stays 1.

    Args:
        readings: ``[N, C]`` per modality, as the model gives them; NaN rows where absent.
        directions: int64 ``[N]`` :class:`TokenRole` of the modality that is right, -1 where that is unknown.
        transcript: fit lambda, too.
        ridge: see above.

    Raises:
        ValueError: if a direction has no clip.
    """
    right = usable(readings, directions)
    chosen = {name: reading[right].double().cpu() for name, reading in readings.items()}
    visual = (directions[right] == int(TokenRole.VISUAL)).cpu()
    counts = torch.stack([(~visual).sum(), visual.sum()])
    if not bool(counts.all()):
        raise ValueError(
            f"Of the clips with a known direction, {int(counts[0])} follow the voice and {int(counts[1])} the face: "
            "fitting a reliability estimate needs both kinds. Add clips with modality_labels."
        )
    weights = (0.5 / counts.double())[visual.long()]
    theta = _minimise(chosen, visual, weights, ridge, with_transcript=transcript)
    if transcript and theta[3] <= 0:
        theta = _minimise(chosen, visual, weights, ridge, with_transcript=False)
    audio, face, prior, weight = theta.tolist()
    return Reliability(
        audio_temperature=math.exp(audio),
        visual_temperature=math.exp(face),
        audio_prior=-prior / 2,
        visual_prior=prior / 2,
        transcript_weight=weight,
    )


def usable(readings: Readings, directions: Tensor) -> Tensor:
    """bool ``[N]``: the direction is known, and both modalities were read."""
    read = torch.stack([~readings[name].isnan().any(-1) for name in ("audio", "visual")]).all(0)
    return read & (directions >= 0).to(read.device)


def direction_accuracy(
    reliability: Reliability, readings: Readings, directions: Tensor, subsets: Sequence[str]
) -> dict[str, float]:
    """Per subset, how often the more reliable modality is the right one, among clips with a known direction."""
    scores = reliability.scores(reliability.calibrated(readings))
    audio = scores[:, 0] > scores[:, 1]
    hits = audio == (directions == int(TokenRole.AUDIO)).to(audio.device)
    known = usable(readings, directions).tolist()
    found: dict[str, list[bool]] = {}
    for subset, counts, hit in zip(subsets, known, hits.tolist(), strict=True):
        if counts:
            found.setdefault(subset, []).append(hit)
    return {subset: sum(own) / len(own) for subset, own in sorted(found.items())}


def _minimise(
    readings: dict[str, Tensor], visual: Tensor, weights: Tensor, ridge: float, *, with_transcript: bool
) -> Tensor:
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    free = torch.tensor([1.0, 1.0, 1.0, float(with_transcript)], dtype=torch.float64)
    sign = torch.where(visual, 1.0, -1.0).double()
    # A uniform reading agrees equally with both: it stands for a missing transcript, where NaN would poison gradients.
    logs = {
        name: reading.nan_to_num(nan=1 / reading.shape[-1]).clamp(min=SMALLEST).log()
        for name, reading in readings.items()
    }

    def loss() -> Tensor:
        audio, face, prior, weight = theta * free
        calibrated = {"audio": logs["audio"] / audio.exp(), "visual": logs["visual"] / face.exp()}
        scores = {name: value.log_softmax(-1) for name, value in calibrated.items()}
        difference = log_odds(scores["visual"]) - log_odds(scores["audio"]) + prior
        if with_transcript:
            agreement = [(scores[name] + logs["text"]).logsumexp(-1) for name in ("visual", "audio")]
            difference = difference + weight * (agreement[0] - agreement[1])
        return (weights * F.softplus(-sign * difference)).sum() + ridge / 2 * (theta * free).square().sum()

    optimiser = torch.optim.LBFGS(
        [theta], max_iter=ITERATIONS, tolerance_grad=1e-9, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return float(value.detach())

    with torch.enable_grad():
        optimiser.step(closure)
    return (theta * free).detach()
