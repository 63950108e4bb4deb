"""The clips that a comparison shows: which ones, what every system made of them, and where their media is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from mosear.data.clip import Clip
from mosear.data.rows import read_rows
from mosear.evaluation.compare.collect import Benchmark, Run, System
from mosear.evaluation.compare.scores import answered_right
from mosear.evaluation.predictions import PredictionRow

DIGITS = 3
MOST_STEPS = 120
READINGS = {"joint": "distribution", "face": "p_visual", "voice": "p_audio", "words": "p_text"}
OWN_TRACK = "video"


def choose(benchmark: Benchmark, count: int) -> list[str]:
    """Ids of at most ``count`` clips: as many of each subset as possible, clips that a system got wrong first.

    Within errors, and within the rest, the order is that of hashed ids: a sample that does not depend on the systems.
    """
    right = [answered_right(system) for system in benchmark.systems.values() if not system.control]

    def rank(name: str) -> tuple[bool, bytes]:
        return all(shares[name] == 1 for shares in right), hashlib.sha256(name.encode()).digest()

    queues = [sorted(ids, key=rank) for ids in benchmark.subsets.values()]
    chosen: list[str] = []
    for place in range(max(map(len, queues))):
        chosen += [queue[place] for queue in queues if place < len(queue)]
    kept = set(chosen[: max(count, 0)])
    return [name for ids in benchmark.subsets.values() for name in ids if name in kept]


def clip_records(benchmark: Benchmark, ids: Sequence[str], media: Media) -> dict[str, Any]:
    """What the page's script reads: labels, systems, and one record per clip."""
    systems = [system for system in benchmark.systems.values() if not system.control]
    first = systems[0].runs[0]
    known = media.clips(first, frozenset(ids))
    clips = []
    for name in ids:
        row = first.rows[name]
        clips.append(
            {
                "id": name,
                "subset": row.subset,
                "truth": _by_number(row.label, row.labels, benchmark.labels),
                "text": row.text,
                **_truth(row),
                **media.of(first, row.video, known.get(name)),
                "answers": [_answer(system, name) for system in systems],
            }
        )
    return {
        "name": benchmark.name,
        "labels": list(benchmark.labels),
        "systems": [{"name": system.name, "runs": len(system.runs)} for system in systems],
        "clips": clips,
    }


def _answer(system: System, name: str) -> dict[str, Any]:
    """One system on one clip: labels by number (None = unparsed, a list = a set) per run; means of the rest."""
    rows = [run.rows[name] for run in system.runs]
    labels = system.runs[0].labels
    record: dict[str, Any] = {
        "said": [_by_number(row.prediction, row.predicted_labels, labels) for row in rows],
        "right": sum(row.correct for row in rows),
        **_measured(rows),
    }
    for key, column in READINGS.items():
        values = [getattr(row, column) for row in rows if getattr(row, column) is not None]
        if values:
            record[key] = [round(float(share), DIGITS) for share in np.mean(values, axis=0)]
    conflicts = [row.conflict for row in rows if row.conflict is not None]
    if conflicts:
        record["conflict"] = round(float(np.mean(conflicts)), DIGITS)
        record["steered"] = [row.target for row in rows]
    before = [row.attention_before for row in rows if row.attention_before is not None]
    after = [row.attention_after for row in rows if row.attention_after is not None]
    if before and after:
        record["attention"] = [np.mean(shares, axis=0).round(DIGITS).tolist() for shares in (before, after)]
    wordings = [row.answer_text for row in rows if row.answer_text is not None]
    reasons = [row.unparsed_reason for row in rows if row.unparsed_reason is not None]
    return record | ({"wordings": wordings} if wordings else {}) | ({"reasons": reasons} if reasons else {})


def _by_number(label: str | None, chosen: Sequence[str] | None, labels: Sequence[str]) -> int | list[int] | None:
    if label is None or chosen is None:
        return None if label is None else labels.index(label)
    return [labels.index(one) for one in chosen]


def _truth(row: PredictionRow) -> dict[str, Any]:
    """Score or series of a clip; a long series at steps of equal distance."""
    if row.score is not None:
        return {"score": round(row.score, DIGITS)}
    return {} if row.series is None else {"series": _thinned(row.series), "steps": len(row.series)}


def _measured(rows: Sequence[PredictionRow]) -> dict[str, Any]:
    """What the runs of a system predicted, beside labels: mean overlap of sets, scores by run, mean series."""
    if rows[0].labels is not None:
        return {"overlap": round(float(np.mean([row.credit for row in rows])), DIGITS)}
    if rows[0].score is not None:
        said = [row.predicted_score for row in rows]
        return {"scores": [None if value is None else round(value, DIGITS) for value in said]}
    found = [row.predicted_series for row in rows if row.predicted_series is not None]
    if not found:
        return {}
    mean = np.mean(np.array(found, dtype=float), axis=0)  # None is NaN here
    return {"series": _thinned([tuple(None if np.isnan(value) else float(value) for value in step) for step in mean])}


def _thinned(series: Sequence[Sequence[float | None]]) -> list[list[float | None]]:
    places = np.unique(np.linspace(0, len(series) - 1, min(len(series), MOST_STEPS)).round().astype(int))
    return [[None if value is None else round(value, DIGITS) for value in series[place]] for place in places]


class Media:
    """Links from a page to clips' files.

    Links are relative, so that page and media can be moved or served together, and no path of this machine is told.

    Args:
        page: where the page will be.
        root: directory that media paths are relative to; by default the manifest's, as the run's config says.
    """

    def __init__(self, page: Path, root: Path | None = None) -> None:
        self.folder, self.root = page.resolve().parent, root

    def of(self, run: Run, video: str | None, clip: Clip | None) -> dict[str, Any]:
        """Where to find a clip's media.

        Args:
            run: a run that answered the clip.
            video: path of the video in its predictions.
            clip: the clip's row, where the manifest could be read.

        Returns:
            ``video`` and ``audio``: links or None; ``muted``: whether the model was not given the video file's sound;
            ``lost``: paths of files that are not where they should be.
        """
        audio = clip.audio if clip is not None and clip.audio != OWN_TRACK else None
        links = {"video": self._link(run, video), "audio": self._link(run, audio)}
        return {
            **links,
            "muted": clip is not None and clip.video is not None and clip.audio != OWN_TRACK,
            "lost": [path for kind, path in (("video", video), ("audio", audio)) if path and not links[kind]],
        }

    def clips(self, run: Run, ids: frozenset[str]) -> dict[str, Clip]:
        """Rows of the run's manifest for some clips; empty where it is gone, or no longer a manifest."""
        manifest = run.files.manifest
        try:
            rows = [row for _, row in read_rows(manifest) if isinstance(row, dict)] if manifest else []
            return {row["id"]: Clip.from_row(row) for row in rows if row.get("id") in ids}
        except ValueError:  # the predictions hold what matters; the manifest adds where separate sound files are
            return {}

    def _link(self, run: Run, path: str | None) -> str | None:
        root = self.root or run.files.media_root
        file = root / path if root is not None and path else None
        if file is None or not file.is_file():
            return None
        return "./" + quote(Path(os.path.relpath(file.resolve(), self.folder)).as_posix())
