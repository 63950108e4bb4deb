"""Which policy divergence is measured from: the backbone, or the adapter as it was when training began."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.inference.scoring import label_log_probs
from mosear.methods.grpo import GRPO
from mosear.methods.omni_system import OmniSystem
from tests.helpers.mose_models import adapted
from tests.methods.grpo.test_grpo_method import batch_of, system_of, trained, with_lora


def moved(model: torch.nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in trained(model):
            parameter += 0.1 * torch.randn_like(parameter)


def reference_of(system: OmniSystem, method: GRPO) -> Tensor:
    """The reference's log-probabilities that a step has used."""
    method.loss(batch_of(system.backbone), 0)
    (kept,) = method._kept
    assert kept.reference is not None
    return kept.reference


@pytest.mark.parametrize("adapter", ["lora", "mose"])
@pytest.mark.parametrize("reference", ["backbone", "start"])
def test_the_reference_is_the_policy_that_is_named(qwen25: OmniBackbone, adapter: str, reference: str) -> None:
    """Against passes of a second model that was never tuned further."""

    def build(backbone: OmniBackbone) -> tuple[OmniBackbone, torch.nn.Module]:
        torch.manual_seed(0)
        return with_lora(backbone) if adapter == "lora" else adapted(backbone)

    own, model = build(qwen25)
    system, method = system_of(own, model, beta=0.1, reference=reference)
    moved(model)
    now = [parameter.detach().clone() for parameter in trained(model)]
    found = reference_of(system, method)
    assert all(torch.equal(*pair) for pair in zip(trained(model), now, strict=True)), "the policy has its weights back"
    (kept,) = method._kept
    other, network = build(qwen25)  # the same adapter, as it was
    untouched, its_method = system_of(other, network, beta=0.1)
    with torch.no_grad():
        if reference == "backbone":
            with untouched.untuned():
                expected = its_method._scores(kept).log_probs
        else:
            network.eval()
            expected = its_method._scores(kept).log_probs
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(found, method._scores(kept).log_probs, atol=1e-3), "which is not the policy"


def test_exact_measures_from_the_start(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    system, method = system_of(own, model, estimator="exact", beta=0.1, reference="start")
    data = batch_of(own)
    with torch.no_grad():
        log_q = label_log_probs(own, data, system.trie).log_softmax(-1).double()
    assert method.loss(data, 0).logs["kl"].item() == pytest.approx(0.0, abs=1e-6), "nothing has moved yet"
    moved(model)
    with torch.no_grad():
        log_p = label_log_probs(own, data, system.trie).log_softmax(-1).double()
    expected = sum(
        sum(p.exp().item() * (p.item() - q.item()) for p, q in zip(*rows, strict=True))
        for rows in zip(log_p, log_q, strict=True)
    ) / len(data)
    assert method.loss(data, 0).logs["kl"].item() == pytest.approx(expected, rel=1e-4)
    assert expected > 1e-3


def test_a_resumed_run_keeps_its_start(qwen25: OmniBackbone) -> None:
    """Weights of a checkpoint are there before the method is set up, and are not taken for the start."""
    own, model = with_lora(qwen25)
    system, method = system_of(own, model, beta=0.1, reference="start")
    moved(model)
    buffer = io.BytesIO()
    torch.save(method.state_dict(), buffer)
    buffer.seek(0)
    saved = torch.load(buffer, weights_only=True)
    assert sum(own.numel() for own in saved["grpo_start"].values()) == sum(own.numel() for own in trained(model))
    expected = reference_of(system, method)
    resumed = GRPO(group_size=4, max_new_tokens=5, rewards=method.rewards, beta=0.1, reference="start")
    resumed.load_state_dict(saved)
    resumed.setup(system)
    assert torch.equal(reference_of(system, resumed), expected)


def test_nothing_is_kept_where_the_start_is_not_asked_for(qwen25: OmniBackbone) -> None:
    own, model = with_lora(qwen25)
    for settings in ({"beta": 0.0, "reference": "start"}, {"beta": 0.1}):
        _, method = system_of(own, model, **settings)
        assert "grpo_start" not in method.state_dict()
