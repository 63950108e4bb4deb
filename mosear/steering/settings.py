"""Calibrated settings: the JSON that ``python -m mosear calibrate`` writes and ``steering.settings`` names.

    {"policy": {"ar": {"threshold": 0.6, ...}, "chase": {"strength": 6.0, ...}},
     "backbone": "tiny-omni", "adapter": null, "split_hash": "...", "scores": {...}, "trials": [...]}

``policy`` names policies by their ``key``, in the order in which they are applied, with their fields; a field that is
left out has its default. A file imports nothing: it can name only :func:`~mosear.steering.known.known_policies`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mosear.files import sha256_of, written_atomically
from mosear.steering.known import known_policies
from mosear.steering.policies.base import Policy
from mosear.steering.policies.sequence import Policies

NEEDED = {"policy": dict, "backbone": str, "split_hash": str, "scores": dict}
OPTIONAL: dict[str, tuple[type, ...]] = {"adapter": (str, type(None)), "trials": (list,)}


@dataclass(frozen=True)
class SteeringSettings:
    """A calibrated policy, and what it was calibrated on.

    Attributes:
        policy: ready to use.
        backbone: name of the backbone.
        split_hash: tells which validation clips were used.
        scores: what calibration measured, for the reader.
        adapter: SHA-256 of the adapter's weights; ``None`` = the bare backbone.
        trials: everything that was tried, for the reader.
    """

    policy: Policy
    backbone: str
    split_hash: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    adapter: str | None = None
    trials: Sequence[Mapping[str, Any]] = ()

    def fits(self, adapter: Path | None) -> bool:
        """Was it calibrated on this adapter, or on a bare backbone? Settings of an adapter mean nothing to another."""
        return self.adapter is None or (adapter is not None and self.adapter == adapter_fingerprint(adapter))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, atomically.

        Raises:
            ValueError: if the policy holds a reliability estimate that JSON cannot.
        """
        content = {
            "policy": policy_as_dict(self.policy),
            "backbone": self.backbone,
            "adapter": self.adapter,
            "split_hash": self.split_hash,
            "scores": dict(self.scores),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        # A line per trial: indented, they would bury the settings.
        trials = [json.dumps(trial, ensure_ascii=False, allow_nan=False) for trial in self.trials]
        listed = "\n    " + ",\n    ".join(trials) + "\n  " if trials else ""
        text = f'{text[:-2]},\n  "trials": [{listed}]\n}}\n'
        with written_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        backbone: str | None = None,
        changes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Self:
        """Read the file.

        Args:
            path: written by :meth:`save`.
            backbone: the one to be steered; ``None`` accepts any.
            changes: by policy, single fields that win over the file's.

        Raises:
            ValueError: if it is no such file, names unknown or impossible settings, or belongs to another backbone.
        """
        content = _content(Path(path))
        if backbone is not None and content["backbone"] != backbone:
            raise ValueError(
                f"{path} was calibrated on {content['backbone']!r}, not on {backbone!r}: the settings of one backbone "
                "mean nothing to another. Calibrate on this backbone."
            )
        try:
            policy = build_policy(content["policy"], changes)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return cls(
            policy,
            content["backbone"],
            content["split_hash"],
            content["scores"],
            content.get("adapter"),
            tuple(content.get("trials", ())),
        )


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read ({error.strerror}). Write it with python -m mosear calibrate."
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    found = content if isinstance(content, dict) else {}
    wrong = [name for name, kind in NEEDED.items() if not isinstance(found.get(name), kind)]
    wrong += [name for name, kinds in OPTIONAL.items() if name in found and not isinstance(found[name], kinds)]
    if wrong:
        raise ValueError(
            f"{path} is no calibration file: {', '.join(wrong)} missing or of the wrong type. Give a file that python "
            "-m mosear calibrate wrote."
        )
    return found


def adapter_fingerprint(adapter: Path) -> str:
    """SHA-256 of an adapter's weights."""
    return sha256_of(adapter / "adapter_model.safetensors")


def build_policy(
    settings: Mapping[str, Mapping[str, Any]], changes: Mapping[str, Mapping[str, Any]] | None = None
) -> Policy:
    """The policy that ``{"ar": {...}, "chase": {...}}`` describes.

    Args:
        settings: fields by policy, in the order of application.
        changes: fields that win over these.

    Raises:
        ValueError: for unknown policies, unknown fields and impossible values.
    """
    changes, known = changes or {}, known_policies()
    if not settings:
        raise ValueError(f"policy names none of {', '.join(known)}.")
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(
            f"there is no policy {', '.join(map(repr, unknown))}; there are {', '.join(known)}. A policy of your own "
            "package is known once a config names its class as _target_, or once your code has imported it."
        )
    if foreign := [name for name in changes if name not in settings]:
        raise ValueError(f"changes={dict(changes)} are about {', '.join(foreign)}, which is not among the policies.")
    steps = []
    for name, fields in settings.items():
        try:
            steps.append(known[name](**{**fields, **changes.get(name, {})}))
        except TypeError as error:
            raise ValueError(f"{name}: {error}.") from error
    return steps[0] if len(steps) == 1 else Policies(steps)


def policy_as_dict(policy: Policy) -> dict[str, dict[str, Any]]:
    """What :func:`build_policy` turns into this policy again, ready for JSON.

    Raises:
        ValueError: if a step has no key of its own or settings that JSON cannot hold, or a policy occurs twice.
    """
    known = known_policies()
    found: dict[str, dict[str, Any]] = {}
    for step in policy.steps:
        refused = f"{step!r} cannot be written as JSON"
        if known.get(step.key) is not type(step):
            raise ValueError(f"{refused}: {type(step).__name__} has no `key` of its own.")
        if step.key in found:
            raise ValueError(f"{refused}: {step.key} occurs twice, and a settings file names each policy once.")
        try:
            found[step.key] = step.as_json()
            json.dumps(found[step.key])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{refused}: {error}.") from error
    return found
