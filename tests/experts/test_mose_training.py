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
from mosear.callbacks import GateTelemetry
from mosear.data.dataset import ClipBatch
from mosear.data.prompt import Prompt
from mosear.evaluation.answering import Answering
from mosear.experts import sequence_state
from mosear.experts.state import conductor_of
from mosear.training.loss import answer_loss
from mosear.training.modality_dropout import dropped_modality, modality_draws
from mosear.training.module import EmotionTuner
from mosear.training.optim import Tuning
from mosear.training.processes import Part
from tests.helpers.mose_models import adapted, states
from tests.helpers.omni_samples import MIXED, fresh, inject_lora, make_batch


def tuner_of(backbone: OmniBackbone, network: torch.nn.Module) -> tuple[EmotionTuner, dict[str, Any]]:
    """A module without a trainer, and what it logs."""
    tuner = EmotionTuner(backbone, network, Prompt(), Tuning(), Answering())
    logged: dict[str, Any] = {}
    tuner.log = lambda name, value, **_: logged.update({name: float(value)})  # type: ignore[method-assign]
    tuner.on_train_epoch_start()
    return tuner, logged


def test_penalties_are_in_the_loss_and_in_the_log(backbone: OmniBackbone) -> None:
    weights = {"balance_weight": 0.5, "kl_weight": 0.25, "load_balance_weight": 2.0}
    own, model = adapted(backbone, experts_per_group=2, **weights)
    tuner, logged = tuner_of(own, model)
    batch = make_batch(own, answer="happy")
    loss = tuner.training_step(ClipBatch(batch), 0)
    with sequence_state(own, roles=batch.roles, prompt_mask=batch.prompt_mask) as state:
        total, count = answer_loss(states(own, batch), own.lm_head, batch.labels)
    found = state.regularisers()
    expected = total / count + 0.5 * found["gate_balance"].mean() + 0.25 * found["gate_kl"].mean()
    torch.testing.assert_close(loss, expected + 2.0 * found["load_balance"].mean(), rtol=1e-5, atol=1e-5)
    assert logged["train/loss"] == pytest.approx(float(total / count), rel=1e-5)
    for name, value in found.items():
        assert logged[f"train/{name}"] == pytest.approx(float(value.mean()), rel=1e-4, abs=1e-7)


def test_lora_logs_nothing_new(qwen25: OmniBackbone) -> None:
    own = fresh(qwen25)
    inject_lora(own, "q_proj")
    tuner, logged = tuner_of(own, own.model)
    tuner.training_step(ClipBatch(make_batch(own, answer="happy")), 0)
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
    tuner, _ = tuner_of(own, model)
    lost_visual = (s for s in range(99) if modality_draws(Part.of_sampler(batch), s, (0, 0)) < 0.45)
    tuner.run["seed"] = next(lost_visual)
    loss = tuner.training_step(ClipBatch(batch), 0)
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
    return state.gate_weights()


def test_telemetry_records_training_and_subsets(backbone: OmniBackbone, tmp_path: Path) -> None:
    own, model = adapted(backbone)
    tuner, _ = tuner_of(own, model)
    logger = CSVLogger(tmp_path)
    callback, trainer = GateTelemetry(every_n_steps=2), SimpleNamespace(global_step=0, loggers=[logger])
    callback.setup(trainer, tuner, "fit")
    batch = ClipBatch(make_batch(own, answer="happy"))
    for trainer.global_step in range(3):
        callback.on_train_batch_start(trainer, tuner, batch, 0)
        tuner.training_step(batch, 0)
        callback.on_train_batch_end(trainer, tuner, None, batch, 0)
    expected = weights_of(own, batch.data).mean(1)
    assert [entry["step"] for entry in callback.summary()["training"]] == [0, 2]
    torch.testing.assert_close(torch.tensor(callback.summary()["training"][1]["layers"]), expected, atol=1e-4, rtol=0)
    rows = logger.experiment.metrics
    assert [row["step"] for row in rows] == [0, 2], "only what was measured is logged"
    assert rows[1]["train/gate_omni/layer_1"] == pytest.approx(float(expected[1, 2]), abs=1e-5)
    assert [x for x, _ in callback.series()["visual"]] == [0, 2]
    model.eval()
    data = make_batch(own)
    clips = [replace(c, label="happy", subset="odd" if i % 2 else "even") for i, c in enumerate(data.clips)]
    tests = ClipBatch(replace(data, clips=clips))
    callback.on_test_start(trainer, tuner)
    callback.on_test_batch_start(trainer, tuner, tests, 0)
    with torch.no_grad():
        tuner.test_step(tests, 0)
    callback.on_test_batch_end(trainer, tuner, None, tests, 0)
    callback.on_test_end(trainer, tuner)
    w = weights_of(own, tests.data)
    summary = callback.summary()["subsets"]
    assert {name: entry["n"] for name, entry in summary.items()} == {"even": 3, "odd": 2}
    torch.testing.assert_close(torch.tensor(summary["odd"]["layers"]), w[:, 1::2].mean(1), atol=1e-4, rtol=0)
    callback.teardown(trainer, tuner, "fit")
    assert conductor_of(own).listeners == []


def test_a_collapsed_gate_is_said(backbone: OmniBackbone, caplog: pytest.LogCaptureFixture) -> None:
    own, model = adapted(backbone, kl_weight=0.001)
    tuner, _ = tuner_of(own, model)
    callback, trainer = GateTelemetry(), SimpleNamespace(global_step=0, loggers=[])
    callback.training = [(0, torch.full((2, 3), 1 / 3)), (10, torch.tensor([[0.1, 0.0, 0.9], [0.1, 0.1, 0.8]]))]
    callback.on_train_end(trainer, tuner)
    assert not caplog.records
    callback.training.append((20, torch.tensor([[0.01, 0.0, 0.99], [0.01, 0.03, 0.96]])))
    callback.on_train_end(trainer, tuner)
    assert "omni experts have 98 % of the weight" in caplog.text
    assert "adapter.kl_weight (now 0.001)" in caplog.text


def test_telemetry_is_silent_without_a_gate(qwen25: OmniBackbone) -> None:
    tuner, logged = tuner_of(qwen25, qwen25.model)
    callback, trainer = GateTelemetry(), SimpleNamespace(global_step=0, loggers=[])
    callback.setup(trainer, tuner, "fit")
    batch = ClipBatch(make_batch(qwen25, MIXED[3:4], answer="happy"))
    callback.on_train_batch_start(trainer, tuner, batch, 0)
    callback.on_train_batch_end(trainer, tuner, None, batch, 0)
    callback.teardown(trainer, tuner, "fit")
    assert callback.summary() == {} and callback.series() == {} and logged == {}
