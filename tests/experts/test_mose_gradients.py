"""Training: every parameter is in every graph, checkpointing is exact, the prompt's end must be known."""

import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import sequence_state
from mosear.experts import gate_record, gate_weights
from mosear.methods.answer_tuning.loss import answer_loss
from tests.helpers.mose_models import adapted, states, trained
from tests.helpers.omni_samples import MIXED, make_batch

WEIGHTS = {"balance_weight": 0.3, "kl_weight": 0.2, "load_balance_weight": 0.1}


def loss_of(backbone: OmniBackbone, kinds, *, interrupt: bool = False) -> Tensor:
    """Answer loss and penalty; with ``interrupt``, another batch passes before backward."""
    batch = make_batch(backbone, kinds, answer="happy")
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        hidden = states(backbone, batch)
    total, count = answer_loss(hidden, backbone.lm_head, batch.labels)
    loss = total / count + state.penalty()
    if interrupt:
        other = make_batch(backbone, MIXED[2:4], answer="sad")
        with sequence_state(backbone, roles=other.roles, prompt_mask=other.prompt_mask):
            states(backbone, other)
    return loss


def gradients(backbone: OmniBackbone, model: torch.nn.Module, *batches, **options) -> dict[str, Tensor]:
    """Gradients of the summed loss of several forward passes, one backward."""
    model.zero_grad()
    sum(loss_of(backbone, kinds, **options) for kinds in batches).backward()
    return {name: parameter.grad.clone() for name, parameter in trained(model).items()}


@pytest.mark.parametrize("share_a", ["group", "all"])
@pytest.mark.parametrize("experts", [1, 3])
def test_every_parameter_has_a_gradient_without_media(backbone: OmniBackbone, experts: int, share_a: str) -> None:
    own, model = adapted(backbone, experts_per_group=experts, share_a=share_a, **WEIGHTS)
    model.train()
    own.towers_eval()
    loss_of(own, [("text",), ("text",)]).backward()
    assert [name for name, parameter in trained(model).items() if parameter.grad is None] == []
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    for name, gradient in gradients(own, model, MIXED).items():
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("experts", [1, 3])
def test_gradient_checkpointing_changes_nothing(backbone: OmniBackbone, experts: int, dtype: torch.dtype) -> None:
    """Two passes with different w before one backward, and a foreign pass after each."""
    own, model = adapted(backbone, experts_per_group=experts, dtype=dtype, wake=0.1, **WEIGHTS)
    model.train()
    own.towers_eval()
    batches = (MIXED[:2], MIXED[2:])
    plain = gradients(own, model, *batches)
    own.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = gradients(own, model, *batches, interrupt=True)
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))


def test_reentrant_checkpointing_is_refused(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    model.train()
    own.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(ValueError, match="use_reentrant=False"):
        loss_of(own, MIXED[3:4])


def test_training_needs_to_know_the_prompt(backbone: OmniBackbone) -> None:
    own, model = adapted(backbone)
    model.train()
    batch = make_batch(own, MIXED[3:4])
    with pytest.raises(ValueError, match=r"where the prompt ends.*sequence_state"):
        model(**batch.model_inputs())
    with model.disable_adapter():
        model(**batch.model_inputs())
    model.eval()
    with pytest.raises(ValueError, match=r"embeddings but no input ids.*sequence_state"):
        states(own, batch)


def test_a_state_of_other_sequences_is_refused(qwen25: OmniBackbone) -> None:
    own, _ = adapted(qwen25)
    batch, other = make_batch(own, MIXED[3:4]), make_batch(own, MIXED[:1])
    with (
        sequence_state(own, roles=other.roles, prompt_mask=other.prompt_mask),
        pytest.raises(ValueError, match=r"describe .* tokens, but the pass"),
    ):
        states(own, batch)
    with (
        pytest.raises(ValueError, match="must have one shape"),
        sequence_state(own, roles=batch.roles, prompt_mask=other.prompt_mask),
    ):
        pass


# -- regularisers --------------------------------------------------------------------------------------------------


def test_regularisers_follow_their_equations(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone, experts_per_group=3, wake=0.3, **WEIGHTS)
    batch = make_batch(own)
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        states(own, batch)
    w, found = gate_weights(state), {name: own.values for name, own in state.regularisers().items()}
    assert set(found) == set(WEIGHTS_BY_NAME) and w.shape == (3, len(batch), 3)
    for b in range(len(batch)):
        balance = sum((w[i, b, 0] - w[i, b, 1]) ** 2 for i in range(3)) / 3
        kl = sum(w[i, b, m] * (3 * w[i, b, m]).log() for i in range(3) for m in range(3)) / 3
        torch.testing.assert_close(found["gate_balance"][b], balance)
        torch.testing.assert_close(found["gate_kl"][b], kl, rtol=1e-4, atol=1e-6)
    loads = torch.stack(list(gate_record(state).last.loads.values()))
    assert len(loads) == len([name for name in trained(own.model) if "mose_R" in name])
    text_only = MIXED.index(("text",))
    assert (loads.sum(-1) - 1).abs().max() < 1e-5
    torch.testing.assert_close(
        found["load_balance"][text_only], (3 * (loads[:, text_only] ** 2).sum(-1) - 1).mean(), rtol=1e-4, atol=1e-6
    )
    expected = sum(weight * found[name].mean() for name, weight in WEIGHTS_BY_NAME.items())
    torch.testing.assert_close(state.penalty(), expected)


WEIGHTS_BY_NAME = {"gate_balance": 0.3, "gate_kl": 0.2, "load_balance": 0.1}


def test_global_kl_lets_samples_differ(qwen25: OmniBackbone) -> None:
    found = {}
    for scope in ("sample", "global"):
        torch.manual_seed(0)
        own, _ = adapted(qwen25, kl_scope=scope, kl_weight=1.0)
        batch = make_batch(own)
        with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
            states(own, batch)
        found[scope] = state.regularisers()["gate_kl"].values
    assert found["sample"].shape == (len(MIXED),) and found["global"].shape == (1,)
    assert found["global"] < found["sample"].mean()


def test_without_mose_a_state_says_nothing(qwen25: OmniBackbone) -> None:
    with sequence_state(qwen25) as state:
        assert state.regularisers() == {} and state.penalty() == 0.0 and gate_weights(state).shape == (0, 0, 3)
        assert gate_record(state) is None
