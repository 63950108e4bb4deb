"""Small feature files in published layouts; the numbers are drawn, nothing of any data set is in them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

SPLITS = {"train": 4, "valid": 2, "test": 3}


def dumped(path: Path, value: Any, protocol: int = 4) -> Path:
    """Writes a real pickle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    """float32, none of them 0."""
    return np.random.default_rng([seed, *shape]).uniform(0.1, 1.0, shape).astype(np.float32)


def mmsa_part(clips: int, *, seed: int = 0, aligned: bool = False, unimodal: bool = False) -> dict[str, Any]:
    """One split: clip i has 2 + i audio steps, 1 + i video steps and 3 words (all 2 + i, if aligned)."""
    steps = {"text": 6, "audio": 8, "vision": 8} if not aligned else dict.fromkeys(("text", "audio", "vision"), 8)
    sizes = {"text": 5, "audio": 3, "vision": 4}
    part: dict[str, Any] = {key: numbers(clips, steps[key], sizes[key], seed=seed) for key in steps}
    lengths = {
        "text": [2 + i if aligned else 3 for i in range(clips)],
        "audio": [2 + i for i in range(clips)],
        "vision": [2 + i if aligned else 1 + i for i in range(clips)],
    }
    for key in steps:
        for index, length in enumerate(lengths[key]):
            part[key][index, length:] = 0
    part["id"] = [f"v{seed}$_$000{i}" for i in range(clips)]
    part["raw_text"] = np.array([f"words {i}" for i in range(clips)])
    part["text_bert"] = np.zeros((clips, 3, steps["text"]), np.float32)
    for index, length in enumerate(lengths["text"]):
        part["text_bert"][index, 1, :length] = 1
    scale = 0.2 if unimodal else 1.0
    part["regression_labels"] = np.array([(i - 1) * scale for i in range(clips)], np.float32)
    part["annotations"] = [("Negative", "Neutral", "Positive")[min(i, 2)] for i in range(clips)]
    if unimodal:
        for letter, at in zip("TAV", (-1, 0, 1), strict=True):
            part[f"regression_labels_{letter}"] = np.full(clips, at, np.float32)
    if not aligned:
        part["audio_lengths"], part["vision_lengths"] = lengths["audio"], lengths["vision"]
    return part


def mmsa(path: Path, *, protocol: int = 4, tgt: bool = False, **options: Any) -> Path:
    """A pickle of MMSA."""
    data = {name: mmsa_part(count, seed=at, **options) for at, (name, count) in enumerate(SPLITS.items())}
    if tgt:
        for part in data.values():
            part["tgt"] = [[2, 4, 9, 3], [2, 3], [2, 5, 3], [2, 6, 3]][: len(part["id"])]
    return dumped(path, data, protocol)
