"""One file per family of omni-modal language models. Everything outside this folder is family-blind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosear.backbones.families.base import OmniFamily


def known_families() -> dict[str, type[OmniFamily]]:
    """Family classes by name, in a stable order."""
    from mosear.backbones.families.qwen2_5_omni import Qwen25Omni
    from mosear.backbones.families.qwen3_omni_moe import Qwen3OmniMoe

    return {family.name: family for family in (Qwen25Omni, Qwen3OmniMoe)}


def family_of(model_type: str | None) -> type[OmniFamily]:
    """The family that reads checkpoints of ``model_type`` (the key in ``config.json``).

    Raises:
        ValueError: if no family does; the message lists those that are known.
    """
    for family in known_families().values():
        if model_type in family.model_types:
            return family
    known = ", ".join(f"{f.name} ({', '.join(f.model_types)})" for f in known_families().values())
    raise ValueError(
        f"Unknown backbone family: config.json says model_type={model_type!r}. Known families: {known}. "
        "To add one, write mosear/backbones/families/<name>.py (see CONTRIBUTING.md)."
    )
