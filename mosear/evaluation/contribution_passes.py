"""The passes behind :mod:`~mosear.evaluation.contribution`: each clip with every combination of its modalities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from mosear.backbones.labels import LabelTrie
from mosear.backbones.media import MediaBatch
from mosear.evaluation.contribution import COMBINATIONS, ClipValues
from mosear.inference.scoring import label_log_probs
from mosear.roles import SHOWN

if TYPE_CHECKING:
    from mosear.backbones.backbone import OmniBackbone
    from mosear.data.sample import OmniBatch

Item = TypeVar("Item")


def modality_combinations(backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie) -> Tensor:
    """Label scores with each combination of modalities visible.

    A modality that a clip lacks counts as visible: combinations that differ in it alone share one pass, so that its
    gain is exactly 0. The question is visible in every combination, also in the one without modalities.

    Args:
        backbone: with or without an adapter injected; steered, if a steering session is open around the call.
        batch: prompts without answers.
        trie: the candidates.

    Returns:
        float32 ``[B, 8, C]`` summed log-probabilities of the labels, in the order of ``COMBINATIONS``.
    """
    present = carried(batch)
    passes: dict[tuple[str, ...], Tensor] = {}
    rows = []
    for index in range(len(batch)):
        lacking = [modality for modality in SHOWN if not present[modality][index]]
        own = []
        for visible in COMBINATIONS:
            hide = tuple(modality for modality in SHOWN if modality not in visible and modality not in lacking)
            if hide not in passes:
                passes[hide] = label_log_probs(backbone, batch, trie, hide=hide)
            own.append(passes[hide][index])
        rows.append(torch.stack(own))
    return torch.stack(rows)


def clip_values(backbone: OmniBackbone, batch: OmniBatch, trie: LabelTrie, chosen: Collection[str]) -> list[ClipValues]:
    """The games of the batch's ``chosen`` clips (ids); each of them has a label."""
    batch = rows_of(batch, [index for index, clip in enumerate(batch.clips) if clip.id in chosen])
    if not len(batch):
        return []
    present = carried(batch)
    log_probs = modality_combinations(backbone, batch, trie).double().log_softmax(-1).cpu()
    games = []
    for index, (clip, own) in enumerate(zip(batch.clips, log_probs, strict=True)):
        assert clip.label is not None
        gold = trie.labels.index(clip.label)
        games.append(
            ClipValues(
                id=clip.id,
                subset=clip.subset,
                present=tuple(modality for modality in SHOWN if present[modality][index]),
                accuracy=tuple((own.argmax(-1) == gold).double().tolist()),
                log_prob=tuple(own[:, gold].tolist()),
            )
        )
    return games


def carried(batch: OmniBatch) -> dict[str, list[bool]]:
    """Per modality and clip: does the clip carry it?"""
    return {modality: batch.hidden_keys(modality).any(1).tolist() for modality in SHOWN}


def rows_of(batch: OmniBatch, indices: Sequence[int]) -> OmniBatch:
    """Some clips of a batch with their own media, in the order of ``indices``; the padding stays."""
    rows = torch.tensor(indices, dtype=torch.long, device=batch.input_ids.device)
    tensors: dict[str, Any] = {
        name: value.index_select(1 if name == "position_ids" else 0, rows)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }

    def own(items: Sequence[Item], modality: str) -> list[Item]:
        carriers = batch.hidden_keys(modality).any(1).nonzero()[:, 0].tolist()  # a carrier has one item, in this order
        of_clip = dict(zip(carriers, items, strict=True))
        return [of_clip[index] for index in indices if index in of_clip]

    media = MediaBatch(own(batch.media.videos, "visual"), own(batch.media.audios, "audio"))
    return replace(batch, clips=[batch.clips[index] for index in indices], media=media, **tensors)
