"""What PEFT tests of its own methods, tested of MoSE: by PEFT's names, on both families.

`tests/helpers/peft_cases.py` says what MoSE does in each case; docs/appendix/peft.md shows that table. PEFT brings
no tests along, so these are written anew.
"""

import copy
import inspect
import json
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    TaskType,
    get_peft_model,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.hotswap import hotswap_adapter
from safetensors.torch import load_file
from torch import Tensor, nn

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import sequence_state
from mosear.experts import MoSEConfig
from mosear.experts.hooks import mose_hooks
from mosear.experts.layer import MoSELinear
from tests.helpers.omni_samples import MIXED, fresh, make_batch
from tests.helpers.peft_cases import CASES, rows

DOCS = Path(__file__).parents[2] / "docs" / "appendix" / "peft.md"
START, END = (
    "<!-- PEFT's cases: written by UPDATE_GOLDEN=1 pytest tests/experts/test_peft_cases.py -->\n",
    "<!-- end -->",
)
RAN: set[str] = set()
SLOW = pytest.mark.slow
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
GENERATE: dict[str, Any] = {"max_new_tokens": 3, "do_sample": False}
Refuses = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(autouse=True)
def refuses(request: pytest.FixtureRequest) -> Iterator[Refuses]:
    """A block that must end with the sentence of the test's case; a case that is refused must have such a block."""
    name = request.function.__name__
    case, entered = CASES.get(name), []

    @contextmanager
    def block() -> Iterator[None]:
        assert case is not None and case.sentence
        with pytest.raises((ValueError, TypeError), match=case.sentence):
            yield
        entered.append(name)

    yield block
    RAN.add(name)
    assert case is None or bool(entered) == bool(case.sentence)


def config(**changes: Any) -> MoSEConfig:
    return MoSEConfig(**{"r": 2, "alpha": 4, **changes})


def build(backbone: OmniBackbone, name: str = "default", **changes: Any) -> PeftModel:
    """A copy of the backbone with an adapter that does something."""
    torch.manual_seed(1)
    model = get_peft_model(fresh(backbone).model, config(**changes), adapter_name=name)
    return woken(model, name)


def woken(model: PeftModel, name: str) -> PeftModel:
    """Every weight of an adapter random: a fresh one adds nothing."""
    with torch.no_grad():
        for parameter in weights_of(model, name).values():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def weights_of(model: nn.Module, name: str = "default") -> dict[str, nn.Parameter]:
    return {key: p for key, p in model.named_parameters() if ".mose_" in key and key.endswith(f".{name}")}


def inputs_of(backbone: OmniBackbone) -> dict[str, Any]:
    return make_batch(backbone, MIXED[:3]).model_inputs()


@torch.no_grad()
def logits(model: nn.Module, backbone: OmniBackbone) -> Tensor:
    return model(**inputs_of(backbone)).logits


def differ(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one, other, atol=1e-3)


def trained(model: PeftModel, backbone: OmniBackbone) -> float:
    """One backward pass in training mode; returns the loss."""
    batch = make_batch(backbone, MIXED[:3], answer="happy")
    model.train()
    with sequence_state(model, roles=batch.roles, prompt_mask=batch.prompt_mask):
        loss = model(**batch.model_inputs()).logits.float().square().mean()
    loss.backward()
    return loss.item()


