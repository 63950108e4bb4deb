"""The layout in which Qwen's omni checkpoints are published, written down key by key and apart from our code.

Full-size checkpoints are written sparsely: headers and lengths are real, contents are holes that take no disk.
"""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Shapes = dict[str, tuple[int, ...]]


def published_shapes(config: Mapping[str, Any]) -> Shapes:
    """Every thinker key of a published checkpoint with its shape."""
    shapes = _text(config["text_config"])
    if config["model_type"] == "qwen2_5_omni_thinker":
        shapes |= _vision_25(config["vision_config"]) | _audio_25(config["audio_config"])
    else:
        shapes |= _vision_3(config["vision_config"]) | _audio_3(config["audio_config"])
    return {f"thinker.{key}": shape for key, shape in shapes.items()}


def _text(text: Mapping[str, Any]) -> Shapes:
    hidden, heads, kv_heads = text["hidden_size"], text["num_attention_heads"], text["num_key_value_heads"]
    head = text.get("head_dim") or hidden // heads
    sparse = "num_experts" in text
    shapes: Shapes = {
        "model.embed_tokens.weight": (text["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (text["vocab_size"], hidden),
    }
    for layer in range(text["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        own: Shapes = {f"{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        for name, width in (("q", heads * head), ("k", kv_heads * head), ("v", kv_heads * head)):
            own[f"self_attn.{name}_proj.weight"] = (width, hidden)
            if not sparse:
                own[f"self_attn.{name}_proj.bias"] = (width,)
        own["self_attn.o_proj.weight"] = (hidden, heads * head)
        if sparse:
            own |= {f"self_attn.{name}_norm.weight": (head,) for name in "qk"}
            own["mlp.gate.weight"] = (text["num_experts"], hidden)
            for expert in range(text["num_experts"]):
                own |= _mlp(f"mlp.experts.{expert}.", hidden, text["moe_intermediate_size"], bias=False)
        else:
            own |= _mlp("mlp.", hidden, text["intermediate_size"], bias=False)
        shapes |= {prefix + key: shape for key, shape in own.items()}
    return shapes


def _mlp(prefix: str, hidden: int, inner: int, *, bias: bool) -> Shapes:
    shapes: Shapes = {}
    for name, shape in (("gate", (inner, hidden)), ("up", (inner, hidden)), ("down", (hidden, inner))):
        shapes[f"{prefix}{name}_proj.weight"] = shape
        if bias:
            shapes[f"{prefix}{name}_proj.bias"] = shape[:1]
    return shapes


def _linear(name: str, out: int, into: int, *, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _vision_25(vision: Mapping[str, Any]) -> Shapes:
    width, merged = vision["hidden_size"], vision["hidden_size"] * vision["spatial_merge_size"] ** 2
    patch = vision["patch_size"]
    shapes: Shapes = {
        "visual.patch_embed.proj.weight": (width, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
        "visual.merger.ln_q.weight": (width,),
        **_linear("visual.merger.mlp.0", merged, merged),
        **_linear("visual.merger.mlp.2", vision["out_hidden_size"], merged),
    }
    for block in range(vision["depth"]):
        prefix = f"visual.blocks.{block}."
        shapes |= {f"{prefix}norm1.weight": (width,), f"{prefix}norm2.weight": (width,)}
        for name in ("q", "k", "v", "proj"):
            shapes |= _linear(f"{prefix}attn.{name}", width, width)
        shapes |= _mlp(f"{prefix}mlp.", width, vision["intermediate_size"], bias=True)
    return shapes


def _audio_layers(audio: Mapping[str, Any], *, key_bias: bool) -> Shapes:
    width, inner = audio["d_model"], audio["encoder_ffn_dim"]
    shapes: Shapes = _norm("audio_tower.ln_post", width)
    for layer in range(audio["encoder_layers"]):
        prefix = f"audio_tower.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{prefix}self_attn.{name}", width, width, bias=key_bias or name != "k_proj")
        shapes |= _norm(f"{prefix}self_attn_layer_norm", width) | _norm(f"{prefix}final_layer_norm", width)
        shapes |= _linear(f"{prefix}fc1", inner, width) | _linear(f"{prefix}fc2", width, inner)
    return shapes


def _audio_25(audio: Mapping[str, Any]) -> Shapes:
    width = audio["d_model"]
    return {
        **_audio_layers(audio, key_bias=False),
        "audio_tower.conv1.weight": (width, audio["num_mel_bins"], 3),
        "audio_tower.conv1.bias": (width,),
        "audio_tower.conv2.weight": (width, width, 3),
        "audio_tower.conv2.bias": (width,),
        "audio_tower.audio_bos_eos_token.weight": (2, audio["output_dim"]),
        **_linear("audio_tower.proj", audio["output_dim"], width),
    }


def _audio_3(audio: Mapping[str, Any]) -> Shapes:
    width, channels = audio["d_model"], audio["downsample_hidden_size"]
    shapes = _audio_layers(audio, key_bias=True)
    for number, into in ((1, 1), (2, channels), (3, channels)):
        shapes[f"audio_tower.conv2d{number}.weight"] = (channels, into, 3, 3)
        shapes[f"audio_tower.conv2d{number}.bias"] = (channels,)
    mel = audio["num_mel_bins"]
    for _ in range(3):  # each convolution halves the mel bins
        mel = (mel + 1) // 2
    shapes["audio_tower.conv_out.weight"] = (width, channels * mel)
    return (
        shapes | _linear("audio_tower.proj1", width, width) | _linear("audio_tower.proj2", audio["output_dim"], width)
    )


def _vision_3(vision: Mapping[str, Any]) -> Shapes:
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = width * vision["spatial_merge_size"] ** 2
    shapes: Shapes = {
        "visual.patch_embed.proj.weight": (width, vision["in_channels"], vision["temporal_patch_size"], patch, patch),
        "visual.patch_embed.proj.bias": (width,),
        "visual.pos_embed.weight": (vision["num_position_embeddings"], width),
    }
    mergers = [("visual.merger", width)]
    mergers += [(f"visual.merger_list.{n}", merged) for n in range(len(vision["deepstack_visual_indexes"]))]
    for name, normed in mergers:
        shapes |= _norm(f"{name}.ln_q", normed) | _linear(f"{name}.mlp.0", merged, merged)
        shapes |= _linear(f"{name}.mlp.2", vision["out_hidden_size"], merged)
    for block in range(vision["depth"]):
        prefix = f"visual.blocks.{block}."
        shapes |= _norm(f"{prefix}norm1", width) | _norm(f"{prefix}norm2", width)
        shapes |= _linear(f"{prefix}attn.qkv", 3 * width, width) | _linear(f"{prefix}attn.proj", width, width)
        shapes |= _linear(f"{prefix}mlp.linear_fc1", inner, width) | _linear(f"{prefix}mlp.linear_fc2", width, inner)
    return shapes


def write_config(directory: Path, thinker: Mapping[str, Any]) -> None:
    """``config.json`` of a full model: the thinker's config is one part of it."""
    full = {"model_type": thinker["model_type"].removesuffix("_thinker"), "thinker_config": dict(thinker)}
    (directory / "config.json").write_text(json.dumps(full))


def _in_shards(names: list[str], shards: int) -> list[list[str]]:
    size = -(-len(names) // shards)
    return [names[start : start + size] for start in range(0, len(names), size)]


def _write_index(directory: Path, parts: list[list[str]]) -> list[Path]:
    files = [f"model-{n:05d}-of-{len(parts):05d}.safetensors" for n in range(1, len(parts) + 1)]
    placed = {name: file for file, part in zip(files, parts, strict=True) for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return [directory / file for file in files]


def write_sparse(directory: Path, shapes: Shapes, shards: int = 3) -> int:
    """bfloat16 shards whose contents are holes; returns the bytes that they pretend to have."""
    total, parts = 0, _in_shards(list(shapes), shards)
    for path, names in zip(_write_index(directory, parts), parts, strict=True):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name in names:
            start, end = end, end + 2 * torch.Size(shapes[name]).numel()
            header[name] = {"dtype": "BF16", "shape": list(shapes[name]), "data_offsets": [start, end]}
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + end)
        total += end
    return total


def write_shards(directory: Path, tensors: Mapping[str, torch.Tensor], shards: int = 3) -> None:
    """Real contents."""
    parts = _in_shards(list(tensors), shards)
    for path, names in zip(_write_index(directory, parts), parts, strict=True):
        save_file({name: tensors[name].contiguous().clone() for name in names}, path, {"format": "pt"})


def as_published(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A thinker's weights under their published keys, with every expert on its own."""
    renamed: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        name = key.replace("model.language_model.", "model.")
        for tower in ("audio_tower", "visual"):
            name = name.replace(f"model.{tower}.", f"{tower}.")
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(value):
                gate, up = both.chunk(2)
                stem = name.removesuffix("gate_up_proj")
                renamed[f"thinker.{stem}{expert}.gate_proj.weight"] = gate
                renamed[f"thinker.{stem}{expert}.up_proj.weight"] = up
        elif name.endswith("experts.down_proj"):
            stem = name.removesuffix("down_proj")
            renamed |= {f"thinker.{stem}{n}.down_proj.weight": one for n, one in enumerate(value)}
        else:
            renamed[f"thinker.{name}"] = value
    return renamed
