"""Config keys that have other names now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mosear.moved import new_name

RENAMED = {
    "mixing": "method, with method=conflict_mixing (and method=answer_tuning instead of mixing.rate=0)",
    "tuning.betas": "tuning.optimizer.betas",
}
"""Old key to what is to be written instead; a key below an old one counts too."""


def renamed(key: str) -> str | None:
    """What to write instead of a key; ``None`` if it was not renamed."""
    for old, new in RENAMED.items():
        if key == old or key.startswith(f"{old}."):
            return f"{old} is now {new}"
    return None


def refuse_renamed(arguments: Iterable[str]) -> None:
    """Stop at command-line overrides of renamed keys, which Hydra would only call unknown.

    Raises:
        SystemExit: naming all of them.
    """
    keys = [argument.partition("=")[0].lstrip("+~") for argument in arguments if "=" in argument]
    found = [f"{key}: {told}" for key in keys if (told := renamed(key)) is not None]
    if found:
        raise SystemExit("keys of the configuration have other names now:\n  " + "\n  ".join(found))


ADDED = {
    "system._target_": "mosear.runtime.omni.build_omni_system",
    "tuning.optimizer._target_": "torch.optim.AdamW",
    "tuning.optimizer._partial_": True,
    "tuning.optimizer.betas": [0.9, 0.999],
}
"""What the keys that came later say about a run that has none of them."""


LATER = {"data.without_reason": "refuse"}
"""The same of keys that came after those."""


def in_present_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted key, as a checkpoint of any earlier version wrote them, by their present names."""
    found = {key: new_name(value) or value if _is_target(key, value) else value for key, value in settings.items()}
    mixing = {key.removeprefix("mixing."): found.pop(key) for key in list(found) if key.startswith("mixing.")}
    if "system._target_" in found:
        return {**LATER, **found}
    if "tuning.betas" in found:
        found["tuning.optimizer.betas"] = list(found.pop("tuning.betas"))
    if mixing.get("rate"):
        found |= {f"method.{key}": value for key, value in mixing.items()}
    else:
        found["method._target_"] = "mosear.methods.answer_tuning.AnswerTuning"
    return {**LATER, **ADDED, **found}


def _is_target(key: str, value: Any) -> bool:
    return key.rpartition(".")[2] == "_target_" and isinstance(value, str)