def with_gradient(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_names_the_tests() -> None:
    module = sys.modules[__name__]
    own = {name for name, _ in inspect.getmembers(module, inspect.isfunction) if name.startswith("test_")}
    assert own - {name for name in own if "_the_table" in name or "_of_the_table" in name} == CASES.keys()


def test_the_table_of_the_docs_is_this_one() -> None:
    before, _, rest = DOCS.read_text().partition(START)
    shown, _, after = rest.partition(END)
    expected = "\n" + rows(CASES.items()) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        DOCS.write_text(before + START + expected + END + after)
        return
    assert shown == expected


# -- saving and loading ------------------------------------------------------------------------------------------------


@SLOW
def test_model_attr(backbone: OmniBackbone) -> None:
    model = build(backbone)
    assert all(hasattr(model, name) for name in ("save_pretrained", "from_pretrained", "push_to_hub"))


@SLOW
def test_adapter_name(backbone: OmniBackbone) -> None:
    model = build(backbone, "test-adapter")
    assert len(weights_of(model, "test-adapter")) > 10 and not weights_of(model)


def saved_and_loaded(backbone: OmniBackbone, directory: Path, *, safe: bool) -> None:
    model = build(backbone)
    model.save_pretrained(directory, safe_serialization=safe)
    files = {path.name for path in directory.iterdir()}
    assert files == {"adapter_config.json", f"adapter_model.{'safetensors' if safe else 'bin'}", "README.md"}
    assert json.loads((directory / "adapter_config.json").read_text())["peft_type"] == "MOSE"
    loaded = PeftModel.from_pretrained(fresh(backbone).model, directory)
    one, other = model.state_dict(), loaded.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@SLOW
def test_save_pretrained(backbone: OmniBackbone, tmp_path: Path) -> None:
    saved_and_loaded(backbone, tmp_path, safe=True)


@SLOW
def test_save_pretrained_pickle(backbone: OmniBackbone, tmp_path: Path) -> None:
    saved_and_loaded(backbone, tmp_path, safe=False)


def selected_adapters(backbone: OmniBackbone, directory: Path, *, safe: bool) -> None:
    model = build(backbone)
    model.add_adapter("new_adapter", config(experts_per_group=2))
    woken(model, "new_adapter")
    model.save_pretrained(directory / "both", safe_serialization=safe)
    loaded = PeftModel.from_pretrained(fresh(backbone).model, directory / "both")
    loaded.load_adapter(directory / "both" / "new_adapter", "new_adapter")
    one, other = model.state_dict(), loaded.state_dict()
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    model.save_pretrained(directory / "one", selected_adapters=["default"], safe_serialization=safe)
    assert not (directory / "one" / "new_adapter").exists()


@SLOW
def test_save_pretrained_selected_adapters(backbone: OmniBackbone, tmp_path: Path) -> None:
    selected_adapters(backbone, tmp_path, safe=True)


@SLOW
def test_save_pretrained_selected_adapters_pickle(backbone: OmniBackbone, tmp_path: Path) -> None:
    selected_adapters(backbone, tmp_path, safe=False)


@SLOW
def test_save_pretrained_adapter_name_substring(backbone: OmniBackbone, tmp_path: Path) -> None:
    model = build(backbone)
    expected = get_peft_model_state_dict(model)
    for name in ("default2", "other_default", "foodefault_bar", "efaul"):
        model.add_adapter(name, config(r=3))
    model.save_pretrained(tmp_path, selected_adapters=["default"])
    found = load_file(tmp_path / "adapter_model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@SLOW
def test_load_model_low_cpu_mem_usage(backbone: OmniBackbone, tmp_path: Path) -> None:
    model = build(backbone)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(backbone).model, tmp_path, torch_device="cpu", low_cpu_mem_usage=True)
    loaded.load_adapter(tmp_path, "other", low_cpu_mem_usage=True)
    assert {p.device.type for p in loaded.parameters()} == {"cpu"}
    expected = logits(model, backbone)
    for name in ("default", "other"):
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded, backbone), expected)
    injected = inject_adapter_in_model(config(), fresh(backbone).model, low_cpu_mem_usage=True)
    assert "meta" in {p.device.type for p in injected.parameters()}


@SLOW
def test_get_peft_model_low_cpu_mem_usage_works(backbone: OmniBackbone) -> None:
    model = get_peft_model(fresh(backbone).model, config(), low_cpu_mem_usage=True)
    projections = [p for name, p in weights_of(model).items() if "mose_W" not in name]
    assert all(p.is_meta for p in projections)
    model.load_state_dict(build(backbone).state_dict(), assign=True)
    assert torch.isfinite(logits(model.eval(), backbone)).all()


@SLOW
def test_load_multiple_adapters(backbone: OmniBackbone, tmp_path: Path) -> None:
    build(backbone).save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(fresh(backbone).model, tmp_path)
    for name in ("other", "yet-another"):
        assert model.load_adapter(tmp_path, name).missing_keys == []
    assert set(model.peft_config) == {"default", "other", "yet-another"}


@SLOW
def test_from_pretrained_config_construction(backbone: OmniBackbone, tmp_path: Path) -> None:
    build(backbone).save_pretrained(tmp_path)
    given = config()
    model = PeftModel.from_pretrained(fresh(backbone).model, tmp_path, is_trainable=False, config=given)
    assert model.peft_config["default"] is given and given.inference_mode


@SLOW
def test_inference_safetensors(backbone: OmniBackbone, tmp_path: Path) -> None:
    model = build(backbone)
    trained(model, backbone)
    expected = logits(model.eval(), backbone)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(fresh(backbone).model, tmp_path), backbone), expected)


@SLOW
def test_save_load_roundtrip(backbone: OmniBackbone, tmp_path: Path) -> None:
    """Twice: what was loaded is saved as it was."""
    build(backbone, experts_per_group=2, share_a="all").save_pretrained(tmp_path / "one")
    PeftModel.from_pretrained(fresh(backbone).model, tmp_path / "one").save_pretrained(tmp_path / "two")
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@SLOW
def test_peft_model_device_map(backbone: OmniBackbone, tmp_path: Path) -> None:
    model = build(backbone)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(backbone).model, tmp_path, device_map={"": "cpu"}).to("cpu")
    assert torch.equal(logits(loaded, backbone), logits(model, backbone))


