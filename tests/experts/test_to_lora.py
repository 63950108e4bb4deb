"""MoSE frozen to a plain LoRA: the fits against literal references, exact cases, and loading without mosear."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import sequence_state
from mosear.data.sample import OmniBatch
from mosear.experts import gate_weights
from mosear.experts.export.to_lora import FITS, RIDGE, Fit, Observation, freeze_experts, observed
from mosear.experts.layer import MoSELinear
from mosear.roles import TokenRole
from tests.helpers.mose_models import adapted, real, states
from tests.helpers.omni_samples import MIXED, fresh, make_batch

KINDS = [{"experts_per_group": experts, "share_a": share_a} for experts in (1, 3) for share_a in ("group", "all")]
NAME = "model.language_model.layers.1.self_attn.v_proj"


def run(backbone: OmniBackbone, batch: OmniBatch) -> tuple[Tensor, Tensor]:
    """Hidden states and the gate's weights ``[layers, B, 3]``."""
    with sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        return states(backbone, batch), gate_weights(state)


def as_lora(backbone: OmniBackbone, directory: Path) -> OmniBackbone:
    """A fresh backbone with what lies in ``directory``, loaded by plain PEFT."""
    own = fresh(backbone)
    PeftModel.from_pretrained(own.model, directory).eval()
    return own


def literal(layer: MoSELinear, x: Tensor, roles: Tensor, w: Tensor, config: Any) -> tuple[Any, Any, Any, Any]:
    """One token and one expert at a time, in float64, padding left out.

    Returns:
        ``x [T, in]``, coefficients a ``[T, J]``, updates u ``[T, J, out]`` (scaled), and the sum y ``[T, out]``.
    """
    a, b = layer.mose_A["default"].double(), layer.mose_B["default"].double()
    tokens, coefficients, updates = [], [], []
    for s in range(x.shape[0]):
        for t in range(x.shape[1]):
            if roles[s, t] == TokenRole.PAD:
                continue
            token, visual = x[s, t].double(), float(roles[s, t] == TokenRole.VISUAL)
            own_a, own_u = [], []
            for m, allowed in enumerate((visual, 1 - visual, 1.0)):
                a_m = a if config.share_a == "all" else a[m * config.r : (m + 1) * config.r]
                experts = config.experts_per_group
                share = torch.ones(1).double()
                if experts > 1:
                    rows = layer.mose_R["default"][m * experts : (m + 1) * experts].double()
                    share = (rows @ token).softmax(0)
                for k in range(experts):
                    column = (m * experts + k) * config.r
                    own_a.append(3 * w[s, m].double() * allowed * share[k])
                    own_u.append(config.alpha / config.r * b[:, column : column + config.r] @ (a_m @ token))
            tokens.append(token)
            coefficients.append(torch.stack(own_a))
            updates.append(torch.stack(own_u))
    x, c, u = torch.stack(tokens), torch.stack(coefficients), torch.stack(updates)
    return x.numpy(), c.numpy(), u.numpy(), torch.einsum("tj,tjo->to", c, u).numpy()


