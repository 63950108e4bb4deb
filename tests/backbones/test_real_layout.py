"""Published checkpoints without their weights: keys, shapes and targets at full size, contents at tiny size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.families import family_of
from mosear.backbones.loading import source_of
from mosear.backbones.published import SIZES, known_config, published_sizes
from mosear.experts import MoSEConfig
from mosear.experts.layer import MoSELinear
from tests.helpers.published_layout import as_published, published_shapes, write_config, write_shards, write_sparse

ROOT = Path(__file__).parents[2]
DENSE_3B, DENSE_7B, SPARSE = "Qwen/Qwen2.5-Omni-3B", "Qwen/Qwen2.5-Omni-7B", "Qwen/Qwen3-Omni-30B-A3B-Instruct"


def sized(**values: Any) -> list[Any]:
    """One case per checkpoint, 7B in the fast suite: at full size even names and shapes take seconds."""
    names = {"dense_3b": DENSE_3B, "dense_7b": DENSE_7B, "sparse": SPARSE}
    own = {key: (names[key], *values.get(key, ())) for key in names}
    return [pytest.param(*own[key], marks=[] if key == "dense_7b" else pytest.mark.slow, id=key) for key in names]


LORA = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"


def sizes(name: str) -> dict[str, Any]:
    found = published_sizes(name)
    assert found is not None
    return found


def on_meta(name: str, layers: int | None = None) -> Any:
    """The full-size thinker without memory."""
    config = sizes(name)
    if layers is not None:
        config["text_config"]["num_hidden_layers"] = layers
    model_class: Any = family_of(config["model_type"]).model_class()
    with torch.device("meta"):
        return model_class(model_class.config_class(**{k: v for k, v in config.items() if k != "dtype"}))


def processor_files(source: Path, directory: Path) -> None:
    for path in source.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name not in (
            "config.json",
            "model.safetensors.index.json",
        ):
            (directory / path.name).write_bytes(path.read_bytes())


@pytest.fixture
def published(backbone: OmniBackbone, tmp_path: Path) -> Path:
    """A tiny checkpoint exactly as the large ones are published: sharded, nested, with weights of a talker."""
    source = Path(backbone.name)
    processor_files(source, tmp_path)
    write_config(tmp_path, json.loads((source / "config.json").read_text()))
    tensors = as_published(load_file(source / "model.safetensors"))
    others = {"talker.model.norm.weight": torch.ones(3), "token2wav.x": torch.ones(2), "code2wav.y": torch.ones(2)}
    write_shards(tmp_path, tensors | others)
    return tmp_path


# -- full size, no contents --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sized())
def test_every_published_key_finds_its_place(
    name: str, qwen25_dir: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = sizes(name)
    shapes = published_shapes(config)
    write_config(tmp_path, config)
    processor_files(qwen25_dir if "2.5" in name else request.getfixturevalue("qwen3_dir"), tmp_path)
    pretended = write_sparse(tmp_path, {**shapes, "talker.model.norm.weight": (896,)})
    assert pretended > 8e9
    assert sum(path.stat().st_blocks for path in tmp_path.iterdir()) * 512 < 64e6
    loaded = load_backbone(str(tmp_path), device="meta")  # refuses missing, unknown and misshapen keys
    parameters = dict(loaded.model.named_parameters())
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in parameters.values())
    assert sum(p.numel() for p in parameters.values()) == sum(torch.Size(shape).numel() for shape in shapes.values())


@pytest.mark.parametrize(
    ("name", "billions", "layers"), sized(dense_3b=(4.70, 36), dense_7b=(8.93, 28), sparse=(31.72, 48))
)
def test_sizes_are_those_of_the_published_models(name: str, billions: float, layers: int) -> None:
    model = on_meta(name)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(billions * 1e9, rel=2e-3)
    assert len(model.model.language_model.layers) == layers


@pytest.mark.parametrize(("name", "projections"), sized(dense_3b=(36 * 7,), dense_7b=(28 * 7,), sparse=(48 * 4,)))
def test_adapters_find_their_projections_at_full_size(name: str, projections: int) -> None:
    model = on_meta(name)
    with torch.device("meta"):
        get_peft_model(model, MoSEConfig(r=2))
    adapted = [path for path, module in model.named_modules() if isinstance(module, MoSELinear)]
    assert len(adapted) == projections
    assert all(path.startswith("model.language_model.layers.") for path in adapted)

    model = on_meta(name)
    with torch.device("meta"):
        get_peft_model(model, LoraConfig(r=2, target_modules=LORA, exclude_modules=".*(audio_tower|visual).*"))
    trained = {path.rpartition(".lora_")[0] for path, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == projections
    assert all(path.startswith("model.language_model.layers.") for path in trained)


# -- tiny size, real contents ------------------------------------------------------------------------------------------


def test_published_layout_loads_to_the_same_weights(published: Path, backbone: OmniBackbone) -> None:
    loaded = load_backbone(str(published), dtype="fp32")
    expected, found = backbone.model.state_dict(), loaded.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_the_literal_layout_is_the_one_written(published: Path, backbone: OmniBackbone) -> None:
    config = json.loads((published / "config.json").read_text())["thinker_config"]
    tensors = as_published(load_file(Path(backbone.name) / "model.safetensors"))
    assert published_shapes(config) == {key: tuple(value.shape) for key, value in tensors.items()}


def change_shard(directory: Path, change: Any) -> None:
    """Edit the shard that holds the final norm."""
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    path = directory / index["weight_map"]["thinker.model.norm.weight"]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    index["weight_map"] = {k: v for k, v in index["weight_map"].items() if v != path.name or k in tensors}
    index["weight_map"] |= dict.fromkeys(tensors, path.name)
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda t: t.pop("thinker.model.norm.weight"),
            r"1 weights are missing \(model\.language_model\.norm\.weight\)",
        ),
        (lambda t: t.update({"thinker.model.extra.weight": torch.ones(2)}), r"1 are unknown \(.*extra\.weight\)"),
        (lambda t: t.update({"thinker.model.norm.weight": torch.ones(5)}), r"1 have another shape \(.*norm\.weight\)"),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_misfits_are_refused_by_name(published: Path, change: Any, expected: str) -> None:
    change_shard(published, change)
    with pytest.raises(ValueError, match=rf"does not fit its model: {expected}"):
        load_backbone(str(published))


def test_gradient_checkpointing_is_for_the_decoder(published: Path) -> None:
    loaded = load_backbone(str(published), gradient_checkpointing=True)
    assert loaded.language_model.gradient_checkpointing
    assert all(layer.gradient_checkpointing for layer in loaded.language_model.layers)
    for path in loaded.family.tower_paths:
        assert not any(getattr(m, "gradient_checkpointing", False) for m in loaded.model.get_submodule(path).modules())


@pytest.mark.parametrize("device", [None, "cpu", "auto"])
def test_device(published: Path, device: str | None) -> None:
    expected = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    assert load_backbone(str(published), device=device).device.type == expected


def test_own_config_wins_over_the_published_sizes(published: Path, backbone: OmniBackbone) -> None:
    found = known_config(str(published))
    assert found["text_config"]["hidden_size"] == backbone.model.config.text_config.hidden_size
    assert known_config("tiny-omni")["text_config"]["num_hidden_layers"] == 4


def test_a_published_name_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in SIZES:
        assert known_config(name) == published_sizes(name)
        assert source_of(name) == name
    with pytest.raises(ValueError, match="Nothing on this machine says how large 'nobody/nothing' is"):
        known_config("nobody/nothing")


CHILD = """
import sys, threading, time
import torch, transformers.modeling_utils, accelerate
from mosear.backbones import load_backbone
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen2_5OmniProcessor
load_backbone("tiny-omni")                      # imports and buffers that every run has
def anonymous():
    fields = dict(line.split(":") for line in open("/proc/self/status") if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024
before = peak = anonymous()
done = False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.001)
watcher = threading.Thread(target=watch)
watcher.start()
loaded = load_backbone(sys.argv[1])
done = True
watcher.join()
size = sum(p.numel() * p.itemsize for p in loaded.model.parameters())
print(peak - before, size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_loading_makes_no_second_copy(qwen25_dir: Path, tmp_path: Path) -> None:
    config = sizes(DENSE_3B)
    config["text_config"] |= {"num_hidden_layers": 4, "vocab_size": 20_000}
    config["audio_config"]["encoder_layers"] = config["vision_config"]["depth"] = 1
    config["vision_config"]["fullatt_block_indexes"] = [0]
    write_config(tmp_path, config)
    processor_files(qwen25_dir, tmp_path)
    tensors = {k: torch.full(shape, 0.01, dtype=torch.bfloat16) for k, shape in published_shapes(config).items()}
    write_shards(tmp_path, tensors)
    run = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    peak, size = map(int, run.stdout.split())
    print(f"weights {size / 2**20:.0f} MiB, peak while loading {peak / 2**20:.0f} MiB, ratio {peak / size:.2f}")
    assert size > 300e6
    assert peak < 1.2 * size