@SLOW
def test_existing_model_card(backbone: OmniBackbone, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# Mine\n")
    build(backbone).save_pretrained(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "license: mit" in text and "library_name: peft" in text and "# Mine" in text


@SLOW
def test_non_existing_model_card(backbone: OmniBackbone, tmp_path: Path) -> None:
    build(backbone).save_pretrained(tmp_path)
    assert "library_name: peft" in (tmp_path / "README.md").read_text()


@SLOW
def test_get_peft_model_state_dict(backbone: OmniBackbone) -> None:
    model = build(backbone, "other")
    found = get_peft_model_state_dict(model, adapter_name="other")
    assert {f"{name}.other" for name in found} == weights_of(model, "other").keys()


@SLOW
def test_get_base_model_state_dict(backbone: OmniBackbone) -> None:
    base = fresh(backbone).model.state_dict()
    found = peft.get_base_model_state_dict(build(backbone))
    assert found.keys() == base.keys() and all(torch.equal(found[name], value) for name, value in base.items())


@SLOW
def test_inject_adapter_in_model(backbone: OmniBackbone) -> None:
    model, wrapped = inject_adapter_in_model(config(), fresh(backbone).model), build(backbone)
    assert isinstance(model, type(backbone.model)) and weights_of(model)
    peft.set_peft_model_state_dict(model, get_peft_model_state_dict(wrapped))
    assert torch.equal(logits(model.eval(), backbone), logits(wrapped, backbone))


@SLOW
def test_inject_from_state_dict(backbone: OmniBackbone) -> None:
    """The names of the tensors say where the adapter goes, within what the settings allow."""
    wrapped = build(backbone, target_modules=["q_proj"], layers_to_transform=[1])
    tensors = {n.removeprefix("base_model.model."): t for n, t in get_peft_model_state_dict(wrapped).items()}
    settings = config(target_modules=["q_proj"], layers_to_transform=[1])
    model = inject_adapter_in_model(settings, fresh(backbone).model, state_dict=tensors)
    peft.set_peft_model_state_dict(model, tensors)
    assert torch.equal(logits(model.eval(), backbone), logits(wrapped, backbone))
    with pytest.raises(ValueError, match=r"lm_head.* is not among the projections that target_modules=\['q_proj'\]"):
        inject_adapter_in_model(settings, fresh(backbone).model, state_dict={"lm_head.mose_A": tensors.popitem()[1]})


@SLOW
def test_transformers_load_adapter(backbone: OmniBackbone, tmp_path: Path, refuses: Refuses) -> None:
    build(backbone).save_pretrained(tmp_path)
    with refuses():
        fresh(backbone).model.load_adapter(str(tmp_path))


# -- running -----------------------------------------------------------------------------------------------------------


@SLOW
@torch.no_grad()
def test_generate(backbone: OmniBackbone) -> None:
    inputs = inputs_of(backbone)
    found = build(backbone).generate(**inputs, **GENERATE)
    assert found.shape[0] == 3 and found.shape[1] > inputs["input_ids"].shape[1]


@SLOW
@torch.no_grad()
def test_generate_pos_args(backbone: OmniBackbone) -> None:
    ids = make_batch(backbone, MIXED[3:4]).input_ids
    model = build(backbone)
    assert torch.equal(model.generate(ids, **GENERATE), model.generate(input_ids=ids, **GENERATE))


@SLOW
@torch.no_grad()
def test_generate_half_prec(backbone: OmniBackbone) -> None:
    model = build(backbone).to(torch.bfloat16)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1]])
    ids = torch.tensor([[41, 42, 43], [44, 45, 46]])
    assert model.generate(input_ids=ids, attention_mask=mask, **GENERATE).shape[0] == 2


@SLOW
def test_forward_output_finite(backbone: OmniBackbone) -> None:
    assert torch.isfinite(logits(build(backbone), backbone)).all()


def forward_in(backbone: OmniBackbone, dtype: torch.dtype, *, autocast: bool) -> None:
    own = fresh(backbone)
    own.model.to(dtype)
    model = get_peft_model(own.model, config(), autocast_adapter_dtype=autocast).eval()
    expected = {torch.float32 if autocast or "mose_W" in name else dtype for name in weights_of(model)}
    assert {p.dtype for p in weights_of(model).values()} == expected
    assert logits(model, backbone).dtype == dtype


@SLOW
def test_forward_float16(backbone: OmniBackbone) -> None:
    forward_in(backbone, torch.float16, autocast=True)


@SLOW
def test_forward_bfloat16(backbone: OmniBackbone) -> None:
    forward_in(backbone, torch.bfloat16, autocast=True)


@SLOW
def test_forward_float16_no_autocast(backbone: OmniBackbone) -> None:
    forward_in(backbone, torch.float16, autocast=False)


@SLOW
def test_forward_bfloat16_no_autocast(backbone: OmniBackbone) -> None:
    forward_in(backbone, torch.bfloat16, autocast=False)


