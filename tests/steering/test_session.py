"""What a session installs and takes out again, and whom it refuses."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import DynamicCache

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.labels import LabelTrie
from mosear.backbones.sequences import sequence_state
from mosear.steering import AttentionReallocation, Chase, Policies, SteeringSession, steer
from mosear.steering.attention import NAME
from tests.helpers.mose_models import adapted, states
from tests.helpers.omni_samples import MIXED, fresh, make_batch

AR = AttentionReallocation(threshold=0.2)
LABELS = ("happy", "sad")


@pytest.fixture
def own(backbone: OmniBackbone) -> OmniBackbone:
    return fresh(backbone)


def hooks_and_settings(backbone: OmniBackbone) -> dict[str, Any]:
    """Everything that a session could leave behind."""
    configs = {
        name: module.config._attn_implementation
        for name, module in backbone.model.named_modules()
        if hasattr(module, "config") and hasattr(module.config, "_attn_implementation")
    }
    hooks = {
        name: (list(module._forward_pre_hooks), list(module._forward_hooks))
        for name, module in backbone.model.named_modules()
    }
    attributes = {
        name: sorted(set(vars(module)) - {"sequence_states"}) for name, module in backbone.model.named_modules()
    }
    return {
        "configs": configs,
        "hooks": hooks,
        "attributes": attributes,
        "rope_deltas": backbone.model.model.rope_deltas,
        "json": backbone.model.config.to_json_string(),
    }


class Boom(Exception):
    """Raised by a test on purpose."""


def in_the_block(backbone: OmniBackbone) -> None:
    raise Boom


def in_a_pass(backbone: OmniBackbone) -> None:
    backbone.language_model.layers[1].register_forward_pre_hook(lambda *_: in_the_block(backbone))
    backbone.model(**make_batch(backbone).model_inputs())


def in_generation(backbone: OmniBackbone) -> None:
    def stop(*_: Any) -> None:
        raise Boom

    backbone.model.generate(**make_batch(backbone).model_inputs(), max_new_tokens=3, stopping_criteria=[stop])


@pytest.mark.parametrize("where", [nullcontext, in_the_block, in_a_pass, in_generation])
@pytest.mark.parametrize("policy", [AR, Chase(conflict_threshold=0)], ids=["ar", "chase"])
@torch.no_grad()
def test_leaving_restores_everything(own: OmniBackbone, policy: Any, where: Callable[[OmniBackbone], Any]) -> None:
    batch = make_batch(own)
    own.model.model.rope_deltas = torch.tensor([[-7]])
    expected, before = states(own, batch), hooks_and_settings(own)
    failing: AbstractContextManager[Any] = nullcontext() if where is nullcontext else pytest.raises(Boom)
    with failing, steer(own, policy, LABELS):
        inside = hooks_and_settings(own)
        where(own)
    for module in own.language_model.layers:
        module._forward_pre_hooks.clear()
    assert inside != before
    assert hooks_and_settings(own) == before
    assert states(own, batch).equal(expected)
    with steer(own, policy, LABELS):  # and it can be opened again
        pass


def test_the_towers_keep_their_attention(own: OmniBackbone) -> None:
    with steer(own, AR):
        found = {
            name: module.config._attn_implementation
            for name, module in own.model.named_modules()
            if hasattr(module, "config") and hasattr(module.config, "_attn_implementation")
        }
    steered = {name for name, implementation in found.items() if implementation == NAME}
    path = own.family.language_model_path
    assert steered and all(name == path or name.startswith(f"{path}.") for name in steered)


def test_sessions_do_not_nest(own: OmniBackbone) -> None:
    another = fresh(own)
    with steer(own, AR), pytest.raises(ValueError, match="do not nest"), steer(own.model, AR):
        pass
    session = SteeringSession(own, AR).install()
    with pytest.raises(ValueError, match="do not nest"):
        session.install()
    session.remove()
    session.remove()
    with steer(own, AR), steer(another, AR):  # two models do not disturb each other
        pass


@torch.no_grad()
def test_passes_of_other_threads_are_refused_and_disturb_nothing(own: OmniBackbone) -> None:
    inputs = make_batch(own).model_inputs()
    with ThreadPoolExecutor(1, thread_name_prefix="another") as pool:
        plain = own.model(**inputs).logits
        with steer(own, AR) as session:
            steered = own.model(**inputs).logits
            counted = session.stats.rows
            with pytest.raises(ValueError, match=r"another.*session steers the passes of the thread that opened it"):
                pool.submit(lambda: own.model(**inputs)).result()
            assert own.model(**inputs).logits.equal(steered)
            assert session.stats.rows.equal(2 * counted)
        assert not steered.equal(plain)
        assert pool.submit(lambda: own.model(**inputs).logits).result().equal(plain)  # left: free again


@torch.no_grad()
def test_a_refused_pass_leaves_a_running_one_alone(own: OmniBackbone) -> None:
    inputs = make_batch(own).model_inputs()
    with ThreadPoolExecutor(1) as pool, steer(own, AR):
        steered = own.model(**inputs)

        def meanwhile(*_: Any) -> None:
            with pytest.raises(ValueError, match="thread"):
                pool.submit(lambda: own.model(**inputs)).result()

        handle = own.language_model.layers[1].register_forward_pre_hook(meanwhile)
        found = own.model(**inputs)
        handle.remove()
        assert found.logits.equal(steered.logits)
        own.model(input_ids=inputs["input_ids"][:, -1:], past_key_values=found.past_key_values)  # it kept its rows


def test_a_session_for_every_kind_of_model(own: OmniBackbone) -> None:
    batch = make_batch(own)
    peft_model = get_peft_model(
        own.model, LoraConfig(r=2, target_modules=[own.family.language_model_path + ".layers.0.self_attn.q_proj"])
    )
    found = []
    for model in (own, own.model, peft_model):
        with torch.no_grad(), steer(model, AR):
            found.append(states_of(own, batch))
    assert found[1].equal(found[0]) and found[2].equal(found[0])


def states_of(backbone: OmniBackbone, batch: Any) -> torch.Tensor:
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask):
        return states(backbone, batch)


# -- refusals ------------------------------------------------------------------------------------------------------


def test_what_is_no_thinker(own: OmniBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="Unknown backbone family"):
        SteeringSession(torch.nn.Linear(2, 2), AR)
    with pytest.raises(ValueError, match="works on the thinker"):
        SteeringSession(own.model.model, AR)
    monkeypatch.setattr(type(own.family), "separate_modalities", False)
    with pytest.raises(ValueError, match="audio and picture fused"):
        SteeringSession(own, AR)


def test_policies_that_do_not_fit_the_model(own: OmniBackbone) -> None:
    policy = Policies([AttentionReallocation(layers=[5]), Chase(heads=[(0, 9)])])
    with pytest.raises(ValueError, match=r"does not fit this model.*no layer 5.*no head 9"):
        SteeringSession(own, policy, LABELS)


def test_labels_need_a_tokenizer(own: OmniBackbone) -> None:
    with pytest.raises(ValueError, match=r"needs the tokenizer.*LabelTrie\.of"):
        SteeringSession(own.model, Chase(), LABELS)
    trie = LabelTrie.of(LABELS, own.processor.tokenizer)
    assert SteeringSession(own.model, Chase(), trie).trie is trie
    assert SteeringSession(own, Chase(), LABELS).trie == trie


@torch.no_grad()
def test_passes_that_cannot_be_steered(own: OmniBackbone) -> None:
    batch = make_batch(own, MIXED[:2])
    with steer(own, AR):
        with pytest.raises(ValueError, match=r"sequence_state\(model, roles"):
            states(own, batch)
        own.model.train()
        with pytest.raises(ValueError, match="in training mode"):
            states_of(own, batch)
        own.model.eval()
    with steer(own, Chase()), pytest.raises(ValueError, match="labels="):
        states_of(own, batch)


@torch.no_grad()
def test_caches_from_elsewhere(own: OmniBackbone) -> None:
    batch = make_batch(own, MIXED[:2])
    token = {
        "inputs_embeds": own.model.get_input_embeddings()(batch.input_ids[:, -1:]),
        "attention_mask": torch.nn.functional.pad(batch.attention_mask, (0, 1), value=1),
        "position_ids": batch.position_ids[..., -1:] + 1,
    }
    before = DynamicCache()
    states(own, batch, before)
    with steer(own, AR):
        with pytest.raises(ValueError, match="not filled in this steering session"):
            own.hidden_states(**token, past_key_values=before)
        cache = DynamicCache()
        with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask):
            states(own, batch, cache)
        own.hidden_states(**token, past_key_values=cache)
        cache.batch_select_indices(torch.tensor([0]))
        with pytest.raises(ValueError, match="holds 1 prompts, but the pass continues 2"):
            own.hidden_states(**token, past_key_values=cache)
    with steer(own, AR), pytest.raises(ValueError, match="not filled in this steering session"):
        own.hidden_states(**token, past_key_values=cache)


@pytest.mark.parametrize("adapter", ["none", "mose"])
@torch.no_grad()
def test_chunked_prefill_is_refused(qwen25: OmniBackbone, adapter: str) -> None:
    own = fresh(qwen25) if adapter == "none" else adapted(qwen25)[0]
    inputs = make_batch(own, MIXED[3:4]).model_inputs()
    with steer(own, AR), pytest.raises(ValueError, match="chunked prefill"):
        own.model.generate(**inputs, max_new_tokens=2, do_sample=False, prefill_chunk_size=16)


def test_importing_the_room_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, mosear.steering; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
