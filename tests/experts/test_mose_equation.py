"""The equation of a projection and of a gate, against literal references; and equality with what it must reduce to."""

from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import sequence_state
from mosear.experts import gate_weights
from mosear.experts.layer import MoSELinear
from mosear.roles import TokenRole
from tests.helpers.mose_models import ATTENTION, adapted, states
from tests.helpers.omni_samples import MIXED, fresh, make_batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("experts", [1, 3])
@torch.no_grad()
def test_equal_to_base_at_init_bitwise(backbone: OmniBackbone, experts: int, dtype: torch.dtype) -> None:
    own, _ = adapted(backbone, wake=0, dtype=dtype, experts_per_group=experts)
    base = fresh(backbone)
    base.model.to(dtype)
    batch = make_batch(own)
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask):
        found = states(own, batch)
    assert torch.equal(found, states(base, batch))


def three_loras(backbone: OmniBackbone, mose: peft.PeftModel, roles: Tensor, r: int, alpha: float) -> OmniBackbone:
    """Plain PEFT LoRAs with the groups' weights, each seeing the tokens of its group only."""
    base = fresh(backbone)
    names = [name for name, module in base.model.named_modules() if is_decoder_attention(name)]
    config = {"r": r, "lora_alpha": alpha, "target_modules": names}
    model = peft.get_peft_model(base.model, peft.LoraConfig(**config), "visual")
    for group in ("non_visual", "omni"):
        model.add_adapter(group, peft.LoraConfig(**config))
    model.base_model.set_adapter(["visual", "non_visual", "omni"])
    masks = {"visual": roles == TokenRole.VISUAL, "omni": roles != TokenRole.PAD}
    masks["non_visual"] = masks["omni"] & ~masks["visual"]
    for name in names:
        ours, plain = mose.get_base_model().get_submodule(name), base.model.get_submodule(name)
        for index, group in enumerate(("visual", "non_visual", "omni")):
            block = slice(index * r, (index + 1) * r)
            plain.lora_A[group].weight.data.copy_(ours.mose_A["default"][block])
            plain.lora_B[group].weight.data.copy_(ours.mose_B["default"][:, block])
            plain.lora_A[group].register_forward_hook(lambda m, i, out, mask=masks[group]: out * mask[..., None])
    model.eval()
    return base


def is_decoder_attention(name: str) -> bool:
    return name.startswith("model.language_model.layers.") and name.endswith(tuple(ATTENTION))


@torch.no_grad()
def test_uniform_gate_equals_three_plain_loras(backbone: OmniBackbone) -> None:
    own, model = adapted(backbone, r=2, alpha=3, gate="uniform", target_modules=ATTENTION)
    batch = make_batch(own)
    reference = states(three_loras(backbone, model, batch.roles, 2, 3), batch)
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask):
        found = states(own, batch)
    real = batch.attention_mask.bool()
    assert (reference - states(fresh(backbone), batch))[real].abs().max() > 0.1, "the adapters must matter"
    torch.testing.assert_close(found[real], reference[real], rtol=1e-5, atol=1e-5)


def literal_update(layer: MoSELinear, x: Tensor, roles: Tensor, w: Tensor, config: Any) -> Tensor:
    """The equation, one token and one expert at a time."""
    a, b = layer.mose_A["default"], layer.mose_B["default"]
    r, experts = config.r, config.experts_per_group
    total = torch.zeros(*x.shape[:2], layer.out_features)
    for s in range(x.shape[0]):
        for t in range(x.shape[1]):
            visual, real = roles[s, t] == TokenRole.VISUAL, roles[s, t] != TokenRole.PAD
            for m, allowed in enumerate((visual, real and not visual, real)):
                if not allowed:
                    continue
                a_m = a if config.share_a == "all" else a[m * r : (m + 1) * r]
                share = torch.ones(1)
                if experts > 1:
                    share = (layer.mose_R["default"][m * experts : (m + 1) * experts] @ x[s, t]).softmax(0)
                for k in range(experts):
                    column = (m * experts + k) * r
                    update = b[:, column : column + r] @ (a_m @ x[s, t])
                    total[s, t] += config.alpha / r * 3 * w[s, m] * share[k] * update
    return total


@pytest.mark.parametrize("share_a", ["group", "all"])
@pytest.mark.parametrize("experts", [1, 3])
@torch.no_grad()
def test_projection_follows_the_equation(backbone: OmniBackbone, experts: int, share_a: str) -> None:
    own, model = adapted(backbone, experts_per_group=experts, share_a=share_a, target_modules=["v_proj"], wake=0.3)
    batch = make_batch(own, MIXED[:3])
    layer = own.language_model.layers[1].self_attn.v_proj
    seen = {}
    layer.register_forward_hook(lambda module, args, out: seen.update(x=args[0], y=out))
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        states(own, batch)
    w = gate_weights(state)[1]
    assert (w - 1 / 3).abs().max() > 0.05
    update = literal_update(layer, seen["x"], batch.roles, w, model.peft_config["default"])
    torch.testing.assert_close(seen["y"], layer.base_layer(seen["x"]) + update, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("normalised", [False, True])
@torch.no_grad()
def test_gate_follows_the_equation(backbone: OmniBackbone, normalised: bool) -> None:
    own, _ = adapted(backbone, gate_norm=normalised)
    batch = make_batch(own, answer="happy")
    inputs = []
    for layer in own.language_model.layers:
        layer.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        states(own, batch)
    for index, hidden in enumerate(inputs):
        weight = own.language_model.layers[index].mose_gate.mose_W["default"]
        for s in range(len(batch)):
            means = []
            for visual in (True, False):
                rows = [
                    hidden[s, t]
                    for t in range(hidden.shape[1])
                    if batch.prompt_mask[s, t] and (batch.roles[s, t] == TokenRole.VISUAL) == visual
                ]
                mean = torch.stack(rows).mean(0) if rows else torch.zeros(hidden.shape[-1])
                if normalised:
                    mean = mean / (mean.square().mean() + 1e-6).sqrt()
                means.append(mean)
            expected = (weight @ torch.cat(means)).softmax(0)
            torch.testing.assert_close(gate_weights(state)[index, s], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_gate_is_fp32_in_a_bf16_model(backbone: OmniBackbone) -> None:
    own, _ = adapted(backbone, dtype=torch.bfloat16)
    batch = make_batch(own)
    with (
        torch.autocast("cpu", torch.bfloat16),
        sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask) as state,
    ):
        states(own, batch)
    assert gate_weights(state).dtype == torch.float32
    torch.testing.assert_close(gate_weights(state).sum(-1), torch.ones(3, len(batch)), rtol=0, atol=1e-6)


@torch.no_grad()
def test_plain_call_counts_the_whole_input_as_prompt(backbone: OmniBackbone) -> None:
    own, model = adapted(backbone)
    batch = make_batch(own, answer="happy")
    plain = model(**batch.model_inputs(), use_cache=False).logits
    with sequence_state(model, roles=batch.roles, prompt_mask=batch.attention_mask):
        stated = model(**batch.model_inputs(), use_cache=False).logits
    assert torch.equal(plain, stated)
    with sequence_state(model, prompt_mask=batch.prompt_mask):  # roles come from the ids
        prompt_only = model(**batch.model_inputs(), use_cache=False).logits
    assert not torch.allclose(plain, prompt_only, atol=1e-3)