@SLOW
@pytest.mark.parametrize("low", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_adapter_dtype_autocast(backbone: OmniBackbone, tmp_path: Path, autocast: bool, low: bool) -> None:
    """Gates are fp32 always."""
    base = fresh(backbone).model.to(torch.bfloat16)
    model = get_peft_model(copy.deepcopy(base), config(), autocast_adapter_dtype=autocast)
    model.add_adapter("other", config(), autocast_adapter_dtype=autocast)
    model.save_pretrained(tmp_path)
    options = {"autocast_adapter_dtype": autocast, "low_cpu_mem_usage": low}
    loaded = PeftModel.from_pretrained(base, tmp_path, **options)
    loaded.load_adapter(tmp_path / "other", "other", **options)
    for own in (model, loaded):
        for name in ("default", "other"):
            for key, parameter in weights_of(own, name).items():
                wanted = torch.float32 if autocast or "mose_W" in key else torch.bfloat16
                assert parameter.dtype == wanted, key


@SLOW
def test_passing_input_embeds_works(backbone: OmniBackbone) -> None:
    model, batch = build(backbone), make_batch(backbone, MIXED[3:4])
    given = {
        "inputs_embeds": model.get_input_embeddings()(batch.input_ids),
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }
    with pytest.raises(ValueError, match="has embeddings but no input ids"):
        model(**given)
    with torch.no_grad(), sequence_state(model, roles=batch.roles, prompt_mask=batch.prompt_mask):
        found = model(**given).logits
        torch.testing.assert_close(found, model(**batch.model_inputs()).logits, **TOLERANCE)


@SLOW
def test_mixed_adapter_batches(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone, "adapter0")
    model.add_adapter("adapter1", config())
    with refuses():
        model(**inputs_of(backbone), adapter_names=["__base__", "adapter0", "adapter1"])


@SLOW
def test_generate_with_mixed_adapter_batches_and_beam_search(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone, "adapter0")
    model.add_adapter("adapter1", config())
    names = ["__base__", "adapter0", "adapter1"]
    with refuses():
        model.generate(**inputs_of(backbone), **GENERATE, num_beams=2, adapter_names=names)


# -- training ----------------------------------------------------------------------------------------------------------


@SLOW
def test_prepare_for_training(backbone: OmniBackbone) -> None:
    ids = make_batch(backbone, MIXED[3:4]).input_ids
    assert not build(backbone).get_input_embeddings()(ids).requires_grad
    base = prepare_model_for_kbit_training(fresh(backbone).model)
    assert not any(p.requires_grad for p in base.parameters())
    model = get_peft_model(base, config())
    model.enable_input_require_grads()
    assert model.get_input_embeddings()(ids).requires_grad


@SLOW
def test_training(backbone: OmniBackbone) -> None:
    model = build(backbone)
    with pytest.raises(ValueError, match="In training mode MoSE must know where the prompt ends"):
        model.train()(**inputs_of(backbone))
    trained(model, backbone)
    assert with_gradient(model) == weights_of(model).keys()


@SLOW
def test_training_layer_indexing(backbone: OmniBackbone, tmp_path: Path) -> None:
    model = build(backbone, layers_to_transform=[0])
    trained(model, backbone)
    assert with_gradient(model) == weights_of(model).keys()
    assert {re.search(r"layers\.(\d+)\.", name)[1] for name in weights_of(model)} == {"0"}
    assert len(weights_of(model)) * 3 == len(weights_of(build(backbone)))
    model.eval().save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(backbone).model, tmp_path)
    assert torch.equal(logits(loaded, backbone), logits(model, backbone))


@SLOW
def test_training_gradient_checkpointing(backbone: OmniBackbone) -> None:
    model = build(backbone)
    trained(model, backbone)
    expected = {name: p.grad.clone() for name, p in weights_of(model).items()}
    model.zero_grad()
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trained(model, backbone)
    assert with_gradient(model) == expected.keys()
    for name, parameter in weights_of(model).items():
        torch.testing.assert_close(parameter.grad, expected[name], **TOLERANCE)


@SLOW
def test_training_gradient_checkpointing_reentrant(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    with refuses():
        trained(model, backbone)


def after_steps(backbone: OmniBackbone) -> tuple[PeftModel, dict[str, Tensor]]:
    """A model after three steps over all of its parameters, and its weights before them."""
    model = build(backbone)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        trained(model, backbone)
        optimizer.step()
    return model, before


@SLOW
def test_only_params_are_updated(backbone: OmniBackbone) -> None:
    model, before = after_steps(backbone)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == weights_of(model).keys()


@SLOW
def test_parameters_after_loading_model(backbone: OmniBackbone, tmp_path: Path) -> None:
    model, _ = after_steps(backbone)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(backbone).model, tmp_path).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in model.state_dict().items())


