"""Gives an embedded base more words: new tokens behind the old ones, whose ids and weights stay.

Words become tokens by further merges of the byte-level BPE, which apply after the old ones; tags become added tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mosear.backbones.tiny.build import build_thinker, processor_around, wrapped_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerForConditionalGeneration,
    )


def extended_tokenizer(
    tokenizer: PreTrainedTokenizerFast, words: Iterable[str], tags: Iterable[str] = ()
) -> PreTrainedTokenizerFast:
    """A tokenizer for which each word (with its leading space, if any) and each tag is one token."""
    from tokenizers import AddedToken, Tokenizer

    core = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    for word in words:
        pieces = core.encode(word, add_special_tokens=False).tokens
        if len(pieces) > 1:
            core = _with_merges(core, pieces)
    found = wrapped_tokenizer(core)
    # Not special: they are part of what was written, and `skip_special_tokens` would drop them.
    found.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in tags])
    return found


def _with_merges(core: Tokenizer, pieces: list[str]) -> Tokenizer:
    from tokenizers import Tokenizer

    state = json.loads(core.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    whole = pieces[0]
    for piece in pieces[1:]:
        merges.append([whole, piece])
        whole += piece
        vocabulary.setdefault(whole, len(vocabulary))
    return Tokenizer.from_str(json.dumps(state))


def extended_thinker(
    thinker: Qwen2_5OmniThinkerForConditionalGeneration, old: PreTrainedTokenizerFast, processor: Qwen2_5OmniProcessor
) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker with rows for the new tokens, which begin as the mean of the old tokens that spell them.

    Args:
        thinker: the base, in float32.
        old: its tokenizer.
        processor: with the extended tokenizer.
    """
    import torch

    model = build_thinker(processor)
    kept = len(old)
    grown = model.state_dict()
    for name, weight in thinker.state_dict().items():
        if grown[name].shape == weight.shape:
            grown[name] = weight
        else:
            rows = [weight]
            for token in range(kept, len(grown[name])):
                text = processor.tokenizer.decode([token])
                rows.append(weight[old(text, add_special_tokens=False)["input_ids"]].mean(0, keepdim=True))
            grown[name] = torch.cat(rows)
    model.load_state_dict(grown)
    return model


def extended_processor(
    processor: Qwen2_5OmniProcessor, words: Iterable[str], tags: Iterable[str] = ()
) -> Qwen2_5OmniProcessor:
    """The processor of an embedded base, with more words and tags."""
    return processor_around(extended_tokenizer(processor.tokenizer, words, tags))
