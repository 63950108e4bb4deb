"""`generate` with a static KV cache, and without one: the same logits as with the default cache, steered or not."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface, Cache, CompileConfig, DynamicCache, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from mosear.backbones import load_backbone
from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import sequence_state
from mosear.data.sample import OmniBatch
from mosear.steering import AttentionReallocation, Chase, Policies, Policy, steer
from tests.helpers.mose_models import adapted, states
from tests.helpers.omni_samples import MIXED, fresh, make_batch

LABELS = ("happy", "happy for you", "sad")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
POLICIES: dict[str, Policy | None] = {
    "none": None,
    "ar": AttentionReallocation(threshold=0.2, portion=0.6),
    "chase": Chase(conflict_threshold=0, strength=300),
    "heads": Chase(detector="heads", conflict_threshold=0, strength=300, suppress=10),
    "both": Policies([AttentionReallocation(threshold=0.2), Chase(conflict_threshold=0, strength=300)]),
}
KINDS = (MIXED[0], MIXED[1], MIXED[4])
OPTIONS: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
SLOW = pytest.mark.slow


def with_adapter(backbone: OmniBackbone, adapter: str) -> OmniBackbone:
    """A copy with a random MoSE adapter, or with none."""
    torch.manual_seed(3)
    return adapted(backbone, experts_per_group=2)[0] if adapter == "mose" else fresh(backbone)


def logits(own: OmniBackbone, kinds: Any = KINDS, **options: Any) -> Tensor:
    """``[tokens, B, V]``, and what kind of cache they were computed with."""
    found = own.model.generate(
        **make_batch(own, kinds).model_inputs(),
        **OPTIONS,
        **options,
        return_dict_in_generate=True,
        output_logits=True,
    )
    wanted = "Static" if {"cache_implementation", "past_key_values"} & options.keys() else "Dynamic"
    assert (found.past_key_values is None) == (options.get("use_cache") is False)
    assert found.past_key_values is None or wanted in type(found.past_key_values).__name__
    return torch.stack(found.logits)


def step(own: OmniBackbone, batch: OmniBatch, column: int, cache: Cache) -> Tensor:
    """One token after the cached ones."""
    return own.hidden_states(
        own.model.get_input_embeddings()(batch.input_ids[:, column : column + 1]),
        batch.attention_mask[:, : column + 1],
        batch.position_ids[..., column : column + 1],
        cache,
    )


def static(own: OmniBackbone, room: int = 200) -> StaticCache:
    return StaticCache(config=own.model.config.get_text_config(), max_cache_len=room)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("family", "adapter"),
    [
        ("qwen25", "mose"),
        ("qwen3", "none"),
        pytest.param("qwen25", "none", marks=SLOW),
        pytest.param("qwen3", "mose", marks=SLOW),
    ],
)
@torch.no_grad()
def test_every_way_to_keep_keys_gives_the_same_logits(
    request: pytest.FixtureRequest, family: str, adapter: str, policy: str
) -> None:
    own = with_adapter(request.getfixturevalue(family), adapter)
    bare = logits(own)
    chosen = POLICIES[policy]
    with nullcontext() if chosen is None else steer(own, chosen, LABELS):
        expected = logits(own)
        for options in (
            {"cache_implementation": "static"},
            {"past_key_values": static(own)},
            {"use_cache": False},
        ):
            torch.testing.assert_close(logits(own, **options), expected, **TOLERANCE)
        unpadded = logits(own, KINDS[:1], cache_implementation="static")  # no padding: transformers drops the mask
        torch.testing.assert_close(unpadded, logits(own, KINDS[:1]), **TOLERANCE)
    if chosen is not None:
        assert (expected - bare)[:, 0].abs().max() > 1e-2, "the policy changes something"


@pytest.mark.parametrize("policy", ["none", "chase"])
@torch.no_grad()
def test_beams_over_a_static_cache(qwen25: OmniBackbone, policy: str) -> None:
    own = with_adapter(qwen25, "mose")
    inputs = make_batch(own, KINDS).model_inputs()
    chosen = POLICIES[policy]
    with nullcontext() if chosen is None else steer(own, chosen, LABELS):
        dynamic, fixed = (
            own.model.generate(**inputs, **OPTIONS, num_beams=3, **options)
            for options in ({}, {"cache_implementation": "static"})
        )
    assert fixed.equal(dynamic)


@torch.no_grad()
def test_passes_by_hand_over_a_static_cache(qwen25: OmniBackbone) -> None:
    """And the cache can be used again after `reset`, for another prompt."""
    own = with_adapter(qwen25, "mose")
    cache = static(own)
    with steer(own, AttentionReallocation(threshold=0.2)):
        for kinds in (KINDS, KINDS[::-1]):
            prompt, full = make_batch(own, kinds), make_batch(own, kinds, answer="happy")
            dynamic = DynamicCache()
            with sequence_state(own, roles=prompt.roles, prompt_mask=prompt.prompt_mask):
                torch.testing.assert_close(states(own, prompt, cache), states(own, prompt, dynamic), **TOLERANCE)
            for column in range(prompt.input_ids.shape[1], full.input_ids.shape[1]):
                one, other = (step(own, full, column, each) for each in (dynamic, cache))
                torch.testing.assert_close(other, one, **TOLERANCE)
            cache.reset()


@pytest.mark.slow
@torch.no_grad()
def test_generate_does_not_compile_passes_that_have_listeners(qwen25: OmniBackbone) -> None:
    """transformers compiles the passes over a static cache on a GPU; here it is told to do so on every device."""
    config = CompileConfig(backend="no_such_backend")
    config._compile_all_devices = True
    options = {**OPTIONS, "cache_implementation": "static", "compile_config": config}
    inputs = make_batch(qwen25, KINDS).model_inputs()
    with pytest.raises(Exception, match="no_such_backend"):
        fresh(qwen25).model.generate(**inputs, **options)
    own = with_adapter(qwen25, "mose")
    assert own.model.generate(**inputs, **options).equal(own.model.generate(**inputs, **OPTIONS))


# -- what steering refuses ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_static_cache_under_a_flash_kernel_is_named(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    AttentionInterface.register("flash_like", sdpa_attention_forward)
    own.model.set_attn_implementation({"text_config": "flash_like"})
    with (
        steer(own, AttentionReallocation(threshold=0.2)),
        pytest.raises(ValueError, match=r"static KV cache under attn_implementation='flash_like'.*'sdpa'"),
    ):
        logits(own, cache_implementation="static")


@pytest.mark.parametrize("implementation", [None, "static"])
@torch.no_grad()
def test_a_cache_that_dropped_keys_is_named(qwen25_dir: Path, tmp_path: Path, implementation: str | None) -> None:
    shutil.copytree(qwen25_dir, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"] |= {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0}
    del config["text_config"]["layer_types"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = load_backbone(str(tmp_path), dtype="fp32")
    with (
        steer(own, AttentionReallocation(threshold=0.2)),
        pytest.raises(ValueError, match=r"keeps the last 16 tokens.*the sequence has \d+ now.*DynamicCache\(\)"),
    ):
        own.model.generate(**make_batch(own, KINDS).model_inputs(), **OPTIONS, cache_implementation=implementation)
