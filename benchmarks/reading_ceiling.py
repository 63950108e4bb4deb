"""How far any arbiter of the unimodal readings could get: ``python -m benchmarks.reading_ceiling RUN ...``.

Late fusion takes the more confident of what a backbone reads from face and voice alone. Here arbiters are *fitted on
the right answers* of the conflict clips themselves (ten folds, each clip answered by an arbiter that has not seen it):
no method, since it trains on conflict labels, but a ceiling for everyone who has these readings and nothing else.

* confidence: a logistic regression of the true direction on both log-odds, their squares and their product.
* candidates: boosted trees that rate each candidate label by both readings and the transcript's, so that it may also
  answer with a label that neither reading puts first.
* true direction: told whom to believe, it answers with that modality's reading.

A run is a bare backbone's directory whose predictions hold readings (``eval.py ... answering.readings=true``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mosear.evaluation.predictions import PredictionRow
from mosear.evaluation.runs import RunFiles
from mosear.evaluation.summary import CONFLICT_SUBSETS
from mosear.inference.distributions import log_odds
from mosear.inference.late_fusion import late_fusion

FOLDS = 10
SMALLEST = 1e-7


def confidences(readings: np.ndarray) -> np.ndarray:
    """``[N]``: log-odds of the top label, from ``[N, C]`` probabilities."""
    return log_odds(torch.from_numpy(readings).clamp(min=SMALLEST).log()).numpy()


def confidence_arbiter(visual: np.ndarray, audio: np.ndarray, face_is_right: np.ndarray) -> np.ndarray:
    """``[N]`` answers with one of the two top labels, from ``[N, C]`` readings and ``[N]`` true directions."""
    seen, heard = confidences(visual), confidences(audio)
    features = np.stack([seen, heard, seen**2, heard**2, seen * heard], axis=1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    believed = cross_val_predict(model, features, face_is_right, cv=folds)
    return np.where(believed, visual.argmax(1), audio.argmax(1))


def candidate_arbiter(readings: Sequence[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """``[N]`` answers from ``[N, C]`` readings (NaN rows where there is none) and ``[N]`` right labels.

    A candidate is described by its own log-probability and the best rival's, in each reading; which label it is, the
    trees are not told.
    """
    clips, candidates = readings[0].shape
    columns = []
    for reading in readings:
        logs = np.log(np.clip(reading, SMALLEST, None))
        rivals = np.stack([np.delete(logs, one, axis=1).max(1) for one in range(candidates)], axis=1)
        columns += [logs.ravel(), rivals.ravel()]
    clip_of_row = np.repeat(np.arange(clips), candidates)
    right = (np.tile(np.arange(candidates), clips) == labels[clip_of_row]).astype(int)
    groups = np.random.default_rng(0).permutation(clips)[clip_of_row]  # else a fold might hold one subset alone
    model = HistGradientBoostingClassifier(max_depth=4, max_iter=150, learning_rate=0.06, random_state=0)
    found = cross_val_predict(
        model, np.stack(columns, axis=1), right, groups=groups, cv=GroupKFold(FOLDS), method="predict_proba"
    )
    answers: np.ndarray = found[:, 1].reshape(clips, candidates).argmax(1)
    return answers


def accuracies(rows: Sequence[PredictionRow], labels: Sequence[str]) -> dict[str, list[float]]:
    """Percent right on video- and audio-aligned clips, and their mean, by arbiter."""
    rows = [row for row in rows if row.subset in CONFLICT_SUBSETS]
    if not rows or rows[0].p_visual is None or rows[0].p_audio is None:
        raise ValueError("These predictions hold no readings of conflict clips: evaluate with answering.readings=true.")
    unknown = [float("nan")] * len(labels)
    visual, audio, text = (
        np.array([getattr(row, name) or unknown for row in rows]) for name in ("p_visual", "p_audio", "p_text")
    )
    truth = np.array([labels.index(row.label) for row in rows])
    face = np.array([row.subset == CONFLICT_SUBSETS[0] for row in rows])
    answers = {
        "late fusion": late_fusion(visual, audio),
        "confidence, fitted": confidence_arbiter(visual, audio, face),
        "candidates, fitted": candidate_arbiter(
            [one for one in (visual, audio, text) if not np.isnan(one).all()], truth
        ),
        "true direction": np.where(face, visual.argmax(1), audio.argmax(1)),
    }
    table = {}
    for name, answer in answers.items():
        both = [float((answer == truth)[face == side].mean() * 100) for side in (True, False)]
        table[name] = [*both, sum(both) / 2]
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="directories of bare backbones' tests")
    print("| run | arbiter | video-aligned | audio-aligned | conflict mean |\n|---|---|---:|---:|---:|")
    for run in parser.parse_args().runs:
        for name, values in accuracies(*RunFiles(run).predictions).items():
            print(f"| {run} | {name} | {' | '.join(f'{value:.1f}' for value in values)} |")


if __name__ == "__main__":
    main()
