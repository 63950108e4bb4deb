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


def steering_policy(cfg: DictConfig) -> Policy | None:
    """What ``cfg.steering`` asks for, ``None`` without steering.

    Raises:
        ValueError: for impossible settings, or a calibration file that is wrong or another backbone's.
    """
    from mosear.steering.policies.sequence import Policies
    from mosear.steering.settings import STEPS, SteeringSettings

    names = [name for name in STEPS if cfg.steering.get(name) is not None]
    if not names:
        return None
    steps = {name: instantiate(cfg.steering[name], _convert_="all") for name in names}
    changes: Any = OmegaConf.to_container(cfg.steering.changes, resolve=True)
    if cfg.steering.settings is None:
        if changes:
            raise ValueError(f"steering.changes={changes} is for a file in steering.settings. Set steering.NAME.FIELD.")
        return steps[names[0]] if len(steps) == 1 else Policies(list(steps.values()))
    if changed := [name for name, step in steps.items() if step != STEPS[name]()]:
        raise ValueError(
            f"both steering.settings={cfg.steering.settings} and values of its own under "
            f"{', '.join(f'steering.{name}' for name in changed)}. Leave the values at their defaults; single ones can "
            "win over the file with +steering.changes.NAME.FIELD=VALUE."
        )
    found: Any = SteeringSettings.load(cfg.steering.settings, backbone=cfg.backbone.name, changes=changes).policy
    inside = [name for name, kind in STEPS.items() if any(isinstance(step, kind) for step in found.steps)]
    if sorted(inside) != sorted(names):
        raise ValueError(
            f"{cfg.steering.settings} holds settings for {' and '.join(inside)}. Use steering={'_'.join(inside)}."
        )
    policy: Policy = found
    return policy


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