def reference_prediction(fit: Fit, x: Any, a: Any, c: Any, u: Any, y: Any) -> Any:
    """What the best LoRA of a fit adds to each token: ``[T, out]``."""
    flat = u.transpose(0, 2, 1).reshape(-1, u.shape[1])
    constants = c.mean(0) if fit == "mean" else np.linalg.lstsq(flat, y.reshape(-1), rcond=None)[0]
    found = (flat @ constants).reshape(y.shape)
    if fit == "refit":  # ridge regression of what is left, as least squares with rows for the penalty
        hidden = x @ a.T
        penalty = np.sqrt(RIDGE * (hidden**2).sum() / len(a)) * np.eye(len(a))
        left = np.concatenate([y - found, np.zeros((len(a), y.shape[1]))])
        found = found + hidden @ np.linalg.lstsq(np.concatenate([hidden, penalty]), left, rcond=None)[0]
    return found


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.no_grad()
def test_fits_against_a_literal_reference(qwen25: OmniBackbone, kind: dict[str, Any]) -> None:
    own, model = adapted(qwen25, **kind)
    batch = make_batch(own, MIXED[:4], answer="happy")
    layer, seen = own.model.get_submodule(NAME), {}
    layer.register_forward_hook(lambda module, args, out: seen.update(x=args[0]))
    with observed(model) as observation:
        _, w = run(own, batch)
    x, c, u, y = literal(layer, seen["x"], batch.roles, w[1], model.peft_config["default"])
    np.testing.assert_allclose(observation.mean_gate(), w.mean(1), rtol=1e-5)
    for fit in FITS:
        frozen = freeze_experts(model, observation, fit).projections[NAME]
        expected = reference_prediction(fit, x, layer.mose_A["default"].double().numpy(), c, u, y)
        found = x @ frozen.a.double().numpy().T @ frozen.b.double().numpy().T
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(y).max(), err_msg=fit)
        assert frozen.energy == pytest.approx((y**2).sum(), rel=1e-5)
        assert frozen.error == pytest.approx(((y - expected) ** 2).sum(), rel=1e-3), fit


@pytest.mark.parametrize("kind", KINDS, ids=str)
@torch.no_grad()
def test_each_fit_is_at_least_as_good_as_the_one_before(
    backbone: OmniBackbone, kind: dict[str, Any], tmp_path: Path
) -> None:
    own, model = adapted(backbone, **kind)
    batch = make_batch(own)
    with observed(model) as observation:
        run(own, batch)
    loras = [freeze_experts(model, observation, fit) for fit in FITS]
    assert FITS == ("mean", "least-squares", "refit")
    for worse, better in pairwise(loras):
        assert better.relative_error < worse.relative_error
        for name, frozen in better.projections.items():
            assert frozen.error <= worse.projections[name].error * (1 + 1e-9), name
    for lora in loras:
        assert 0 < lora.relative_error < 1, "better than adding nothing"
        blocks = 1 if kind["share_a"] == "all" else 3
        assert lora.config.r == lora.config.lora_alpha == 2 * blocks, "experts of a group fold into one"
        lora.save(tmp_path)
        assert torch.isfinite(states(as_lora(backbone, tmp_path), batch)).all()


@torch.no_grad()
def test_moments_add_up_over_batches_and_stop_at_the_end_of_the_block(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, experts_per_group=2)
    whole = make_batch(own)
    with observed(model) as together:
        run(own, whole)
    with observed(model) as apart:
        for seed, kinds in enumerate(MIXED):
            padding = [MIXED[0]] * seed  # the sample's seed is its place in the batch
            run(own, one_row(make_batch(own, [*padding, kinds]), seed))
    assert together.prompts == apart.prompts == len(MIXED)
    assert {m.tokens for m in together.moments.values()} == {int(whole.attention_mask.sum())}
    for name, moments in together.moments.items():
        assert apart.moments[name].tokens == moments.tokens
        torch.testing.assert_close(apart.moments[name].joint, moments.joint, rtol=1e-3, atol=1e-3)
    run(own, whole)
    with observed(model) as bare, model.disable_adapter():
        run(own, whole)
    assert together.prompts == len(MIXED) and bare.prompts == 0 and not bare.moments


def one_row(batch: OmniBatch, row: int) -> OmniBatch:
    """One sample of a batch, with the padding that the batch gave it."""
    from dataclasses import replace

    from mosear.data.batches import split_media

    keep = slice(row, row + 1)
    names = ("input_ids", "attention_mask", "roles", "transcript", "labels", "prompt_mask")
    tensors = {name: getattr(batch, name)[keep] for name in names}
    media = split_media(batch.media, batch)[row]
    return replace(batch, clips=batch.clips[keep], position_ids=batch.position_ids[:, keep], media=media, **tensors)


