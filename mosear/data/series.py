"""Valence and arousal over time: the manifest column ``series``."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

DIMENSIONS = ("valence", "arousal")
_SHAPE = 'series must be a JSON object such as {"rate": 5.0, "valence": [0.1, null], "arousal": [0.3, null]}'


class Annotations(NamedTuple):
    """What annotators said over time.

    Attributes:
        rate: Steps per second; step ``i`` covers seconds ``i / rate`` to ``(i + 1) / rate``.
        values: float64 ``[T, 2]``, valence and arousal in [-1, 1]; NaN where annotators gave none.
    """

    rate: float
    values: np.ndarray


def check_series(series: str) -> dict[str, Any]:
    """The object in a value of the column ``series``.

    Raises:
        ValueError: Keys, lengths or values are not as they must be.
    """
    try:
        found = json.loads(series)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{_SHAPE}, got {series!r:.80} ({error})") from None
    if not isinstance(found, dict) or set(found) != {"rate", *DIMENSIONS}:
        raise ValueError(f"{_SHAPE}, with exactly these keys, got {series!r:.80}")
    if not _is_finite(found["rate"]) or found["rate"] <= 0:
        raise ValueError(f"the rate of a series is a number of steps per second above 0, got {found['rate']!r}")
    if not all(isinstance(found[name], list) for name in DIMENSIONS):
        raise ValueError(f"{_SHAPE}: valence and arousal are lists, got {series!r:.80}")
    valence, arousal = (len(found[name]) for name in DIMENSIONS)
    if valence != arousal or not valence:
        raise ValueError(f"valence and arousal of a series have one value per step each, got {valence} and {arousal}")
    for name in DIMENSIONS:
        for step, value in enumerate(found[name]):
            if value is not None and not (_is_finite(value) and -1 <= value <= 1):
                raise ValueError(f"{name} of a series is null or a number in -1..1, got {value!r} at step {step}")
    return found


def read_series(series: str | None) -> Annotations | None:
    """The annotations in a value of the column ``series``; ``None`` for null.

    Raises:
        ValueError: See :func:`check_series`.
    """
    if series is None:
        return None
    import numpy as np

    found = check_series(series)
    values = np.array([found[name] for name in DIMENSIONS], dtype=np.float64)  # None becomes NaN
    return Annotations(float(found["rate"]), values.T)


def series_text(rate: float, values: Sequence[Sequence[float | None]] | np.ndarray) -> str:
    """A value of the column ``series``.

    Args:
        rate: steps per second.
        values: ``[T, 2]``, valence and arousal; NaN or ``None`` where annotators gave none.

    Raises:
        ValueError: See :func:`check_series`.
    """
    columns = {
        name: [None if row[at] is None or math.isnan(row[at]) else float(row[at]) for row in values]  # type: ignore[arg-type]
        for at, name in enumerate(DIMENSIONS)
    }
    text = json.dumps({"rate": float(rate), **columns}, separators=(",", ":"))
    check_series(text)
    return text


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
