"""The loss guard: what it calls bad, what it does then, and what it leaves for the search for the cause."""

from __future__ import annotations

import json

import pytest
import torch
from lightning import Trainer

from mosear.callbacks import LossGuard
from mosear.callbacks.checkpoint_state import restore_random_state
from mosear.callbacks.loss_guard import BadLossError
from tests.helpers.run_if import RunIf
from tests.helpers.toy_tuner import ToyData, ToyTuner, clip_batch, fit

NAN = float("nan")


def batches(*skip: int):
    return [clip_batch(f"a{index}", f"bb{index}") for index in range(8) if index not in skip]


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (ToyTuner({"bb5": NAN}), "Step 5: the loss is nan"),
        (ToyTuner({"bb5": float("inf")}), "Step 5: the loss is inf"),
        (ToyTuner(broken_gradients=("a5",)), "norm of its gradients is nan"),
    ],
)
def test_it_stops_before_the_step_is_taken(module, expected, tmp_path):
    with pytest.raises(BadLossError, match=expected) as error:
        fit(module, batches(), tmp_path, LossGuard(str(tmp_path / "dump")))
    assert "Clips: a5, bb5" in str(error.value) and "callbacks.loss_guard.on_bad_loss=skip" in str(error.value)
    before = ToyTuner()
    fit(before, batches(5, 6, 7), tmp_path)
    assert torch.equal(module.weight, before.weight)


def test_a_skipped_step_never_happened(tmp_path):
    """Weights end as if the batch were not there: AdamW's moments and step count are left alone as well."""
    guard = LossGuard(str(tmp_path / "dump"), on_bad_loss="skip")
    module, reference = ToyTuner({"a2": NAN, "bb6": NAN}), ToyTuner()
    trainer = fit(module, batches(), tmp_path, guard)
    fit(reference, batches(2, 6), tmp_path)
    assert torch.equal(module.weight, reference.weight)
    assert guard.skipped == 2 and trainer.global_step == 8 and len(guard.losses) == 6
    assert {path.name for path in (tmp_path / "dump").iterdir()} == {"step-000002", "step-000006"}


def test_too_many_skips_stop_the_run(tmp_path):
    guard = LossGuard(str(tmp_path), on_bad_loss="skip", max_skips=1)
    with pytest.raises(BadLossError, match=r"Step 4.*max_skips=1 are used up"):
        fit(ToyTuner({"a2": NAN, "a4": NAN}), batches(), tmp_path, guard)


def test_an_explosion_is_judged_against_the_median(tmp_path):
    module = ToyTuner({"a1": 30.0, "bb1": 30.0, "a6": 30.0, "bb6": 30.0})
    guard = LossGuard(str(tmp_path), explode_factor=10.0, window=3)
    with pytest.raises(BadLossError, match=r"Step 6: the loss is .* more than 10 times the usual"):
        fit(module, batches(), tmp_path, guard)  # step 1 passes: three losses are needed first
    assert len(guard.losses) == 3
    fit(ToyTuner(module.factors), batches(), tmp_path, LossGuard(str(tmp_path)))


def test_accumulated_batches_are_judged_and_listed_together(tmp_path):
    with pytest.raises(BadLossError, match="Step 1: the loss is nan"):
        guard = LossGuard(str(tmp_path))
        fit(ToyTuner({"a2": NAN}), batches(), tmp_path, guard, accumulate_grad_batches=2)
    listed = json.loads((tmp_path / "step-000001" / "rank-0" / "batch.json").read_text())
    assert [[clip["id"] for clip in batch["clips"]] for batch in listed] == [["a2", "bb2"], ["a3", "bb3"]]