# -- exact cases ---------------------------------------------------------------------------------------------------


def same_visual_and_non_visual(model: PeftModel) -> None:
    """Make the two masked groups of every projection equal: together they act on all tokens."""
    config = model.peft_config["default"]
    for layer in model.modules():
        if isinstance(layer, MoSELinear):
            b, width = layer.mose_B["default"], config.r * config.experts_per_group
            b[:, width : 2 * width] = b[:, :width]
            if config.share_a == "group":
                layer.mose_A["default"][config.r : 2 * config.r] = layer.mose_A["default"][: config.r]


# Not Qwen3 in bfloat16: its router turns roundings into other experts, whatever the adapter, so no tolerance holds.
EXACT = [
    *[(family, kind, torch.float32, 1e-4) for family in ("qwen25", "qwen3") for kind in ({}, {"share_a": "all"})],
    ("qwen25", {}, torch.bfloat16, 0.05),
]


@pytest.mark.parametrize(("family", "kind", "dtype", "tolerance"), EXACT, ids=str)
@torch.no_grad()
def test_exact_where_nothing_depends_on_the_token(
    request: pytest.FixtureRequest,
    family: str,
    kind: dict[str, Any],
    dtype: torch.dtype,
    tolerance: float,
    tmp_path: Path,
) -> None:
    """Uniform gate, visual experts equal to non-visual ones: the masks cancel out."""
    backbone = request.getfixturevalue(family)
    own, model = adapted(backbone, gate="uniform", dtype=dtype, wake=0.1, **kind)
    same_visual_and_non_visual(model)
    base = fresh(backbone)
    base.model.to(dtype)
    batch = make_batch(own)
    plain = states(base, batch)
    with observed(model) as observation:
        expected, _ = run(own, batch)
    size = max(float((e - p).abs().max()) for e, p in zip(real(expected, batch), real(plain, batch), strict=True))
    assert size > 0.1, "the adapter must matter"
    for fit in FITS:
        lora = freeze_experts(model, observation, fit)
        assert lora.relative_error < 1e-5
        lora.save(tmp_path)
        found = states(as_lora(base, tmp_path), batch)
        for ours, theirs in zip(real(found, batch), real(expected, batch), strict=True):
            assert (ours - theirs).abs().max() <= tolerance * size, fit


@torch.no_grad()
def test_exact_on_one_text_under_a_learned_gate(backbone: OmniBackbone, tmp_path: Path) -> None:
    """One sample without pictures: non-visual and omni experts act on every token, with one weight each."""
    own, model = adapted(backbone)
    batch = make_batch(own, [("text",)])
    with observed(model) as observation:
        expected, w = run(own, batch)
    assert (w - 1 / 3).abs().max() > 1e-3
    for fit in FITS:
        lora = freeze_experts(model, observation, fit)
        lora.save(tmp_path)
        torch.testing.assert_close(states(as_lora(backbone, tmp_path), batch), expected, rtol=1e-4, atol=1e-4)
        # The visual expert gets nothing; the others three times their weight (alpha / r is 2).
        scales = (2 * 3 * w[1, 0] * torch.tensor([0.0, 1.0, 1.0])).repeat_interleave(2)
        expected_b = own.model.get_submodule(NAME).mose_B["default"] * scales
        torch.testing.assert_close(lora.projections[NAME].b, expected_b, rtol=1e-4, atol=1e-4)


# -- as others see it ----------------------------------------------------------------------------------------------

WITHOUT_US = """
import sys, torch, transformers
from peft import PeftModel

for path in sys.argv[1:]:
    case = torch.load(path)
    inputs, expected = case["inputs"], case["logits"]
    thinker = getattr(transformers, case["class"])
    model = PeftModel.from_pretrained(thinker.from_pretrained(case["checkpoint"], dtype=case["dtype"]), case["adapter"])
    with torch.no_grad():
        found = model.eval()(**inputs, use_cache=False).logits
        merged = model.merge_and_unload()(**inputs, use_cache=False).logits
    real = inputs["attention_mask"].bool()
    for logits in (found, merged):
        error = (logits - expected)[real].abs().max() / expected[real].abs().max()
        assert error < case["tolerance"], (path, float(error))
assert not [name for name in sys.modules if name.startswith("mosear")]
"""


