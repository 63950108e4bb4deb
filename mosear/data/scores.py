"""Regression with words: a clip's score as the nearest of a list of numbers, which is then its label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mosear.data.rows import ManifestError

if TYPE_CHECKING:
    from mosear.data.manifest import Manifest

AnswerFrom = Literal["label", "score"]
SCORE: AnswerFrom = "score"


def numbers(labels: Sequence[str]) -> list[float]:
    """The labels as numbers.

    Raises:
        ValueError: if one is none.
    """
    try:
        return [float(label) for label in labels]
    except ValueError:
        raise ValueError(
            f"answers are scores, so labels must be numbers, got {', '.join(labels)}; set data.prompt.labels=['-1.0', "
            "'-0.9', ...] or data.answer_from=label"
        ) from None


def labelled_by_score(manifest: Manifest, labels: Sequence[str]) -> Manifest:
    """The clips with the label whose number is next to their score; of two at the same distance the first.

    Args:
        manifest: the clips.
        labels: numbers as they are to be written.

    Raises:
        ManifestError: for clips without a score.
    """
    from datasets import Value

    values, scores = numbers(labels), manifest.column("score").to_pylist()
    if absent := [index for index, score in enumerate(scores) if score is None]:
        told = f"{len(absent)} clips have no score, e.g. {manifest[absent[0]].id!r}, and answers are scores"
        raise ManifestError(str(manifest.path), [told])
    nearest = [labels[min(range(len(values)), key=lambda i: abs(values[i] - score))] for score in scores]
    rows = manifest.dataset.remove_columns("label").add_column("label", nearest, feature=Value("string"))
    return type(manifest)(rows, manifest.path, manifest.root, manifest.fingerprint)
