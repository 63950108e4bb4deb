"""Loads a backbone by name: an embedded one, a local checkpoint directory or a hub id."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.families import family_of
from mosear.backbones.families.base import OmniFamily
from mosear.backbones.tiny import EMBEDDED, embedded_path

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load_backbone(
    name: str,
    *,
    quantization: Literal["nf4"] | None = None,
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16",
    attn_implementation: str = "sdpa",
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> OmniBackbone:
    """Load a frozen backbone (thinker only; a talker in the checkpoint is never read).

    Args:
        name: ``tiny-omni``, ``tiny-omni-beta4``, ``tiny-omni-balanced``, a checkpoint directory or a hub id.
        quantization: ``nf4`` for 4-bit weights of the language model (bitsandbytes), else ``None``.
        dtype: floating type of weights and activations.
        attn_implementation: attention of the language model and of the towers.
        device: where to put the weights; ``None`` leaves them where transformers loads them (CPU, or the accelerator
            that
            bitsandbytes needs).
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that the checkpoint brings along. Off unless you turn it on.

    Raises:
        ValueError: unknown name, family or option; the message says what is known.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
    if quantization not in (None, "nf4"):
        raise ValueError(f"quantization={quantization!r} is not supported. Use null or 'nf4'.")
    source = _source(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    try:
        # Read as plain JSON: an unknown family must get our error, and none of its code may run before.
        config, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
    except OSError as error:
        raise ValueError(
            f"No backbone found for {name!r}. Give an embedded name ({', '.join(EMBEDDED)}), a directory with "
            f"config.json, or a hub id. transformers says: {error}"
        ) from error
    family_class = family_of(config.get("model_type"))
    model = family_class.model_class().from_pretrained(
        source,
        dtype=DTYPES[dtype],
        attn_implementation=attn_implementation,
        quantization_config=_quantization(quantization, family_class, DTYPES[dtype]),
        use_safetensors=True,
        **options,
    )
    if quantization is not None:
        _keep_trainable_layout(model)
    if device is not None and quantization is None:
        model = model.to(device)
    processor = family_class.processor_class().from_pretrained(source, **options)
    return OmniBackbone(name, model, processor, family_class(model.config)).freeze()


def _keep_trainable_layout(model: nn.Module) -> None:
    """Keep 4-bit weights in the layout that gradients can pass.

    On processors with AVX512-BF16, bitsandbytes repacks a layer's weights at its first pass in eval mode. The packed
    form is for inference alone (no gradient, and rows must be multiples of the block size), but we evaluate before we
    train.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def _source(name: str) -> str:
    if name in EMBEDDED:
        return str(embedded_path(name))
    if name.startswith("tiny-"):
        raise ValueError(f"Unknown embedded backbone {name!r}. There are: {', '.join(EMBEDDED)}.")
    path = Path(name).expanduser()
    if path.exists() and not (path / "config.json").is_file():
        raise ValueError(f"{path} is not a checkpoint directory: it has no config.json.")
    return str(path) if path.exists() else name


def _quantization(kind: str | None, family: type[OmniFamily], dtype: torch.dtype) -> BitsAndBytesConfig | None:
    if kind is None:
        return None
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError("quantization='nf4' needs bitsandbytes: pip install 'mosear[quant]'.") from error
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # The towers run once per clip and the head is sensitive: both stay in full precision.
        llm_int8_skip_modules=[*family.tower_paths, "lm_head"],
    )
