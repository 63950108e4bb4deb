"""Answers of backbones and adapters to conflicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mosear.data.clip import Clip
from mosear.data.manifest import Manifest
from mosear.evaluation.answering import Answering
from mosear.evaluation.bias import conflicts
from mosear.evaluation.bias_of_runs import Answered
from mosear.evaluation.predictions import PredictionRow
from mosear.methods.omni_system import OmniSystem
from mosear.runtime.calibration_clips import backbone_config
from mosear.runtime.run import Run

SPLIT = "test"


def synthetic_conflicts(root: Path, clips: int) -> Path:
    """A manifest of rendered clips, so many in each of three kinds of conflicts."""
    from mosear.data.synthetic.corpus import ensure_corpus

    ensure_corpus(root, test_clips=clips, train_clips=1, val_clips=2, missing_clips=1)
    return root / "test.parquet"


def opened(
    backbone: str | None, adapter: Path | None, overrides: Sequence[str], *, manifest: Path, trust_remote_code: bool
) -> Run:
    """The run of an adapter, or one made for a bare backbone."""
    if adapter is not None:
        return Run.open(adapter, overrides, trust_remote_code=trust_remote_code)
    trust = ["backbone.trust_remote_code=true"] if trust_remote_code else []
    return Run(backbone_config(str(backbone), manifest, [*overrides, *trust]))


def answer(
    name: str,
    run: Run,
    manifest: Path,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Answered:
    """Ask a system about the conflicts of a manifest, each modality alone included.

    Args:
        name: of the system.
        run: with its backbone, its adapter if it has one, and its question.
        manifest: clips; those that are no conflicts are not asked about.
        device: where to compute.
        batch_size: clips per step.
        on_batch: called with clips done and clips in all.

    Raises:
        ValueError: if the manifest has no conflicts.
    """
    backbone = run.backbone(device=device)
    network = run.network(backbone)
    changes: dict[str, Any] = {"train": None, "val": None, SPLIT: str(manifest)}
    if batch_size is not None:
        changes["eval_batch_size"] = batch_size
    data = run.data(backbone, **changes)
    chosen = _conflicts_of(data.manifest(SPLIT))
    data.manifests[SPLIT] = chosen
    clips: Mapping[str, Clip] = {clip.id: clip for clip in chosen}
    system = OmniSystem(backbone, network, data, Answering(readings=True))
    network.eval()
    rows: list[PredictionRow] = []
    for batch in data.eval_loader(SPLIT):
        rows += [system.bad_row(bad) for bad in batch.bad]
        if batch.data is not None:
            with torch.no_grad():
                rows += system.answer(system.encoded(batch.to(backbone.device)))
        on_batch(len(rows), len(clips))
    return Answered(name, system.labels, conflicts(rows, clips))


def _conflicts_of(manifest: Manifest) -> Manifest:
    found = manifest.filter(lambda clip: clip.modality_labels.conflict)
    if not len(found):
        raise ValueError(
            f"{manifest.path} has no conflicts: no clip gives face and voice different labels in modality_labels."
        )
    return found
