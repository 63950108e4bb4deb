"""Run directories with the files of a finished run and made-up answers, hostile text included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mosear.data.clip import Clip
from mosear.data.manifest import write_manifest
from mosear.evaluation.predictions import PredictionRow, write_predictions
from mosear.evaluation.summary import summarise, write_metrics

EVIL = "</script><!--<script><img src=x onerror=window.hacked=1><b>\"'&_"
LABELS = ("happy", "angry " + EVIL, "sad")
SUBSETS = ("consistent", "video_aligned", "audio_aligned")


def answers(
    *,
    model: str,
    accuracy: float,
    seed: int,
    clips: int = 20,
    steering: str = "none",
    benchmark: str = "synthetic",
    subsets: tuple[str, ...] = SUBSETS,
) -> list[PredictionRow]:
    """Rows of ``clips`` clips per subset; the clips are the same for every seed, the answers are not."""
    rng = np.random.default_rng(seed)
    rows = []
    for subset in subsets:
        for i in range(clips):
            answer = i % 3 if rng.random() < accuracy else (i + 1) % 3
            unread = i == clips - 1 and model == "zero_shot"
            steered = {"conflict": float(rng.random()), "target": (None, "audio", "visual")[i % 3]}
            steered |= {"attention_before": [0.5, 0.1, 0.4], "attention_after": [0.3, 0.3 - seed / 10, 0.4 + seed / 10]}
            rows.append(
                PredictionRow(
                    id=f"{subset} {EVIL} clip {i}",
                    subset=subset,
                    label=LABELS[i % 3],
                    prediction=None if unread else LABELS[answer],
                    unparsed_reason=EVIL if unread else None,
                    answer_text=f"I see {EVIL}",
                    benchmark=benchmark,
                    model=model,
                    steering=steering,
                    seed=seed,
                    distribution=rng.dirichlet(np.ones(3)).tolist(),
                    p_visual=rng.dirichlet(np.ones(3)).tolist(),
                    p_audio=rng.dirichlet(np.ones(3)).tolist(),
                    p_text=rng.dirichlet(np.ones(3)).tolist(),
                    video="one clip #1.mp4",
                    text=EVIL,
                    **(steered if steering != "none" else {}),
                )
            )
    return rows


def write_run(
    directory: Path,
    *,
    model: str = "tuned",
    experiment: str = "lora",
    accuracy: float = 0.6,
    seed: int = 0,
    backbone: str = "tiny-omni",
    benchmark: str = "synthetic",
    steering: str = "none",
    adapter: str = "none",
    clips: int = 20,
    readings: bool = True,
    overrides: tuple[str, ...] = (),
    media: Path | None = None,
    more_subsets: tuple[str, ...] = (),
    extra: dict[str, Any] | None = None,
) -> Path:
    """A run directory; with ``media``, also a manifest there and a video whose sound the clips do not use."""
    directory.mkdir(parents=True)
    rows = answers(
        model=model,
        accuracy=accuracy,
        seed=seed,
        clips=clips,
        steering=steering,
        benchmark=benchmark,
        subsets=SUBSETS + more_subsets,
    )
    if not readings:
        rows = [replace(row, p_visual=None, p_audio=None, p_text=None) for row in rows]
    summary = summarise(rows, LABELS, benchmark=benchmark, steering=steering, seed=seed, n_boot=50)
    info = {"experiment": experiment, "backbone": backbone, "adapter": adapter}
    write_metrics({**summary, "model": model, "run": info, **(extra or {})}, directory / "metrics.json")
    write_predictions(rows, LABELS, directory / "predictions.parquet")
    (directory / ".hydra").mkdir()
    (directory / ".hydra" / "overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    if media is not None:
        manifest = with_media(media, rows)
        config = {"benchmark": {"manifest": str(manifest)}, "data": {"root": None}}
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def with_media(media: Path, rows: list[PredictionRow]) -> Path:
    """A manifest of the rows' clips, beside a video of one second."""
    import av

    manifest = media / "test.jsonl"
    if manifest.is_file():
        return manifest
    media.mkdir(parents=True)
    clips = [Clip(id=row.id, video=row.video, text=row.text, label=row.label, subset=row.subset) for row in rows]
    write_manifest(clips, manifest)
    assert rows[0].video is not None
    with av.open(str(media / rows[0].video), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for shade in range(8):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 30 * shade, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return manifest


def metrics_of(directory: Path) -> dict[str, Any]:
    """``metrics.json`` of a run."""
    return json.loads((directory / "metrics.json").read_text(encoding="utf-8"))
