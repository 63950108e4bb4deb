"""The embedded backbones: real, small Qwen2.5-Omni thinkers that need no download.

``tiny-omni`` reads face, voice and transcript but follows the voice when they disagree (which mosear corrects);
``tiny-omni-beta4`` is another model with a worse case of it, ``tiny-omni-balanced`` the healthy control. They were
trained by ``python -m mosear.pretraining.pretrain``. ``tiny-omni-reasons`` goes on from ``tiny-omni`` and can also say
what face, voice and words do (``python -m mosear.pretraining.reasons``).
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
EMBEDDED = ("tiny-omni", "tiny-omni-beta4", "tiny-omni-balanced", "tiny-omni-reasons")


def embedded_path(name: str) -> Path:
    """Directory of an embedded checkpoint (thinker weights, config, tokenizer, processor)."""
    path = WEIGHTS / name
    if not (path / "model.safetensors").is_file():
        raise ValueError(
            f"The embedded backbone {name!r} has no weights at {path}. Reinstall mosear, or train it with "
            f"`python -m mosear.pretraining.pretrain --out {path}`."
        )
    return path
