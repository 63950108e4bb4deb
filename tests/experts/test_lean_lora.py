"""PEFT's LoRA with less to compute gives what PEFT's own gives."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from mosear.experts.lean_lora import LeanLoraLinear, folded, lean


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(16, 40), nn.Linear(40, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(nn.functional.silu(self.up(x)))
        return out


def adapted(dtype: torch.dtype = torch.float32, **settings: Any) -> tuple[PeftModel, PeftModel]:
    """The same adapter as PEFT runs it, and as we do; no matrix is zero."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["up", "down"], **settings})
    own = get_peft_model(Mlp().to(dtype), config)
    for name, parameter in own.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    return deepcopy(own), lean(own)


def trained(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and gradients of the adapter and of the input."""
    x = x.clone().requires_grad_(True)
    torch.manual_seed(1)  # dropout
    out = model(x)
    out.square().sum().backward()
    assert x.grad is not None
    return out.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"x": x.grad}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_equal_to_the_last_bit_at_a_scale_that_is_a_power_of_two(dropout: float) -> None:
    theirs, ours = adapted(lora_dropout=dropout)
    x = torch.randn(3, 7, 16)
    (out, gradients), (expected, expected_gradients) = trained(ours, x), trained(theirs, x)
    assert torch.equal(out, expected)
    assert gradients.keys() == expected_gradients.keys() and len(gradients) == 5
    assert all(torch.equal(gradient, expected_gradients[name]) for name, gradient in gradients.items())


def test_equal_up_to_rounding_at_other_scales() -> None:
    theirs, ours = adapted(lora_alpha=7)
    x = torch.randn(3, 7, 16)
    (out, gradients), (expected, expected_gradients) = trained(ours, x), trained(theirs, x)
    torch.testing.assert_close(out, expected)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("autocast", [False, True])
def test_types_are_peft_s(autocast: bool) -> None:
    theirs, ours = adapted(torch.bfloat16)
    x = torch.randn(2, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out, expected = ours(x), theirs(x)
    assert out.dtype == expected.dtype
    torch.testing.assert_close(out, expected, rtol=0.02, atol=0.02)


def test_the_base_layer_s_own_output_is_left_alone() -> None:
    _, ours = adapted()
    held: list[Tensor] = []
    layer = ours.base_model.model.up
    assert isinstance(layer, LeanLoraLinear)
    layer.base_layer.register_forward_hook(lambda module, inputs, output: held.append(output))
    x = torch.randn(2, 16)
    layer(x)
    assert torch.equal(held[0], nn.functional.linear(x, layer.base_layer.weight, layer.base_layer.bias))


def test_everything_else_is_peft_s(tmp_path: Path) -> None:
    theirs, ours = adapted()
    x = torch.randn(2, 16)
    with ours.disable_adapter(), theirs.disable_adapter():
        assert torch.equal(ours(x), theirs(x))
    ours.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(deepcopy(theirs).unload(), str(tmp_path))
    assert torch.equal(again(x), ours(x))
    for model in (ours, theirs):
        model.add_adapter("second", LoraConfig(r=2, target_modules=["up"], init_lora_weights=False))
    ours.load_state_dict(theirs.state_dict())
    for names in (["second"], ["default", "second"]):
        for model in (ours, theirs):
            model.base_model.set_adapter(names)
        assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.merge_and_unload()(x), theirs.merge_and_unload()(x))


def test_other_kinds_of_lora_are_not_touched() -> None:
    dora = lean(get_peft_model(Mlp(), LoraConfig(r=2, target_modules=["up"], use_dora=True)))
    x = torch.randn(2, 16)
    reference = deepcopy(dora)
    for module in reference.modules():
        if type(module) is LeanLoraLinear:
            module.__class__ = Linear
    assert torch.equal(dora(x), reference(x))


def test_backward_keeps_nothing_of_the_size_of_the_output() -> None:
    _, ours = adapted()
    kept: list[tuple[int, ...]] = []
    layer = ours.base_model.model.up

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(torch.randn(5, 16))
    assert (5, 4) in kept and (5, 40) not in kept


def test_folded_layers_give_the_same_and_leave_no_trace() -> None:
    theirs, ours = adapted()
    x = torch.randn(3, 7, 16)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with folded(ours):
        layers = [module for module in ours.modules() if isinstance(module, LeanLoraLinear)]
        assert len(layers) == 2 and all(layer.folded is not None for layer in layers)
        torch.testing.assert_close(ours(x), theirs(x))
        with ours.disable_adapter(), theirs.disable_adapter():
            assert torch.equal(ours(x), theirs(x))
    assert all(layer.folded is None for layer in layers)
    assert before.keys() == ours.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


def test_layers_in_low_precision_are_not_folded() -> None:
    _, ours = adapted(torch.bfloat16)
    with folded(ours):
        assert all(module.folded is None for module in ours.modules() if isinstance(module, LeanLoraLinear))


def test_an_error_inside_unfolds() -> None:
    _, ours = adapted()
    with pytest.raises(KeyError), folded(ours):
        raise KeyError
    assert all(module.folded is None for module in ours.modules() if isinstance(module, LeanLoraLinear))
