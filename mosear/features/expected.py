"""Published counts and dimensions of known data sets, for ``mosear features import --expect NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Expected:
    """What is published of a data set.

    Attributes:
        counts: clips of a split, or of several joined by ``+``.
        dimensions: layout -> modality -> size of a step, where the layout's own features are meant.
    """

    counts: Mapping[str, int]
    dimensions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def _mmsa(text: int, audio: int, video: int) -> dict[str, dict[str, int]]:
    return {"mmsa": {"text": text, "audio": audio, "video": video}}


KNOWN = {
    "mosi": Expected({"train": 1284, "val": 229, "test": 686}, _mmsa(768, 5, 20)),
    "mosei": Expected({"train": 16326, "val": 1871, "test": 4659}, _mmsa(768, 74, 35)),
    "sims": Expected({"train": 1368, "val": 456, "test": 457}, _mmsa(768, 33, 709)),
    "simsv2": Expected({"train": 2722, "val": 647, "test": 1034}, _mmsa(768, 25, 177)),
    "meld": Expected({"train": 9989, "val": 1109, "test": 2610}, {"list_pickle": {"audio": 64, "video": 64}}),
    "iemocap": Expected(
        {"train+val+test": 7433, "test": 1623}, {"dialogue_rnn": {"text": 100, "audio": 100, "video": 512}}
    ),
    "iemocap-4": Expected({"train+val+test": 5531, "test": 1241}),
    "mer2023": Expected({"train+val": 3373, "test": 1657}),
}
"""IEMOCAP's test clips are those of its fifth session."""


def differences(name: str, about: Mapping[str, Any]) -> list[str]:
    """How features differ from what is published of a data set, one sentence each.

    Args:
        name: one of :data:`KNOWN`.
        about: the content of ``features.json``. Where the import made the validation set itself, training and
            validation clips are counted together.
    """
    known = KNOWN[name]
    counts = dict(known.counts)
    if about["own_validation"] and {"train", "val"} <= set(counts):
        counts["train+val"] = counts.pop("train") + counts.pop("val")
    found = []
    for splits, expected in counts.items():
        number = sum(about["splits"].get(split, {"clips": 0})["clips"] for split in splits.split("+"))
        if number != expected:
            found.append(f"{splits} has {number:,} clips, published are {expected:,}")
    for modality, size in known.dimensions.get(about["layout"], {}).items():
        own = about["modalities"].get(modality)
        if own not in (None, size):
            found.append(f"{modality} has {own} numbers per step, published are {size}")
    return found
