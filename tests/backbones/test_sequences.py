"""What is known of sequences: which model a state belongs to, and terms of the loss that passes leave in it."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.sequences import (
    Regulariser,
    SequenceState,
    family_with_separate_modalities,
    open_states,
    penalty,
    sequence_state,
    thinker_of,
)
from tests.helpers.omni_samples import fresh

WITHOUT_PEFT = """
import sys

import torch

from mosear.backbones.sequences import open_states, sequence_state, thinker_of

assert "peft" not in sys.modules, "importing this took PEFT along"
thinker = torch.nn.Linear(2, 2)
assert thinker_of(thinker) is thinker
with sequence_state(thinker, roles=torch.zeros(1, 3, dtype=torch.long)) as state:
    assert open_states(thinker) == [state]
assert open_states(thinker) == [] and "peft" not in sys.modules
"""


def test_the_thinker_is_found_without_importing_peft() -> None:
    run = subprocess.run([sys.executable, "-c", WITHOUT_PEFT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_the_thinker_inside_a_backbone_and_a_peft_model(qwen25: OmniBackbone, monkeypatch: pytest.MonkeyPatch) -> None:
    own = fresh(qwen25)
    network = get_peft_model(own.model, LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj"))
    assert thinker_of(own) is thinker_of(network) is thinker_of(own.model) is own.model
    with sequence_state(network) as outer, sequence_state(own) as inner:
        assert open_states(own.model) == [outer, inner]
    monkeypatch.delitem(sys.modules, "peft")
    assert thinker_of(own) is own.model, "without PEFT there is no PeftModel around it"


def test_the_penalty_is_the_weighted_sum_of_means() -> None:
    values = torch.tensor([1.0, 3.0, 8.0])
    found = {
        "first": Regulariser(values, 0.5),
        "second": Regulariser(values.mean(), 2.0, over_batch=True),
        "free": Regulariser(torch.tensor(float("nan")), 0.0),
    }
    torch.testing.assert_close(penalty(found), torch.tensor(0.5 * 4 + 2.0 * 4))
    assert penalty({}) == 0.0

    class Record:
        def __init__(self, name: str) -> None:
            self.name, self.counted = name, None

        def regularisers(self, *, counted: bool) -> dict[str, Regulariser]:
            self.counted = counted
            return {self.name: found[self.name]}

    state = SequenceState()
    assert state.regularisers() == {} and state.penalty() == 0.0
    state.records = {name: Record(name) for name in ("first", "second")}
    assert set(state.regularisers(counted=False)) == {"first", "second"}
    assert [record.counted for record in state.records.values()] == [False, False]
    torch.testing.assert_close(state.penalty(), torch.tensor(10.0))


def test_tensors_of_a_state_have_one_shape() -> None:
    with pytest.raises(ValueError, match=r"must have one shape \[B, L\]"):
        SequenceState(roles=torch.zeros(1, 3), hidden=torch.zeros(1, 4))


def test_a_model_that_is_no_thinker_is_refused() -> None:
    model = SimpleNamespace(config=SimpleNamespace(model_type="qwen2_5_omni_thinker"))
    with pytest.raises(ValueError, match=r"The thing works on the thinker \(Qwen2_5Omni.* not on SimpleNamespace"):
        family_with_separate_modalities(model, "The thing", "Leave it.")
