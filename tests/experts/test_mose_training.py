"""MoSE inside the training step: penalties in the loss and in the log, modality dropout, telemetry."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor

from mosear.backbones.backbone import OmniBackbone
from mosear.backbones.masks import causal_mask
from mosear.backbones.sequences import sequence_state
from mosear.callbacks import GateTelemetry
from mosear.data.dataset import ClipBatch
from mosear.data.prompt import Prompt
from mosear.experts import gate_weights
from mosear.experts.hooks import mose_hooks
from mosear.methods.answer_tuning import AnswerTuning
from mosear.methods.answer_tuning.loss import answer_loss
from mosear.methods.answer_tuning.modality_dropout import dropped_modality, modality_draws
from mosear.methods.omni_system import OmniSystem
from mosear.methods.processes import Part
from tests.helpers.mose_models import adapted, states
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_batch


def system_of(backbone: OmniBackbone, network: torch.nn.Module) -> tuple[OmniSystem, dict[str, Any]]:
    """A system without clips and trainer, ready for a step of answer tuning, and what it logs."""
    data: Any = SimpleNamespace(prompt=Prompt(), builder=None, cache=None, answer_from="label")
    system = OmniSystem(backbone, network, data, method=AnswerTuning())
    logged: dict[str, Any] = {}
    system.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    system.on_train_start()
    return system, logged


def test_penalties_are_in_the_loss_and_in_the_log(backbone: OmniBackbone) -> None:
    weights = {"balance_weight": 0.5, "kl_weight": 0.25, "load_balance_weight": 2.0}
    own, model = adapted(backbone, experts_per_group=2, **weights)
    system, logged = system_of(own, model)
    batch = make_batch(own, answer="happy")
    loss = system.training_step(ClipBatch(batch), 0)
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        total, count = answer_loss(states(own, batch), own.lm_head, batch.labels)
    found = {name: own.values for name, own in state.regularisers().items()}
    expected = total / count + 0.5 * found["gate_balance"].mean() + 0.25 * found["gate_kl"].mean()
    torch.testing.assert_close(loss, expected + 2.0 * found["load_balance"].mean(), rtol=1e-5, atol=1e-5)
    assert logged["train/loss"] == pytest.approx(float((total / count).detach()), rel=1e-5)
    for name, value in found.items():
        assert logged[f"train/{name}"] == pytest.approx(float(value.mean()), rel=1e-4, abs=1e-7)


def test_lora_logs_nothing_new(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    inject_lora(own, "q_proj")
    system, logged = system_of(own, own.model)
    system.training_step(ClipBatch(make_batch(own, answer="happy")), 0)
    assert set(logged) == {"train/loss"}


# -- modality dropout ----------------------------------------------------------------------------------------------


def test_dropout_hides_one_modality_of_clips_that_have_both(qwen25: OmniBackbone) -> None:
    own, model = adapted(qwen25, modality_dropout=0.8)
    batch = make_batch(own, MIXED * 40)
    hidden = dropped_modality(own, batch, modality_draws(Part.of_sampler(batch), 0, (0, 0)))
    assert hidden is not None
    visual, audio = batch.hidden_keys("visual"), batch.hidden_keys("audio")
    lost_visual = (hidden == visual).all(1) & visual.any(1) & hidden.any(1)
    lost_audio = (hidden == audio).all(1) & audio.any(1) & hidden.any(1)
    both = visual.any(1) & audio.any(1)
    assert hidden.any(1).equal(lost_visual | lost_audio) and not (hidden.any(1) & ~both).any()
    assert 0.2 < lost_visual[both].float().mean() < 0.6 and 0.2 < lost_audio[both].float().mean() < 0.6
    with model.disable_adapter():
        assert dropped_modality(own, batch, torch.zeros(len(batch))) is None


def test_a_step_with_dropout_is_a_step_without_that_modality(backbone: OmniBackbone) -> None:
    own, model = adapted(backbone, modality_dropout=0.9)
    batch = make_batch(own, MIXED[:1], answer="happy")
    system, _ = system_of(own, model)
    lost_visual = (s for s in range(99) if modality_draws(Part.of_sampler(batch), s, (0, 0)) < 0.45)
    system.run["seed"] = next(lost_visual)
    loss = system.training_step(ClipBatch(batch), 0)
    hidden = batch.hidden_keys("visual")
    embeds, extra = own.embed(batch.input_ids, batch.media)
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask, hidden=hidden):
        out = own.hidden_states(embeds, causal_mask(batch.attention_mask, hidden), batch.position_ids, **extra)
    total, count = answer_loss(out, own.lm_head, batch.labels)
    torch.testing.assert_close(loss, total / count)


def test_dropout_needs_boolean_masks(qwen25: OmniBackbone) -> None:
    own, _ = adapted(qwen25, modality_dropout=0.5)
    own.language_model.config._attn_implementation = "eager"
    with pytest.raises(ValueError, match="boolean attention masks"):
        dropped_modality(own, make_batch(own), torch.zeros(len(MIXED)))


# -- telemetry -----------------------------------------------------------------------------------------------------


def weights_of(backbone: OmniBackbone, batch) -> Tensor:
    with torch.no_grad(), sequence_state(backbone, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        states(backbone, batch)
    return gate_weights(state)


def test_telemetry_records_training_and_subsets(backbone: OmniBackbone, tmp_path: Path) -> None:
    own, model = adapted(backbone)
    system, _ = system_of(own, model)
    logger = CSVLogger(tmp_path)
    callback, trainer = GateTelemetry(every_n_steps=2), SimpleNamespace(global_step=0, loggers=[logger])
    callback.setup(trainer, system, "fit")
    batch = ClipBatch(make_batch(own, answer="happy"))
    for trainer.global_step in range(3):
        callback.on_train_batch_start(trainer, system, batch, 0)
        system.training_step(batch, 0)
        callback.on_train_batch_end(trainer, system, None, batch, 0)
    expected = weights_of(own, batch.data).mean(1)
    heard = callback.summary()["gate"]["training"]
    assert [entry["step"] for entry in heard] == [0, 2]
    torch.testing.assert_close(torch.tensor(heard[1]["layers"]), expected, atol=1e-4, rtol=0)
    rows = logger.experiment.metrics
    assert [row["step"] for row in rows] == [0, 2], "only what was measured is logged"
    assert rows[1]["train/gate_omni/layer_1"] == pytest.approx(float(expected[1, 2]), abs=1e-5)
    assert [x for x, _ in callback.charts()[0].series["visual"]] == [0, 2]
    model.eval()
    data = make_batch(own)
    clips = [replace(c, label="happy", subset="odd" if i % 2 else "even") for i, c in enumerate(data.clips)]
    tests = ClipBatch(replace(data, clips=clips))
    callback.on_test_start(trainer, system)
    callback.on_test_batch_start(trainer, system, tests, 0)
    with torch.no_grad():
        system.test_step(tests, 0)
    callback.on_test_batch_end(trainer, system, None, tests, 0)
    callback.on_test_end(trainer, system)
    w = weights_of(own, tests.data)
    summary = callback.summary()["gate"]["subsets"]
    assert {name: entry["n"] for name, entry in summary.items()} == {"even": 3, "odd": 2}
    torch.testing.assert_close(torch.tensor(summary["odd"]["layers"]), w[:, 1::2].mean(1), atol=1e-4, rtol=0)
    (table,) = callback.tables()
    assert [row[:3] for row in table.rows] == [[name, n, i] for name, n in (("even", 3), ("odd", 2)) for i in range(3)]
    assert [row[3:] for row in table.rows] == [*summary["even"]["layers"], *summary["odd"]["layers"]]
    callback.teardown(trainer, system, "fit")
    assert mose_hooks(own).observers == []


def test_a_collapsed_gate_is_said(backbone: OmniBackbone, caplog: pytest.LogCaptureFixture) -> None:
    own, model = adapted(backbone, kl_weight=0.001)
    system, _ = system_of(own, model)
    callback, trainer = GateTelemetry(), SimpleNamespace(global_step=0, loggers=[])
    callback.training = [(0, torch.full((2, 3), 1 / 3)), (10, torch.tensor([[0.1, 0.0, 0.9], [0.1, 0.1, 0.8]]))]
    callback.on_train_end(trainer, system)
    assert not caplog.records
    callback.training.append((20, torch.tensor([[0.01, 0.0, 0.99], [0.01, 0.03, 0.96]])))
    callback.on_train_end(trainer, system)
    assert "omni experts have 98 % of the weight" in caplog.text
    assert "adapter.kl_weight (now 0.001)" in caplog.text


def test_telemetry_is_silent_without_a_gate(qwen25: OmniBackbone) -> None:
    system, logged = system_of(qwen25, qwen25.model)
    callback, trainer = GateTelemetry(), SimpleNamespace(global_step=0, loggers=[])
    callback.setup(trainer, system, "fit")
    batch = ClipBatch(make_batch(qwen25, MIXED[3:4], answer="happy"))
    callback.on_train_batch_start(trainer, system, batch, 0)
    callback.on_train_batch_end(trainer, system, None, batch, 0)
    callback.teardown(trainer, system, "fit")
    assert callback.summary() == {} and callback.charts() == [] and logged == {}