@SLOW
def test_set_requires_grad(backbone: OmniBackbone) -> None:
    model = build(backbone, "adapter0")
    model.add_adapter("adapter1", config())

    def trainable(name: str) -> set[bool]:
        return {p.requires_grad for p in weights_of(model, name).values()}

    assert (trainable("adapter0"), trainable("adapter1")) == ({True}, {False})
    model.set_requires_grad("adapter1")
    assert (trainable("adapter0"), trainable("adapter1")) == ({True}, {True})
    model.set_requires_grad(["adapter0", "adapter1"], requires_grad=False)
    assert (trainable("adapter0"), trainable("adapter1")) == ({False}, {False})


# -- several adapters --------------------------------------------------------------------------------------------------


@SLOW
def test_active_adapter(backbone: OmniBackbone) -> None:
    model = build(backbone)
    model.add_adapter("other", config())
    assert model.active_adapters == ["default"] and model.active_adapter == "default"
    model.set_adapter("other")
    assert model.active_adapters == ["other"] and model.active_adapter == "other"
    assert {p.requires_grad for p in weights_of(model, "default").values()} == {False}


@SLOW
def test_multiple_active_adapters_forward(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone, "adapter_1")
    model.add_adapter("adapter_2", config())
    with refuses():
        model.base_model.set_adapter(["adapter_1", "adapter_2"])


@SLOW
def test_add_adapter_rejects_duplicate_name_without_mutation(backbone: OmniBackbone) -> None:
    model = build(backbone)
    kept, before = model.peft_config["default"], {n: v.clone() for n, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="'default' already exists"):
        model.add_adapter("default", config(r=4))
    after = model.state_dict()
    assert model.peft_config["default"] is kept and after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@SLOW
def test_set_adapter_non_overlapping_modules(backbone: OmniBackbone) -> None:
    model = build(backbone, target_modules=["q_proj"], layers_to_transform=[0, 1])
    model.add_adapter("other", config(target_modules=["q_proj"], layers_to_transform=[1, 2]))
    woken(model, "other")
    first = logits(model, backbone)
    model.set_adapter("other")
    alone = get_peft_model(fresh(backbone).model, config(target_modules=["q_proj"], layers_to_transform=[1, 2]))
    with torch.no_grad():
        own = weights_of(model, "other")
        for name, parameter in weights_of(alone).items():
            parameter.copy_(own[name.removesuffix("default") + "other"])
    assert torch.equal(logits(model, backbone), logits(alone.eval(), backbone))
    model.set_adapter("default")
    assert torch.equal(logits(model, backbone), first)


@SLOW
def test_adapter_name_makes_no_difference(backbone: OmniBackbone) -> None:
    expected = logits(build(backbone), backbone)
    for name in ("language_model", "mose_A", "layers", "q_proj", "visual"):
        assert torch.equal(logits(build(backbone, name), backbone), expected)