@torch.no_grad()
def test_plain_peft_loads_it_in_a_process_without_mosear(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Plain transformers and PEFT get the logits of MoSE (in a case where a LoRA can), merged ones too."""
    cases = []
    for family, dtype, tolerance in (
        ("qwen25", torch.float32, 1e-4),
        ("qwen3", torch.float32, 1e-4),
        ("qwen25", torch.bfloat16, 0.1),
    ):
        own, model = adapted(request.getfixturevalue(family), gate="uniform", dtype=dtype, wake=0.1)
        same_visual_and_non_visual(model)
        inputs = make_batch(own).model_inputs()
        with observed(model) as observation:
            logits = model(**inputs, use_cache=False).logits
        adapter = tmp_path / f"lora{len(cases)}"
        freeze_experts(model, observation).save(adapter)
        case = {"inputs": inputs, "logits": logits, "tolerance": tolerance, "dtype": dtype, "adapter": str(adapter)}
        checkpoint = str(request.getfixturevalue(f"{family}_dir"))
        cases.append(tmp_path / f"case{len(cases)}.pt")
        torch.save({**case, "checkpoint": checkpoint, "class": type(own.model).__name__}, cases[-1])
    script = tmp_path / "script.py"
    script.write_text(WITHOUT_US)
    command = [sys.executable, str(script), *map(str, cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "missing adapter keys" not in done.stderr


@torch.no_grad()
def test_files_are_those_of_a_standard_lora(backbone: OmniBackbone, tmp_path: Path) -> None:
    own, model = adapted(backbone, layers_to_transform=[0, 2])
    model.peft_config["default"].base_model_name_or_path = "some/hub-id"
    with observed(model) as observation:
        run(own, make_batch(own))
    lora = freeze_experts(model, observation)
    lora.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = PeftConfig.from_pretrained(tmp_path)
    assert type(config) is LoraConfig and config.base_model_name_or_path == "some/hub-id" and config.bias == "none"
    adapted_names = {name for name, module in own.model.named_modules() if isinstance(module, MoSELinear)}
    loaded = as_lora(backbone, tmp_path).model
    found = {name: module for name, module in loaded.named_modules() if hasattr(module, "lora_A")}
    assert set(found) == set(config.target_modules) == adapted_names, "towers stay bare"
    assert {module.scaling["default"] for module in found.values()} == {1.0}
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert set(saved) == {
        f"base_model.model.{name}.lora_{part}.weight" for name in adapted_names for part in ("A", "B")
    }
    for name, module in found.items():
        assert torch.equal(module.lora_B["default"].weight, saved[f"base_model.model.{name}.lora_B.weight"])


# -- mistakes ------------------------------------------------------------------------------------------------------


def test_only_a_mose_model_can_be_observed(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    model = peft.get_peft_model(own.model, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="no MoSE adapter"), observed(model):
        pass


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((Observation(), "mean"), "ran on no token"), ((Observation(), "best"), "fit='best' is not one of mean")],
)
def test_what_cannot_be_frozen(qwen25: OmniBackbone, arguments: tuple[Any, Any], expected: str) -> None:
    _, model = adapted(qwen25)
    with pytest.raises(ValueError, match=expected):
        freeze_experts(model, *arguments)


def test_an_exception_in_the_block_leaves_nothing_behind(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25)
    hooks: Callable[[], int] = lambda: sum(len(module._forward_pre_hooks) for module in own.model.modules())  # noqa: E731
    before = hooks()
    with pytest.raises(RuntimeError, match="stop"), observed(model):
        assert hooks() > before
        raise RuntimeError("stop")
    assert hooks() == before
