"""What a checkpoint must have given a model: every weight, and nothing that the model has no place for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

OTHER_PARTS = ("talker.", "token2wav.", "code2wav.")
"""Parts of a published checkpoint beside the thinker: never read."""


def refuse_incomplete(name: str, report: Mapping[str, Any]) -> None:
    """Every thinker weight was in the checkpoint, and every thinker weight in it was used.

    transformers fills gaps with random numbers and passes over what it does not know, with a warning: a backbone loaded
    so would answer, but wrongly.

    Args:
        name: of the backbone, for the message.
        report: transformers' loading info.

    Raises:
        ValueError: naming the first keys that are missing or left over.
    """
    left_over = [key for key in report["unexpected_keys"] if not key.startswith(OTHER_PARTS)]
    problems = [
        f"{len(keys)} {what} ({_first(keys)})"
        for what, keys in (
            ("weights are missing", report["missing_keys"]),
            ("are unknown", left_over),
            ("have another shape", [key for key, *_ in report["mismatched_keys"]]),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f"The checkpoint of {name!r} does not fit its model: {'; '.join(problems)}. Download it again (an "
            "interrupted copy?), or check that config.json and weights belong together."
        )


def _first(keys: Collection[str], count: int = 3) -> str:
    some = sorted(keys)[:count]
    return ", ".join(some) + (", ..." if len(keys) > count else "")
