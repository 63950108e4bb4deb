"""The gate's weights belong to a KV cache: decoding, expansion, beams, and passes in between."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.prompt_cache import attached
from mosear.backbones.sequences import sequence_state
from mosear.data.prompt import Prompt
from mosear.data.sample import IGNORE, OmniBatch, collate
from mosear.experts.passes import OWNER
from mosear.inference import generation
from mosear.inference.scoring import label_log_probs
from tests.helpers.mose_models import adapted, states
from tests.helpers.omni_samples import MIXED, make_batch, make_sample

LABELS = ("happy", "happy for you", "sad")
PROMPT = Prompt(labels=LABELS)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
KEYWORD = ("keyword", "thinker")


def step(backbone: OmniBackbone, batch: OmniBatch, column: int, cache: DynamicCache) -> Tensor:
    """One token after the cached ones."""
    return backbone.hidden_states(
        backbone.model.get_input_embeddings()(batch.input_ids[:, column : column + 1]),
        batch.attention_mask[:, : column + 1],
        batch.position_ids[..., column : column + 1],
        cache,
    )


def prefill(backbone: OmniBackbone, prompt: OmniBatch) -> tuple[DynamicCache, Tensor]:
    cache = DynamicCache()
    with sequence_state(backbone, roles=prompt.roles, prompt_mask=prompt.prompt_mask):
        return cache, states(backbone, prompt, cache)


@pytest.mark.parametrize("experts", [1, 3])
@torch.no_grad()
def test_step_by_step_equals_the_full_forward(backbone: OmniBackbone, experts: int) -> None:
    """With foreign passes (another prompt, the bare model, a hidden modality) between prefill and every step."""
    own, model = adapted(backbone, experts_per_group=experts)
    prompt, full = make_batch(own), make_batch(own, answer="happy")
    with sequence_state(own, roles=full.roles, prompt_mask=full.prompt_mask):
        expected = states(own, full)
    cache, hidden = prefill(own, prompt)
    start = prompt.input_ids.shape[1]
    torch.testing.assert_close(hidden[:, -1], expected[:, start - 1], **TOLERANCE)
    trie = LabelTrie.of(LABELS, own.processor.tokenizer)
    for column in range(start, full.input_ids.shape[1]):
        prefill(own, make_batch(own, MIXED[::-1]))
        label_log_probs(own, prompt, trie, hide=("audio",))
        with model.disable_adapter():
            states(own, prompt)
        torch.testing.assert_close(step(own, full, column, cache)[:, 0], expected[:, column], **TOLERANCE)


@torch.no_grad()
def test_cache_takes_its_weights_along(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone)
    full = make_batch(own, answer="happy")
    prompt = make_batch(own)
    column = prompt.input_ids.shape[1]
    cache, _ = prefill(own, prompt)
    assert isinstance(cache, DynamicCache)
    original = {index: w.clone() for index, w in attached(cache, OWNER).tensors.items()}
    expected = step(own, full, column, deepcopy(cache))
    rows = torch.tensor([4, 0, 0])
    for change in ("batch_select_indices", "reorder_cache"):
        copied = deepcopy(cache)
        getattr(copied, change)(rows)
        found = step(own, picked(full, rows), column, copied)
        torch.testing.assert_close(found, expected[rows], **TOLERANCE)
    copied = deepcopy(cache)
    copied.batch_repeat_interleave(2)
    twice = torch.arange(len(full)).repeat_interleave(2)
    torch.testing.assert_close(step(own, picked(full, twice), column, copied), expected[twice], **TOLERANCE)
    kept = attached(cache, OWNER).tensors
    assert all(torch.equal(kept[index], w) for index, w in original.items()), "copies must be copies"


def picked(batch: OmniBatch, rows: Tensor) -> OmniBatch:
    from dataclasses import replace

    return replace(
        batch,
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        position_ids=batch.position_ids[:, rows],
    )


@torch.no_grad()
def test_unusable_caches_are_refused(backbone: OmniBackbone) -> None:
    own, model = adapted(backbone)
    full, prompt = make_batch(own, answer="happy"), make_batch(own)
    column = prompt.input_ids.shape[1]
    bare = DynamicCache()
    with model.disable_adapter():
        states(own, prompt, bare)
    with pytest.raises(ValueError, match="read without the adapter"):
        step(own, full, column, bare)
    cache, _ = prefill(own, prompt)
    with pytest.raises(ValueError, match=r"holds 5 prompts, but the pass continues 2.*batch_repeat_interleave"):
        step(own, picked(full, torch.tensor([0, 1])), column, cache)
    cropped = deepcopy(cache)
    cropped.crop(-3)
    with pytest.raises(ValueError, match="cropped"):
        step(own, full, column - 3, cropped)


@torch.no_grad()
def test_chunked_prefill_is_refused(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    inputs = make_batch(own, MIXED[3:4]).model_inputs()
    options = {"max_new_tokens": 2, "do_sample": False, "prefill_chunk_size": 16}
    with pytest.raises(ValueError, match="chunked prefill"):
        model.generate(**inputs, **options)
    batch = make_batch(own, MIXED[3:4])
    with (
        sequence_state(model, roles=batch.roles, prompt_mask=batch.prompt_mask),
        pytest.raises(ValueError, match="run it in one pass"),
    ):
        model.generate(**inputs, **options)


@pytest.mark.parametrize("stated", [False, True])
@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_generate_of_transformers(backbone: OmniBackbone, beams: int, stated: bool) -> None:
    """A batch gives what its clips give alone; greedy equals our own decoding."""
    own, model = adapted(backbone, wake=0.1)
    kinds = MIXED[:3]
    options = {"max_new_tokens": 4, "do_sample": False, "num_beams": beams}
    batch = make_batch(own, kinds)

    def generate(data: OmniBatch) -> Tensor:
        if not stated:
            return model.generate(**data.model_inputs(), **options)[:, data.input_ids.shape[1] :]
        with sequence_state(model, roles=data.roles, prompt_mask=data.prompt_mask):
            return model.generate(**data.model_inputs(), **options)[:, data.input_ids.shape[1] :]

    together = generate(batch)
    for seed, kind in enumerate(kinds):
        alone = generate(collate([make_sample(own, kind, seed)], 0))[0]
        assert together[seed, : len(alone)].equal(alone[: together.shape[1]])
    if beams == 1:
        tokenizer = own.processor.tokenizer
        ids = {"end_id": tokenizer.eos_token_id, "pad_id": tokenizer.pad_token_id}
        assert generation.generate(own, batch, max_new_tokens=4, **ids).ids.equal(together)


@pytest.mark.parametrize("by", ["keyword", "config", "default", "thinker"])
@torch.no_grad()
def test_generate_without_a_cache_keeps_the_answer_out_of_the_gate(qwen25: OmniBackbone, by: str) -> None:
    own, model = adapted(qwen25)
    inputs = make_batch(own, [("text",), ("text",), ("text",)]).model_inputs()
    options = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    report = {"return_dict_in_generate": True, "output_logits": True}
    expected = model.generate(**inputs, **options, **report)
    ids = inputs.pop("input_ids")
    asked = model if by != "thinker" else own.model
    if by == "default":
        own.model.generation_config.use_cache = False
    elif by == "config":
        options["generation_config"] = GenerationConfig(use_cache=False, **options)
    found = asked.generate(ids, **inputs, **options, **report, **({"use_cache": False} if by in KEYWORD else {}))
    assert found.past_key_values is None and found.sequences.equal(expected.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(expected.logits), **TOLERANCE)


@torch.no_grad()
def test_a_mask_of_queries_by_keys_is_refused_without_a_state(qwen25: OmniBackbone) -> None:
    """It does not say which tokens are padding, whatever the cache."""
    own, model = adapted(qwen25)
    batch = make_batch(own, MIXED[3:4])
    square = torch.ones(1, 1, *[batch.input_ids.shape[1]] * 2, dtype=torch.bool).tril()
    with pytest.raises(ValueError, match=r"a mask that is not \[B, L\]"):
        model(input_ids=batch.input_ids, attention_mask=square, position_ids=batch.position_ids)


@torch.no_grad()
def test_unloading_gives_generate_back(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    twin = deepcopy(own.model)
    assert twin.generate.__self__ is twin
    assert not {"generate", "create_masks_for_generate", "get_compiled_call"} & vars(model.unload()).keys()


@pytest.mark.parametrize("hide", [(), ("audio",), ("visual", "text")], ids="+".join)
@torch.no_grad()
def test_label_scores_equal_one_full_pass_per_label(backbone: OmniBackbone, hide: tuple[str, ...]) -> None:
    from mosear.backbones.masks import causal_mask

    own, _ = adapted(backbone, experts_per_group=2)
    scores = label_log_probs(
        own, make_batch(own, prompt=PROMPT), LabelTrie.of(LABELS, own.processor.tokenizer), hide=hide
    )
    for column, label in enumerate(LABELS):
        full = make_batch(own, prompt=PROMPT, answer=label)
        hidden = full.hidden_keys(*hide)
        embeds, extra = own.embed(full.input_ids, full.media)
        with sequence_state(own, roles=full.roles, prompt_mask=full.prompt_mask, hidden=hidden):
            out = own.hidden_states(embeds, causal_mask(full.attention_mask, hidden), full.position_ids, **extra)
        log_probs = own.lm_head(out[:, :-1]).log_softmax(-1)
        targets = full.labels[:, 1:]
        picked_out = log_probs.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
        torch.testing.assert_close(scores[:, column], (picked_out * (targets != IGNORE)).sum(1), **TOLERANCE)
