"""The arithmetic of conflict mixing: what to aim at, how far away the model is, and how much each sample counts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mosear.methods.processes import mean_over_processes, total

FLOOR = 1e-4
"""Least agreement with a transcript, so that one sure reading of a text cannot outweigh everything."""


@dataclass(frozen=True)
class Scale:
    """What is usual for one modality: ``strength = (log odds - mean) / std``."""

    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of(cls, odds: Tensor) -> Scale:
        """Fitted to the log-odds ``[N]`` of calibration clips."""
        assert len(odds) > 1, "a spread takes two clips"
        return cls(float(odds.mean()), max(float(odds.std()), 1e-3))

    def __call__(self, odds: Tensor) -> Tensor:
        """Strengths that two modalities can be compared in."""
        return (odds - self.mean) / self.std


def agreement(evidence: Tensor, p_text: Tensor) -> Tensor:
    """``log sum over labels of evidence * p_text``: ``[B]`` from two ``[B, C]`` distributions.

    NaN rows of ``p_text`` (no transcript) give 0 for every evidence: they favour neither source.
    """
    return (evidence * p_text).sum(-1).clamp(min=FLOOR).log().nan_to_num(0.0)


def visual_weight(visual: Tensor, audio: Tensor, sharpness: float, support: Tensor | float = 0.0) -> Tensor:
    """Weight of the face's evidence.

        w = sigmoid(sharpness * (s_V - s_A) + support)

    Args:
        visual: ``[B]`` strengths of the faces.
        audio: ``[B]`` strengths of the voices.
        sharpness: 0 averages, large values pick the stronger.
        support: log-odds for the face from elsewhere, ``[B]`` or one for all: the transcript, a prior.

    Returns:
        ``[B]`` in (0, 1).
    """
    return torch.sigmoid(sharpness * (visual - audio) + support)


def pooled_target(p_visual: Tensor, p_audio: Tensor, w: Tensor) -> Tensor:
    """``q = w p_V + (1 - w) p_A``: ``[B, C]`` from what face and voice say, ``[B, C]`` each, and ``w [B]``."""
    return w[:, None] * p_visual + (1 - w[:, None]) * p_audio


def mixing_divergence(log_p: Tensor, target: Tensor) -> Tensor:
    """``KL(q || p) = sum over labels of q (log q - log p)``: ``[B]`` from ``log_p, q [B, C]``."""
    return F.kl_div(log_p, target, reduction="none").sum(-1)


def visual_share(p: Tensor, p_visual: Tensor, p_audio: Tensor, *, counted: bool = True) -> Tensor:
    """How much of ``p`` follows the face: the ``s`` in [0, 1] with ``p`` nearest to ``s p_V + (1 - s) p_A``.

        s = sum_b <p_b - p_Ab, p_Vb - p_Ab> / sum_b |p_Vb - p_Ab|^2

    One number for the global batch, so that clips on which the readings agree do not count.

    Args:
        p: ``[B, C]``.
        p_visual: ``[B, C]``.
        p_audio: ``[B, C]``.
        counted: False if this process's clips do not count.
    """
    difference = (p_visual - p_audio) * float(counted)
    along, square = total(torch.stack([((p - p_audio) * difference).sum(), difference.square().sum()]))
    return (along / square.clamp(min=1e-12)).clamp(0, 1)


def sample_weights(
    student: Tensor,
    target: Tensor,
    p_visual: Tensor,
    p_audio: Tensor,
    w: Tensor,
    *,
    weak_modality: float = 0.0,
    hard_sample: float = 0.0,
    counted: bool = True,
) -> Tensor:
    """Weights of MIDAS' two extras, with mean 1 (all 1 when both are off).

        m_b ~ (1 + weak_modality r_b) (1 + hard_sample h_b)

    Our reading, not the paper's formulas (MIDAS raises the weight of the least confident modality, and measures
    hardness by the similarity of misaligned to aligned features, which a decoder does not offer as one vector):

    * r_b, the reliability of the modality that the model under-uses: ``w_b`` if the student's :func:`visual_share` over
      the batch is below the target's, else ``1 - w_b``. Clips on which the neglected modality is right count more.
    * h_b, the student's total variation distance from the target, ``sum over labels of |p - q| / 2``, in [0, 1].

    Args:
        student: ``[B, C]`` without gradients.
        target: ``[B, C]``.
        p_visual: ``[B, C]``.
        p_audio: ``[B, C]``.
        w: ``[B]`` of :func:`visual_weight`.
        weak_modality: strength of the first factor.
        hard_sample: strength of the second.
        counted: False if this process's clips do not count.
    """
    if not weak_modality and not hard_sample:
        return torch.ones_like(w)
    shares = [visual_share(p, p_visual, p_audio, counted=counted) for p in (student, target)]
    visual_is_weak = shares[0] < shares[1]
    reliability_of_weak = torch.where(visual_is_weak, w, 1 - w)
    hardness = (student - target).abs().sum(-1) / 2
    weights = (1 + weak_modality * reliability_of_weak) * (1 + hard_sample * hardness)
    return weights / mean_over_processes(weights, counted=counted)
