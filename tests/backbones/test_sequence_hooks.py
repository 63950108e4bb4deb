"""Hooks on a language model: listeners of its passes, passes inside passes, and what a KV cache carries for them."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.prompt_cache import PromptRows, attached
from mosear.backbones.sequence_hooks import HOOKS, PassCall, PassListener, SequenceHooks
from mosear.backbones.sequences import sequence_state
from tests.helpers.omni_samples import fresh

BATCH, LENGTH, SHORT = 2, 7, 4


class Listener(PassListener):
    """Keeps a name per pass, and what it was asked."""

    owner: ClassVar[str] = "listener"
    title: ClassVar[str] = "The listener"
    lost: ClassVar[str] = "nothing is known about these prompts"

    def __init__(self) -> None:
        self.asked: list[tuple[str, int, str]] = []

    def name(self, call: PassCall) -> str:
        return f"{len(self.asked)} of {call.length}"

    def start(self, call: PassCall) -> str:
        own = self.name(call)
        self.asked.append(("start", call.length, own))
        return own

    def resume(self, call: PassCall, rows: PromptRows) -> str:
        self.asked.append(("resume", call.length, rows.note))
        return f"after {rows.note}"

    def finish(self, call: PassCall, own: str) -> PromptRows:
        self.asked.append(("finish", call.length, own))
        return PromptRows({"row": torch.arange(call.batch)}, call.length, note=own)


class Asking(Listener):
    """Runs passes of its own when one starts, in which it takes no part; the second one may fail."""

    owner: ClassVar[str] = "asking"

    def __init__(self, language_model: nn.Module, embeds: Tensor) -> None:
        super().__init__()
        self.language_model, self.embeds = language_model, embeds
        self.busy = self.fails = False
        self.found: list[Tensor] = []

    def listens(self, module: nn.Module) -> bool:
        return not self.busy

    def start(self, call: PassCall) -> str:
        self.busy = True
        try:
            for _ in range(2):
                out = self.language_model(inputs_embeds=self.embeds[:, :SHORT], use_cache=False)
                self.found.append(out.last_hidden_state)
                if self.fails:
                    raise RuntimeError("on purpose")
        finally:
            self.busy = False
        return super().start(call)


@pytest.fixture
def own(qwen25: OmniBackbone) -> OmniBackbone:
    return fresh(qwen25)


def input_of(backbone: OmniBackbone) -> tuple[Tensor, dict[str, Tensor]]:
    """Embeddings of random words, and what a state says about them."""
    ids = torch.arange(40, 40 + BATCH * LENGTH).view(BATCH, LENGTH)
    return backbone.model.get_input_embeddings()(ids).detach(), {"roles": torch.zeros_like(ids)}


def watch(backbone: OmniBackbone, hooks: SequenceHooks, *listeners: PassListener) -> list[tuple[Any, ...]]:
    """Notes, in the last decoder layer of each pass, what belongs to the listeners."""
    seen: list[tuple[Any, ...]] = []
    layer = backbone.language_model.layers[-1]
    layer.register_forward_hook(lambda *_: seen.append(tuple(hooks.current(own) for own in listeners)))
    return seen


def hook_counts(backbone: OmniBackbone) -> list[int]:
    return [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in backbone.model.modules()]


# -- nested passes -------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("asking_first", [True, False])
def test_each_pass_has_its_own_even_inside_another(own: OmniBackbone, asking_first: bool) -> None:
    embeds, about = input_of(own)
    expected = own.language_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
    short = own.language_model(inputs_embeds=embeds[:, :SHORT], use_cache=False).last_hidden_state
    hooks = SequenceHooks.of(own.model, own.family)
    plain, asking = Listener(), Asking(own.language_model, embeds)
    for listener in (asking, plain) if asking_first else (plain, asking):
        hooks.add(listener)
    seen = watch(own, hooks, plain, asking)
    cache = DynamicCache()
    with sequence_state(own, **about):
        out = own.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True).last_hidden_state
    assert torch.equal(out, expected) and all(torch.equal(found, short) for found in asking.found)
    inner = [entry for entry in plain.asked if entry[1] == SHORT]
    outer = [entry for entry in plain.asked if entry[1] == LENGTH]
    assert [what for what, *_ in inner] == ["start", "finish"] * 2 and [what for what, *_ in outer] == [
        "start",
        "finish",
    ]
    for start, finish in ((inner[0], inner[1]), (inner[2], inner[3]), (outer[0], outer[1])):
        assert start[2] == finish[2], "what a pass ends with is what it has started with"
    assert len({own_name for what, _, own_name in plain.asked if what == "start"}) == 3
    assert [what for what, *_ in asking.asked] == ["start", "finish"]
    names = [inner[0][2], inner[2][2], outer[0][2]]
    assert seen == [(names[0], None), (names[1], None), (names[2], asking.asked[0][2])]
    assert hooks.current(plain) is None and hooks.current(asking) is None
    assert attached(cache, "listener").note == names[2] and attached(cache, "asking").note == asking.asked[0][2]


@torch.no_grad()
def test_an_error_in_a_nested_pass_leaves_nothing_behind(own: OmniBackbone) -> None:
    embeds, about = input_of(own)
    hooks = SequenceHooks.of(own.model, own.family)
    plain, asking = Listener(), Asking(own.language_model, embeds)
    hooks.add(plain)
    hooks.add(asking)
    with sequence_state(own, **about):
        asking.fails = True
        with pytest.raises(RuntimeError, match="on purpose"):
            own.language_model(inputs_embeds=embeds, use_cache=False)
        assert hooks.current(plain) is None and hooks.current(asking) is None
        handle = own.language_model.layers[0].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            own.language_model(inputs_embeds=embeds, use_cache=False)
        assert hooks.current(plain) is None and hooks.current(asking) is None
        handle.remove()
        asking.fails = False
        plain.asked.clear()
        own.language_model(inputs_embeds=embeds, use_cache=False)
    assert [what for what, *_ in plain.asked].count("finish") == 3


# -- in and out ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_hooks_go_with_the_last_listener(own: OmniBackbone) -> None:
    before = hook_counts(own)
    hooks = SequenceHooks.of(own.model, own.family)
    first, second = Listener(), Asking(own.language_model, torch.empty(0))
    hooks.add(first)
    hooks.add(second)
    assert SequenceHooks.of(own.model, own.family) is hooks
    during = hook_counts(own)
    assert sum(during) == sum(before) + 4
    hooks.remove(second)
    assert hook_counts(own) == during and SequenceHooks.of(own.model, own.family) is hooks
    hooks.remove(first)
    assert hook_counts(own) == before and not hasattr(own.model, HOOKS)
    embeds, about = input_of(own)
    with sequence_state(own, **about):
        own.language_model(inputs_embeds=embeds, use_cache=False)
    assert not first.asked and not second.asked
    again = SequenceHooks.of(own.model, own.family)
    again.add(first)
    with sequence_state(own, **about):
        own.language_model(inputs_embeds=embeds, use_cache=False)
    assert again is not hooks and [what for what, *_ in first.asked] == ["start", "finish"]


@torch.no_grad()
def test_a_cache_carries_what_was_kept_about_its_prompts(own: OmniBackbone) -> None:
    embeds, about = input_of(own)
    hooks = SequenceHooks.of(own.model, own.family)
    listener, cache = Listener(), DynamicCache()
    own.language_model(inputs_embeds=embeds[:, :SHORT], past_key_values=DynamicCache(), use_cache=True)
    hooks.add(listener)
    with sequence_state(own, **about):
        own.language_model(inputs_embeds=embeds, past_key_values=cache, use_cache=True)
    name = listener.asked[0][2]
    own.language_model(inputs_embeds=embeds[:, :1], past_key_values=cache, use_cache=True)
    assert listener.asked[-1] == ("resume", 1, name), "and nothing is kept about a continuation"
    with pytest.raises(ValueError, match=r"2 new tokens.*chunked prefill, which The listener refuses"):
        own.language_model(inputs_embeds=embeds[:, :2], past_key_values=cache, use_cache=True)
    with pytest.raises(ValueError, match="holds 2 prompts, but the pass continues 1"):
        own.language_model(inputs_embeds=embeds[:1, :1], past_key_values=cache, use_cache=True)
    foreign = DynamicCache()
    hooks.remove(listener)
    own.language_model(inputs_embeds=embeds, past_key_values=foreign, use_cache=True)
    SequenceHooks.of(own.model, own.family).add(listener)
    with pytest.raises(ValueError, match="nothing is known about these prompts"):
        own.language_model(inputs_embeds=embeds[:, :1], past_key_values=foreign, use_cache=True)
