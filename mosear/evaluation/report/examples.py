"""What the report shows of example clips: the media, each system's answer, and label probabilities by modality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mosear.evaluation.report import svg
from mosear.evaluation.report.answers import answer, heading_of_truth, plots
from mosear.evaluation.report.content import Example
from mosear.evaluation.report.scale import Scale
from mosear.evaluation.report.text import in_words, percent

READING_NAMES = {"visual": "face alone", "audio": "voice alone", "text": "text alone"}
_SHADES = {"visual": "m-visual", "audio": "m-audio", "text": "m-text"}
_LABELS_SHOWN = 8
_WRITTEN_SHOWN = 2000
_Column = tuple[str, str, Sequence[float] | None, set[str]]  # heading, css class, probabilities, labels in bold


def example_card(
    example: Example, labels: Sequence[str], colours: Mapping[str, str], scale: Scale | None = None
) -> dict[str, Any]:
    """One clip.

    Args:
        example: the clip.
        labels: the label list.
        colours: ``{system: css class}``; distributions of other systems are left out.
        scale: of scores, if all clips have one scale.

    Raises:
        ValueError: if a distribution has another length than the label list.
    """
    systems = {name: values for name, values in _defined(example.distributions).items() if name in colours}
    read = {name: values for name, values in _defined(example.readings).items() if name in READING_NAMES}
    if any(len(values) != len(labels) for values in (*systems.values(), *read.values())):
        raise ValueError(f"the distributions of example {example.id!r} must have {len(labels)} values, one per label.")
    columns: list[_Column]
    columns = [
        (in_words(name), colours[name], values, _chosen(example, name, values, labels))
        for name, values in systems.items()
    ]
    if any(values is not None for values in example.readings.values()):
        columns += [
            (name, _SHADES[key], read.get(key), _chosen(example, None, read.get(key), labels))
            for key, name in READING_NAMES.items()
        ]
    truth = _truth(example)
    shown = _shown(truth, labels, [values for _, _, values, _ in columns if values is not None])
    rows = [
        {
            "label": labels[i],
            "true": labels[i] in truth,
            "cells": [_cell(labels[i], i, *column) for column in columns],
        }
        for i in shown
    ]
    answers = []
    for name, prediction in example.predictions.items():
        row = example.rows.get(name)
        right = prediction == example.label if row is None else row.correct
        answers.append({"name": name, "right": right, **answer(row, prediction, right=right)})
    return {
        "clip": example,
        "image": example.image_uri(),
        "media": example.media,
        "answers": answers,
        "truth": heading_of_truth(example),
        "plots": plots(example, colours, scale),
        "written": [
            (name, text if len(text) <= _WRITTEN_SHOWN else f"{text[:_WRITTEN_SHOWN]}...")
            for name, text in example.written.items()
        ],
        "columns": [(name, css) for name, css, *_ in columns],
        "rows": rows if columns else [],
        "left_out": len(labels) - len(shown) if columns else 0,
    }


def _defined(distributions: Mapping[str, Sequence[float] | None]) -> dict[str, Sequence[float]]:
    """Those that are there and hold numbers alone."""
    return {
        name: values for name, values in distributions.items() if values is not None and all(map(math.isfinite, values))
    }


def _sets(example: Example) -> bool:
    return any(row.labels is not None for row in example.rows.values())


def _truth(example: Example) -> set[str]:
    """The true labels: one, except where sets are predicted."""
    sets = [row.labels for row in example.rows.values() if row.labels is not None]
    return set(sets[0]) if sets else {example.label}


def _chosen(example: Example, system: str | None, values: Sequence[float] | None, labels: Sequence[str]) -> set[str]:
    """What a distribution speaks for: the likeliest labels, or where each label has its own, those that were chosen."""
    if _sets(example):
        row = example.rows.get(system or "")
        return set() if row is None else set(row.predicted_labels or ())
    if values is None:
        return set()
    return {label for label, value in zip(labels, values, strict=True) if value == max(values)}


def _shown(truth: set[str], labels: Sequence[str], columns: Sequence[Sequence[float]]) -> list[int]:
    """Places of the true labels and of those that any column gives most to, in the order of the label list."""
    heaviest = sorted(range(len(labels)), key=lambda i: -max((values[i] for values in columns), default=0.0))
    return [i for i, label in enumerate(labels) if label in truth or i in heaviest[:_LABELS_SHOWN]]


def _cell(
    label: str, place: int, name: str, css: str, values: Sequence[float] | None, chosen: set[str]
) -> dict[str, Any] | None:
    if values is None:
        return None
    plot = svg.paired_bars([(css, values[place])], label=f"{label}, {name}: {percent(values[place])} %")
    return {"share": values[place], "top": label in chosen, "plot": plot}