@SLOW
def test_weighted_combination_of_adapters(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    model.add_adapter("other", config())
    with refuses():
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both")


def deleted(backbone: OmniBackbone, *, active: bool) -> None:
    model = build(backbone)
    expected = logits(model, backbone)
    model.add_adapter("delete_me", config())
    woken(model, "delete_me")
    if active:
        model.set_adapter("delete_me")
    model.delete_adapter("delete_me")
    assert list(model.peft_config) == ["default"] and model.active_adapters == ["default"]
    for module in model.modules():
        for attribute in (*getattr(module, "adapter_layer_names", ()), *getattr(module, "other_param_names", ())):
            assert "delete_me" not in getattr(module, attribute)
    assert torch.equal(logits(model, backbone), expected)
    model.delete_adapter("default")
    assert model.active_adapters == []
    assert torch.equal(logits(model.base_model, backbone), logits(backbone.model, backbone))


@SLOW
def test_delete_adapter(backbone: OmniBackbone) -> None:
    deleted(backbone, active=True)


@SLOW
def test_delete_inactive_adapter(backbone: OmniBackbone) -> None:
    deleted(backbone, active=False)


@SLOW
def test_delete_unknown_adapter_raises(backbone: OmniBackbone) -> None:
    model = build(backbone)
    before = logits(model, backbone)
    with pytest.raises(ValueError, match="unknown-adapter does not exist"):
        model.delete_adapter("unknown-adapter")
    assert model.active_adapters == ["default"] and torch.equal(logits(model, backbone), before)


@SLOW
def test_delete_adapter_properly_cleans_up_after_itself(backbone: OmniBackbone) -> None:
    model = build(backbone, "foobar", experts_per_group=2)

    def holding() -> list[str]:
        found = []
        for module in [model, *(m for m in model.modules() if isinstance(m, BaseTunerLayer))]:
            for name, held in [*vars(module).items(), *getattr(module, "_modules", {}).items()]:
                if hasattr(held, "keys") and "foobar" in held.keys():  # noqa: SIM118
                    found.append(name)
        return found

    assert holding()
    model.delete_adapter("foobar")
    assert holding() == []


@SLOW
def test_unload_adapter(backbone: OmniBackbone) -> None:
    base = fresh(backbone).model
    expected, names = logits(base, backbone), base.state_dict().keys()
    model = build(backbone)
    assert differ(logits(model, backbone), expected)
    bare = model.unload()
    assert bare.state_dict().keys() == names and not hasattr(bare, "peft_config")
    assert not any(isinstance(module, BaseTunerLayer) for module in bare.modules())
    assert torch.equal(logits(bare, backbone), expected)


@SLOW
@torch.no_grad()
def test_disable_adapter(backbone: OmniBackbone) -> None:
    def scores(model: nn.Module) -> Tensor:
        options = {**GENERATE, "return_dict_in_generate": True, "output_scores": True}
        return model.generate(**inputs_of(backbone), **options).scores[0]

    model, before = build(backbone), scores(backbone.model)
    on = scores(model)
    with model.disable_adapter():
        assert torch.equal(scores(model), before)
    assert torch.equal(scores(model), on) and differ(on, before)


@SLOW
@pytest.mark.parametrize("enabled", [True, False])
def test_disable_adapters_exiting_context_restores_previous_state(backbone: OmniBackbone, enabled: bool) -> None:
    model = build(backbone)
    if not enabled:
        model.base_model.disable_adapter_layers()
    with model.disable_adapter():
        pass
    found = {module.disable_adapters for module in model.modules() if isinstance(module, BaseTunerLayer)}
    assert found == {not enabled}


@SLOW
def test_disable_adapters_exiting_context_irregular_state(backbone: OmniBackbone) -> None:
    model = build(backbone)
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    layers[0].enable_adapters(False)
    with pytest.warns(UserWarning, match="some adapter layers that are enabled and others"), model.disable_adapter():
        pass
    assert not any(layer.disable_adapters for layer in layers)


@SLOW
def test_in_features_out_features_exposed(backbone: OmniBackbone) -> None:
    layers = [module for module in build(backbone).modules() if isinstance(module, BaseTunerLayer)]
    assert layers and all(isinstance(m.in_features, int) and isinstance(m.out_features, int) for m in layers)


@SLOW
def test_weight_bias_attributes(backbone: OmniBackbone) -> None:
    layer = next(module for module in build(backbone).modules() if isinstance(module, MoSELinear))
    assert layer.weight is layer.base_layer.weight and layer.bias is layer.base_layer.bias


# -- what MoSE refuses -------------------------------------------------------------------------------------------------


def refuse_merges(model: PeftModel, refuses: Refuses, **options: Any) -> None:
    for call in (model.merge_adapter, model.merge_and_unload):
        with refuses():
            call(**options)


@SLOW
def test_merge_layers(backbone: OmniBackbone, refuses: Refuses) -> None:
    """And a refused merge leaves the model as it was."""
    model = build(backbone)
    before = logits(model, backbone)
    refuse_merges(model, refuses)
    assert torch.equal(logits(model, backbone), before)
    assert isinstance(model.base_model.model, type(backbone.model)) and not model.get_model_status().merged_adapters


@SLOW
def test_merge_layers_multi(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    model.add_adapter("other", config())
    refuse_merges(model, refuses, adapter_names=["default", "other"])


@SLOW
def test_merge_layers_nan(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    next(iter(weights_of(model).values())).data.fill_(float("nan"))
    refuse_merges(model, refuses, safe_merge=True)


@SLOW
def test_merge_layers_fp16(backbone: OmniBackbone, refuses: Refuses) -> None:
    refuse_merges(build(backbone).to(torch.float16), refuses)


@SLOW
def test_merge_layers_is_idempotent(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    for _ in range(2):
        refuse_merges(model, refuses)


@SLOW
def test_safe_merge(backbone: OmniBackbone, refuses: Refuses) -> None:
    refuse_merges(build(backbone), refuses, safe_merge=True)


@SLOW
def test_disable_adapters_with_merging(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    with model.disable_adapter():
        refuse_merges(model, refuses)


@SLOW
def test_multiple_active_adapters_merge_and_unmerge(backbone: OmniBackbone, refuses: Refuses) -> None:
    """One layer alone is refused as well; there is nothing to undo."""
    model = build(backbone)
    before = logits(model, backbone)
    layer = next(module for module in model.modules() if isinstance(module, MoSELinear))
    with refuses():
        layer.merge()
    model.unmerge_adapter()
    assert torch.equal(logits(model, backbone), before)


@SLOW
def test_adding_multiple_adapters_with_bias_raises(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    with refuses():
        model.add_adapter("adapter1", config(bias="all"))
    assert list(model.peft_config) == ["default"]


@SLOW
def test_modules_to_save(refuses: Refuses) -> None:
    with refuses():
        config(modules_to_save=["lm_head"])


@SLOW
def test_lora_conversion(backbone: OmniBackbone, refuses: Refuses) -> None:
    model = build(backbone)
    assert not model.supports_lora_conversion()
    with refuses():
        peft.convert_to_lora(model, rank=2)


@SLOW
def test_hotswap_works(backbone: OmniBackbone, tmp_path: Path, refuses: Refuses) -> None:
    model = build(backbone)
    model.save_pretrained(tmp_path)
    with refuses():
        hotswap_adapter(model, str(tmp_path), adapter_name="default", torch_device="cpu")


@SLOW
def test_mixed_adapter_types(backbone: OmniBackbone, refuses: Refuses) -> None:
    with refuses():
        get_peft_model(fresh(backbone).model, config(), mixed=True)
    mixed = get_peft_model(fresh(backbone).model, LoraConfig(target_modules=["q_proj"]), mixed=True)
    with refuses():
        mixed.add_adapter("other", config())


@SLOW
def test_save_pretrained_targeting_lora_to_embedding_layer(backbone: OmniBackbone, refuses: Refuses) -> None:
    with refuses():
        build(backbone, target_modules=["embed_tokens"])


# -- settings ----------------------------------------------------------------------------------------------------------


@SLOW
def test_methods() -> None:
    assert all(hasattr(config(), name) for name in ("to_dict", "save_pretrained", "from_pretrained", "from_json_file"))


@SLOW
@pytest.mark.parametrize("task", [*TaskType, None])
def test_valid_task_type(task: TaskType | None) -> None:
    assert config(task_type=task).task_type == task


@SLOW
def test_invalid_task_type() -> None:
    with pytest.raises(ValueError, match="Invalid task type: 'nonsense'"):
        config(task_type="nonsense")


@SLOW
def test_from_peft_type() -> None:
    found = PeftConfig.from_peft_type(peft_type="MOSE", r=3)
    assert type(found) is MoSEConfig and found.r == 3


@SLOW
def test_to_dict() -> None:
    assert isinstance(config().to_dict(), dict) and config().to_dict()["peft_type"] == "MOSE"


def is_saved(given: MoSEConfig, directory: Path) -> bool:
    given.save_pretrained(directory)
    return given.to_dict() == MoSEConfig.from_pretrained(directory).to_dict()


@SLOW
def test_config_save_pretrained(tmp_path: Path) -> None:
    assert is_saved(config(experts_per_group=3, gate="uniform", kl_weight=0.1), tmp_path)


@SLOW
def test_from_json_file(tmp_path: Path) -> None:
    config().save_pretrained(tmp_path)
    assert MoSEConfig.from_json_file(str(tmp_path / "adapter_config.json")) == config().to_dict()


@SLOW
def test_set_attributes(tmp_path: Path) -> None:
    """Another method's name does not stick."""
    given = config(peft_type="test")
    assert given.peft_type == "MOSE" and is_saved(given, tmp_path)


@SLOW
@pytest.mark.parametrize("wanted", [["q_proj", "v_proj"], {"v_proj", "q_proj"}, ("q_proj", "v_proj"), ".*q_proj"])
def test_save_pretrained_with_target_modules(tmp_path: Path, wanted: Any) -> None:
    given = config(target_modules=wanted, layers_to_transform={0, 2})
    given.save_pretrained(tmp_path)
    found = MoSEConfig.from_pretrained(tmp_path)
    assert found.target_modules == (wanted if isinstance(wanted, str) else ["q_proj", "v_proj"])
    assert found.layers_to_transform == [0, 2]


@SLOW
def test_config_copy() -> None:
    assert copy.copy(config(r=3)).to_dict() == config(r=3).to_dict()


@SLOW
def test_config_deepcopy() -> None:
    assert copy.deepcopy(config(r=3)).to_dict() == config(r=3).to_dict()


@SLOW
def test_config_pickle_roundtrip() -> None:
    found = pickle.loads(pickle.dumps(config(r=3)))
    assert found.to_dict() == config(r=3).to_dict() and type(found.peft_type) is type(config().peft_type)


@SLOW
def test_from_pretrained_forward_compatible(tmp_path: Path) -> None:
    """Settings of a later version are named in a warning."""
    config().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"later": 1}))
    with pytest.warns(UserWarning, match=r"\['later'\] for class MoSEConfig"):
        assert PeftConfig.from_pretrained(tmp_path).to_dict() == config().to_dict()


@SLOW
def test_from_pretrained_sanity_check(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "unknown": 1}))
    with pytest.raises(TypeError, match=r"missing required keys: \{'peft_type'\}"):
        MoSEConfig.from_pretrained(tmp_path)


@SLOW
def test_config_layers_to_transform_index_zero(backbone: OmniBackbone) -> None:
    found = {name.split(".layers.")[1].split(".")[0] for name in weights_of(build(backbone, layers_to_transform=0))}
    assert found == {"0"}


@SLOW
def test_peft_version_is_stored(tmp_path: Path) -> None:
    config().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_version"].startswith(peft.__version__)


# -- what PEFT's utilities see -----------------------------------------------------------------------------------------


@SLOW
def test_repr(backbone: OmniBackbone) -> None:
    layer = next(module for module in build(backbone).modules() if isinstance(module, MoSELinear))
    text = repr(layer)
    assert text.startswith("mose.MoSELinear(") and "base_layer" in text and "mose_A" in text


@SLOW
def test_get_peft_model_with_task_type_low_cpu_mem_usage_works(backbone: OmniBackbone, tmp_path: Path) -> None:
    expected = build(backbone)
    model = build(backbone, task_type="CAUSAL_LM")
    assert type(model) is peft.PeftModelForCausalLM
    assert torch.equal(logits(model, backbone), logits(expected, backbone))
    with torch.no_grad():
        one, other = (own.generate(**inputs_of(backbone), **GENERATE) for own in (model, expected))
    assert torch.equal(one, other)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(fresh(backbone).model, tmp_path, low_cpu_mem_usage=True)
    assert type(loaded) is peft.PeftModelForCausalLM
    assert torch.equal(logits(loaded, backbone), logits(expected, backbone))


@SLOW
def test_no_modules_matched(backbone: OmniBackbone, refuses: Refuses) -> None:
    own = fresh(backbone)
    before = set(vars(own.model))
    with refuses():
        get_peft_model(own.model, config(target_modules=["nothing"]))
    assert set(vars(own.model)) == before


@SLOW
def test_all_modules_excluded(backbone: OmniBackbone, refuses: Refuses) -> None:
    with refuses():
        build(backbone, target_modules=["q_proj"], exclude_modules=["q_proj"])


@SLOW
def test_no_modules_matched_second_adapter(backbone: OmniBackbone) -> None:
    """A refused adapter leaves nothing behind."""
    model = build(backbone)
    names, before = list(model.state_dict()), logits(model, backbone)
    for wrong in ({"target_modules": ["nothing"]}, {"layers_to_transform": [9]}):
        with pytest.raises(ValueError, match="matche"):
            model.add_adapter("second", config(**wrong))
    assert list(model.peft_config) == ["default"] == list(mose_hooks(model).configs)
    assert list(model.state_dict()) == names and torch.equal(logits(model, backbone), before)


@SLOW
def test_add_second_adapter_with_all_linear_works(backbone: OmniBackbone) -> None:
    model = build(backbone)
    model.add_adapter("second", config(target_modules="all-linear"))
    assert len(weights_of(model)) == len(weights_of(model, "second"))


@SLOW
def test_targeted_module_names_unique_across_adapters(backbone: OmniBackbone) -> None:
    model = build(backbone, target_modules=["q_proj"])
    model.add_adapter("second", config(target_modules=["q_proj", "v_proj"]))
    names = model.base_model.targeted_module_names
    assert len(names) == len(set(names)) == 6


@SLOW
def test_exclude_modules_not_used(backbone: OmniBackbone) -> None:
    with pytest.warns(UserWarning, match=r"exclude_modules=\['nothing'\] but no modules were excluded"):
        build(backbone, exclude_modules=["nothing"])


@SLOW
def test_layer_status(backbone: OmniBackbone) -> None:
    model = build(backbone)
    model.add_adapter("other", config(target_modules=["q_proj"]))
    found = model.get_layer_status()
    assert {layer.module_type for layer in found} == {"mose.MoSELinear", "MoSEGate"}
    for layer in found:
        assert layer.enabled and layer.active_adapters == ["default"] and layer.merged_adapters == []
        assert layer.requires_grad == {name: name == "default" for name in layer.available_adapters}
        both = layer.name.endswith(("q_proj", "mose_gate"))
        assert layer.available_adapters == (["default", "other"] if both else ["default"])
        assert all(devices == ["cpu"] for devices in layer.devices.values())


@SLOW
def test_model_status(backbone: OmniBackbone) -> None:
    model = build(backbone)
    found = model.get_model_status()
    trainable = sum(p.numel() for p in weights_of(model).values())
    assert (found.adapter_model_type, found.peft_types) == ("MoSEModel", {"default": "MOSE"})
    assert found.trainable_params == trainable == model.get_nb_trainable_parameters()[0]
    assert found.enabled and found.merged_adapters == []
    with model.disable_adapter():
        assert not model.get_model_status().enabled


@SLOW
def test_vanilla_model_raises(backbone: OmniBackbone) -> None:
    """After `unload` the model is an ordinary one again."""
    with pytest.raises(ValueError, match="No adapter layers found"):
        peft.get_layer_status(build(backbone).unload())


@SLOW
def test_every_case_of_the_table_has_run(request: pytest.FixtureRequest) -> None:
    """Of those that were selected; pytest runs this one last."""
    here = {item.originalname for item in request.session.items if item.fspath == request.node.fspath}
    assert here & CASES.keys() <= RAN
