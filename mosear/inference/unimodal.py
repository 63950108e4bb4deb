"""What a model reads from each modality alone: passes over whole prompts in which the others are hidden.

Hiding follows one rule everywhere: positions are those of the whole prompt, hidden keys are invisible through the
attention mask, and a gate that pools tokens does not see them either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mosear.backbones.labels import LabelTrie
from mosear.inference.prompts import Prompts
from mosear.inference.scoring import label_pass
from mosear.roles import SHOWN

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch

UnimodalPredictions = Mapping[str, Tensor]
"""Label distributions ``[B, C]`` by modality (``visual``, ``audio``, ``text``); NaN rows where a clip lacks it."""


def others(modality: str, *, keep_transcript: bool = False) -> tuple[str, ...]:
    """What is hidden where a modality is read alone."""
    return tuple(name for name in SHOWN if name != modality and not (keep_transcript and name == "text"))


def unimodal_log_probs(
    thinker: Any,
    language_model: nn.Module,
    prompts: Prompts,
    trie: LabelTrie,
    modality: str,
    *,
    keep_transcript: bool = False,
) -> Tensor:
    """float32 ``[B, C]`` summed log-probabilities of the labels (not normalised over the candidates).

    Args:
        thinker: the model.
        language_model: its decoder.
        prompts: what to answer.
        trie: the candidates.
        modality: ``visual``, ``audio`` or ``text``.
        keep_transcript: hide the other media alone.
    """
    hide = others(modality, keep_transcript=keep_transcript)
    return label_pass(thinker, language_model, prompts, trie, hide=hide, quiet=True)[0]


@torch.no_grad()
def unimodal_predictions(
    thinker: Any,
    language_model: nn.Module,
    prompts: Prompts,
    trie: LabelTrie,
    modalities: Sequence[str] = SHOWN,
    *,
    keep_transcript: bool = False,
) -> dict[str, Tensor]:
    """Label distributions ``[B, C]``, one pass per modality that any clip carries; NaN rows where a clip lacks it.

    Args:
        thinker: the model.
        language_model: its decoder.
        prompts: what to answer.
        trie: the candidates.
        modalities: of ``visual``, ``audio`` and ``text``.
        keep_transcript: hide the other media alone.
    """
    found = {}
    for modality in modalities:
        present = prompts.present(modality)
        if bool(present.any()):
            scores = unimodal_log_probs(
                thinker, language_model, prompts, trie, modality, keep_transcript=keep_transcript
            )
        else:
            scores = torch.zeros(len(prompts), len(trie.labels), device=prompts.roles.device)
        found[modality] = scores.softmax(-1).masked_fill(~present[:, None], float("nan"))
    return found


def predictions_alone(backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie) -> dict[str, Tensor]:
    """:func:`unimodal_predictions` of a batch."""
    return unimodal_predictions(backbone.model, backbone.language_model, Prompts.of(backbone, batch), trie)
