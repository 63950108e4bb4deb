"""Loads a backbone by name: an embedded one, a local checkpoint directory or a hub id."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.families import family_of
from mosear.backbones.families.base import OmniFamily
from mosear.backbones.integrity import refuse_incomplete
from mosear.backbones.partitioned import take_out_towers, weights_are_partitioned
from mosear.backbones.patches import project_patches_by_product
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
    gradient_checkpointing: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> OmniBackbone:
    """Load a frozen backbone (thinker only; a talker in the checkpoint is never read).

    While DeepSpeed's ZeRO-3 settings are alive (:mod:`mosear.backbones.partitioned`) no process ever holds the whole
    decoder; the towers stay whole on each.

    Args:
        name: ``tiny-omni``, ``tiny-omni-beta4``, ``tiny-omni-balanced``, a checkpoint directory or a hub id.
        quantization: ``nf4`` for 4-bit weights of the language model (bitsandbytes), else ``None``.
        dtype: floating type of weights and activations.
        attn_implementation: attention of the language model and of the towers.
        device: where to load the weights, straight from the files: ``cpu``, ``cuda:1``, or ``auto`` for this process's
            GPU (the CPU where there is none). ``None`` leaves them where transformers loads them (CPU, or the
            accelerator that bitsandbytes needs). Not read under ZeRO-3, which places each process's part itself.
        gradient_checkpointing: keep a decoder layer's input alone for backward and run the layer again there: far less
            memory, about a third more time. Evaluation does not change.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that the checkpoint brings along. Off unless you turn it on.

    Raises:
        ValueError: unknown name, family or option (the message says what is known), or a checkpoint that lacks files
            or weights, or has others.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not one of {', '.join(DTYPES)}.")
    if quantization not in (None, "nf4"):
        raise ValueError(f"quantization={quantization!r} is not supported. Use null or 'nf4'.")
    source = source_of(name)
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
    # Partitioned loading initialises weights before it reads them; an adapter must start the same either way.
    with _complete(name), torch.random.fork_rng() if weights_are_partitioned() else nullcontext():
        model, report = family_class.model_class().from_pretrained(
            source,
            dtype=DTYPES[dtype],
            attn_implementation=attn_implementation,
            quantization_config=_quantization(quantization, family_class, DTYPES[dtype]),
            use_safetensors=True,
            device_map=_device_map(device),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported like every other misfit
            **options,
        )
    refuse_incomplete(name, report)
    if quantization is not None:
        _keep_trainable_layout(model)
    if weights_are_partitioned():  # each process holds its part of every weight, on its own device
        take_out_towers(model, family_class(model.config))
    project_patches_by_product(model)
    with _complete(name):
        processor = family_class.processor_class().from_pretrained(source, **options)
    backbone = OmniBackbone(name, model, processor, family_class(model.config)).freeze()
    if gradient_checkpointing:
        recompute_layers(backbone.language_model)
    return backbone


@contextmanager
def _complete(name: str) -> Iterator[None]:
    """Says how to go on where a checkpoint's config is here and other files are not: a download was interrupted."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"Not all files of {name!r} are here. An interrupted download goes on with: hf download {name} (without "
            f"HF_HUB_OFFLINE). transformers says: {error}"
        ) from error


def recompute_layers(language_model: Any) -> None:
    """Turn gradient checkpointing on for the decoder (the towers have no gradients)."""
    # Reentrant checkpoints give a gate no gradient, and none at all to layers behind frozen embeddings.
    options = {"use_reentrant": False}
    if hasattr(language_model, "activation_checkpointing_enable"):  # its name from transformers 5.23 on
        language_model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:
        language_model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _device_map(device: str | None) -> dict[str, str] | None:
    """One device for everything: weights then go from the files to it, without a copy on the CPU."""
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else None
    if device is None or device == "cpu" or weights_are_partitioned():
        return None
    return {"": device}


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


def source_of(name: str) -> str:
    """Directory or hub id behind a backbone's name."""
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