def test_the_dump_says_what_the_step_was_made_of(tmp_path):
    class Gated(ToyTuner):
        def __init__(self) -> None:
            super().__init__({"a3": NAN})
            self.gate = torch.nn.Module()
            self.gate.mose_W = torch.nn.ParameterDict({"default": torch.nn.Parameter(torch.ones(3, 2))})

        def training_step(self, batch, batch_idx):
            drawn.append(torch.rand(2))
            return super().training_step(batch, batch_idx)

    drawn: list[torch.Tensor] = []
    with pytest.raises(BadLossError):
        fit(Gated(), batches(), tmp_path, LossGuard(str(tmp_path)))
    where = tmp_path / "step-000003" / "rank-0"
    (batch,) = json.loads((where / "batch.json").read_text())
    assert batch["clips"][0] == {
        "id": "a3",
        "label": "sad",
        "video": "a3.mp4",
        "audio": "video",
        "tokens": {"text": 2, "audio": 1, "visual": 2, "pad": 1},
    }
    losses = json.loads((where / "losses.json").read_text())
    assert losses["step"] == 3 and len(losses["before"]) == 3
    from safetensors.torch import load_file

    assert load_file(where / "gate.safetensors")["gate.mose_W.default"].shape == (3, 2)
    restore_random_state(torch.load(where / "rng.pt", weights_only=True))
    assert torch.equal(torch.rand(2), drawn[-1])  # the step can be played again


def test_it_remembers_over_a_resume(tmp_path):
    guard, other = LossGuard(str(tmp_path), window=4), LossGuard(str(tmp_path), window=4)
    fit(ToyTuner(), batches(), tmp_path, guard)
    other.load_state_dict(guard.state_dict())
    assert other.losses == guard.losses and len(other.losses) == 4


def test_mistakes_come_at_once(tmp_path):
    with pytest.raises(ValueError, match=r"on_bad_loss='maybe'.*max_skips=-1.*explode_factor=0.5.*window=0"):
        LossGuard(str(tmp_path), on_bad_loss="maybe", max_skips=-1, explode_factor=0.5, window=0)


@RunIf(deepspeed=True)
def test_deepspeed_cannot_skip(tmp_path, monkeypatch):
    from mosear.runtime.strategies import ZeroStrategy

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    guard = LossGuard(str(tmp_path), on_bad_loss="skip")
    trainer = Trainer(strategy=ZeroStrategy(2, "cpu"), accelerator="cpu", devices=1, callbacks=[guard], logger=False)
    with pytest.raises(ValueError, match="cannot take gradients back from DeepSpeed"):
        guard.setup(trainer, ToyTuner(), "fit")


def refuse_constant(name: str):
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_the_dump_is_strict_json(value, tmp_path):
    with pytest.raises(BadLossError):
        fit(ToyTuner({"a2": float(value)}), batches(), tmp_path, LossGuard(str(tmp_path)))
    text = (tmp_path / "step-000002" / "rank-0" / "losses.json").read_text()
    losses = json.loads(text, parse_constant=refuse_constant)
    assert losses["loss"] == value and losses["own_parts"] == [value] and len(losses["before"]) == 2


def broken_after(step: int):
    """Its weights are ruined by a step whose own loss and gradients were fine."""

    class Broken(ToyTuner):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            if batch_idx == step:
                self.weight.data.fill_(NAN)

    return Broken()


class Both(ToyData):
    def train_dataloader(self):
        return torch.utils.data.DataLoader(batches(), batch_size=None)


def test_a_validation_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(BadLossError, match=r"Step 8: the loss of the validation is nan.*Lower tuning.learning_rate"):
        fit(broken_after(7), Both(), tmp_path, LossGuard(str(tmp_path)), max_epochs=2)


def test_a_validation_that_is_not_finite_is_told_where_steps_are_skipped(tmp_path, caplog):
    fit(broken_after(7), Both(), tmp_path, LossGuard(str(tmp_path), on_bad_loss="skip"))
    assert "Step 8: the loss of the validation is nan" in caplog.text


def test_a_validation_alone_is_reported_not_judged(tmp_path):
    module = ToyTuner({"v": NAN})
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = Trainer(callbacks=[LossGuard(str(tmp_path))], **quiet)
    trainer.validate(module, ToyData(), verbose=False)
    assert not trainer.callback_metrics["val/loss"].isfinite()
