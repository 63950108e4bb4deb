"""The config of a run, which may come from elsewhere: its values are taken, and none of its code.

A run directory can be a download. What it may say is data: names, numbers, texts, paths. What would run code is either
ours by name or refused: ``_target_`` (Hydra imports and calls it), ``trust_remote_code``, an attention implementation
from the hub, and resolvers such as ``${oc.env:HOME}``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from mosear.config.signature import HYDRA_KEYS
from mosear.moved import new_name
from mosear.problems import ConfigError, Problem

log = logging.getLogger(__name__)

TRUST = "backbone.trust_remote_code"
ATTENTION = "backbone.attn_implementation"
ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention")
"""What transformers implements itself; any other name can be a kernel that it downloads and runs."""

OWN = {
    "backbone": ("mosear.backbones.load_backbone", "mosear.backbones.loading.load_backbone"),
    "data": ("mosear.data.datamodule.ClipDataModule", "mosear.data.ClipDataModule"),
    "data.prompt": ("mosear.data.prompt.Prompt",),
    "data.budget": ("mosear.data.media.MediaBudget", "mosear.data.budget.MediaBudget"),
    "data.decode": ("mosear.data.decode_process.Decoding",),
    "data.prepare": (
        "mosear.data.synthetic.corpus.ensure_corpus",
        "mosear.data.synthetic.blends.ensure_blends",
        "mosear.data.synthetic.continuous.ensure_continuous",
    ),
    "system": ("mosear.runtime.omni.build_omni_system", "mosear.runtime.fusion.build_fusion_system"),
    "system.augment": ("mosear.fusion.augment.Augment",),
    "features": ("mosear.fusion.omni_towers.OmniTowers", "mosear.fusion.published.Published"),
    "model": ("mosear.fusion.models.*.*",),
    "task": ("mosear.fusion.tasks.*.*",),
}
"""The sections that a reopened run reads, and what may build each; ``*`` is any one name."""

_RESOLVER = re.compile(r"(?<!\\)\$\{[^${}]*:")


def without_code(saved: DictConfig, path: Path, *, keys: Collection[str] = (*OWN,), ours: Collection[str] = ()) -> None:
    """Refuse a run's config that names code of its own, and take back the trust that it grants.

    Args:
        saved: the config, as loaded; ``backbone.trust_remote_code`` is set to false in it.
        path: of its file, for messages.
        keys: the sections of :data:`OWN` that are read.
        ours: keys that the command line sets; what the run says there is not read.

    Raises:
        ConfigError: naming every such entry.
    """
    plain: Any = OmegaConf.to_container(saved, resolve=False)
    problems = [
        *_resolvers(plain, path),
        *(problem for key in keys for problem in _targets(OmegaConf.select(saved, key), key, keys, ours)),
    ]
    attention = OmegaConf.select(saved, ATTENTION)
    if attention is not None and str(attention) not in ATTENTIONS and ATTENTION not in ours:
        message = f"The run ({path}) names an attention that transformers would download and run."
        problems.append(Problem(ATTENTION, attention, message, f"Use a run with one of: {', '.join(ATTENTIONS)}."))
    if problems:
        raise ConfigError([*{problem.key: problem for problem in problems}.values()])
    if OmegaConf.select(saved, TRUST):
        if TRUST not in ours:
            log.warning("%s says %s=true. Only your command line may say so: it is not followed.", path, TRUST)
        OmegaConf.update(saved, TRUST, False)


def _targets(node: Any, key: str, sections: Collection[str], ours: Collection[str]) -> Iterator[Problem]:
    plain = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    for name, entry, value in _entries(plain, key):
        if name not in HYDRA_KEYS or f"{entry}.{name}" in ours or (entry != key and entry in sections):
            continue
        accepted = OWN.get(entry, ())
        fits = {
            "_target_": isinstance(value, str) and (_is_one_of(value, accepted) or new_name(value) in accepted),
            "_partial_": bool(accepted) and isinstance(value, bool),
        }.get(name, False)
        if not fits:
            message = "The run names code that its reader would import and call; a run may only hold values."
            remedy = "Use a run of mosear's own classes, or name yours on the command line of train.py."
            yield Problem(f"{entry}.{name}", value, message, remedy)


def _is_one_of(target: str, accepted: Collection[str]) -> bool:
    patterns = (re.escape(own).replace(r"\*", r"\w+") for own in accepted)
    return any(re.fullmatch(pattern, target) for pattern in patterns)


def _entries(plain: Any, key: str) -> Iterator[tuple[str, str, Any]]:
    """Name, parent and value of every entry of mappings at and below ``key``."""
    children = enumerate(plain) if isinstance(plain, list) else plain.items() if isinstance(plain, Mapping) else ()
    for name, value in children:
        yield str(name), key, value
        yield from _entries(value, f"{key}.{name}" if key else str(name))


def _resolvers(plain: Any, path: Path) -> Iterator[Problem]:
    for name, parent, value in _entries(plain, ""):
        if isinstance(value, str) and _RESOLVER.search(value):
            key = f"{parent}.{name}".lstrip(".")
            message = f"{path} asks for a value from outside; train.py saves configs in which all values are resolved."
            yield Problem(key, value, message, "Write the value itself there.")
