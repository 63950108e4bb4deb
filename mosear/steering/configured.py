"""From the ``steering`` section of a config to a policy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from mosear.steering.policies.base import Policy

NONE = "none"
CHANGES = "changes"


def steering_policy(cfg: DictConfig) -> Policy | None:
    """What ``cfg.steering`` asks for, ``None`` without steering.

    Every node of ``cfg.steering`` that has a ``_target_`` is a step; they are applied in the order of the YAML.

    Raises:
        ValueError: for impossible settings, or a calibration file that is wrong or another backbone's.
    """
    from mosear.steering.policies.sequence import Policies
    from mosear.steering.settings import SteeringSettings

    steps = _steps(cfg.steering)
    if not steps:
        return None
    section: Any = OmegaConf.to_container(cfg.steering, resolve=True)
    changes, path = section.get(CHANGES) or {}, section.get("settings")
    if path is None:
        if changes:
            raise ValueError(f"steering.changes={changes} is for a file in steering.settings. Set steering.NAME.FIELD.")
        return next(iter(steps.values())) if len(steps) == 1 else Policies(list(steps.values()))
    if changed := [name for name, step in steps.items() if step != _default(step)]:
        raise ValueError(
            f"both steering.settings={path} and values of its own under "
            f"{', '.join(f'steering.{name}' for name in changed)}. Leave the values at their defaults; single ones can "
            "win over the file with +steering.changes.NAME.FIELD=VALUE."
        )
    found: Any = SteeringSettings.load(path, backbone=cfg.backbone.name, changes=changes).policy
    inside = [step.key for step in found.steps]
    if sorted(inside) != sorted(step.key for step in steps.values()):
        raise ValueError(f"{path} holds settings for {' and '.join(inside)}. Use steering={'_'.join(inside)}.")
    policy: Policy = found
    return policy


def _steps(section: DictConfig) -> dict[str, Policy]:
    from mosear.steering.policies.base import Policy

    nodes = {str(name): node for name, node in section.items() if isinstance(node, DictConfig) and name != CHANGES}
    if untold := [name for name, node in nodes.items() if "_target_" not in node]:
        raise ValueError(
            f"{', '.join(f'steering.{name}' for name in untold)} has no _target_. Choose a file of conf/steering that "
            "has this policy, as steering=NAME, or name its class in _target_."
        )
    steps: dict[str, Any] = {name: instantiate(node, _convert_="all") for name, node in nodes.items()}
    if wrong := [name for name, step in steps.items() if not isinstance(step, Policy)]:
        raise ValueError(
            f"{', '.join(f'steering.{name}._target_={nodes[name]._target_}' for name in wrong)} builds no subclass of "
            "mosear.steering.Policy. Name one."
        )
    return steps


def _default(step: Policy) -> Policy:
    try:
        return type(step)()
    except TypeError as error:
        raise ValueError(
            f"steering.settings replaces the values of the config, which must be at their defaults, but "
            f"{type(step).__name__} has settings without a default ({error}). Give each of them one."
        ) from error


def decoder_size(backbone: str) -> tuple[int, int] | None:
    """Layers and heads of the language model, if its config lies on this machine; its weights stay unread."""
    from mosear.backbones.tiny import EMBEDDED, embedded_path

    path = embedded_path(backbone) if backbone in EMBEDDED else Path(backbone).expanduser()
    if not (path / "config.json").is_file():
        return None
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    text = config.get("thinker_config", config).get("text_config", {})
    if not {"num_hidden_layers", "num_attention_heads"} <= text.keys():
        return None
    return int(text["num_hidden_layers"]), int(text["num_attention_heads"])
