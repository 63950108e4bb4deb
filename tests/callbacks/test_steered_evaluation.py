"""Steering through Lightning: real clips, a real trainer, the embedded backbone, LoRA and MoSE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from peft import LoraConfig, get_peft_model

from mosear.backbones import load_backbone
from mosear.callbacks import GateTelemetry, SteeringCallback
from mosear.data.clip import Clip, ModalityLabels
from mosear.data.datamodule import ClipDataModule
from mosear.data.media import MediaBudget
from mosear.data.prompt import Prompt
from mosear.data.synthetic import ensure_corpus
from mosear.evaluation.answering import Answering
from mosear.evaluation.contribution import Contribution
from mosear.experts import MoSEConfig
from mosear.methods.answer_tuning import AnswerTuning
from mosear.methods.omni_system import OmniSystem
from mosear.methods.optim import Tuning
from mosear.steering import AttentionReallocation, Chase, Policies, SteeringSession, conflict_detector
from mosear.steering.policies.base import Policy
from mosear.steering.telemetry import SteeringTelemetry, true_direction

AR = AttentionReallocation(threshold=0.0, portion=0.9)
CHASE = Chase(conflict_threshold=0.0, strength=6.0)
ADAPTERS: dict[str, Any] = {
    "bare": None,
    "lora": LoraConfig(r=2, target_modules=r".*language_model.*\.(q_proj|v_proj)"),
    "mose": MoSEConfig(r=2, alpha=4),
}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_corpus(
        tmp_path_factory.mktemp("corpus"), train_clips=2, val_clips=2, test_clips=1, workers=1, size=56
    )


class Built:
    """A system on fresh weights, and its data."""

    def __init__(self, root: Path, adapter: str = "bare", **answering: Any) -> None:
        lightning.seed_everything(0, verbose=False)
        self.backbone = load_backbone("tiny-omni", dtype="fp32")
        config = ADAPTERS[adapter]
        network = self.backbone.model if config is None else get_peft_model(self.backbone.model, config)
        for parameter in self.backbone.model.parameters():
            if parameter.requires_grad:  # a fresh adapter changes nothing, and its gate prefers no group
                torch.nn.init.normal_(parameter, std=0.1)
        prompt = Prompt()
        budget = MediaBudget(num_frames=4, max_pixels=56 * 56)
        files = {"train": "train_natural", "val": "val", "test": "test"}
        self.data = ClipDataModule(
            backbone=self.backbone, prompt=prompt, budget=budget, batch_size=2, eval_batch_size=8, num_workers=0,
            **{name: str(root / f"{stem}.parquet") for name, stem in files.items()},
        )  # fmt: skip
        tuning = Tuning(learning_rate=1e-3)
        self.system = OmniSystem(
            self.backbone, network, self.data, Answering(**answering), method=AnswerTuning(), tuning=tuning
        )

    def trainer(self, *callbacks: Callback, **options: Any) -> lightning.Trainer:
        quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
        return lightning.Trainer(
            accelerator="cpu", logger=False, num_sanity_val_steps=0, callbacks=list(callbacks), **quiet | options
        )

    def test(self, policy: Policy | None, *callbacks: Callback) -> tuple[dict[str, Any], SteeringCallback | None]:
        """Rows by clip id."""
        steering = None if policy is None else SteeringCallback(policy)
        self.trainer(*callbacks, *[steering] * (policy is not None)).test(self.system, self.data, verbose=False)
        return {row.id: row for row in self.system.rows}, steering

    @property
    def untouched(self) -> bool:
        language_model: Any = self.backbone.language_model
        return (
            self.system.answerer.steering is None
            and language_model.config._attn_implementation == "sdpa"
            and not hasattr(self.backbone.model, "steering_session")
        )


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_answers_are_steered_and_unimodal_predictions_are_not(corpus: Path, adapter: str) -> None:
    built = Built(corpus, adapter)
    plain, _ = built.test(None)
    steered, callback = built.test(Policies((AR, CHASE)))
    assert callback is not None and built.untouched
    for name, row in steered.items():
        before = plain[name]
        assert (row.p_visual, row.p_audio, row.p_text) == (before.p_visual, before.p_audio, before.p_text)
        if row.p_visual is None or row.p_audio is None:
            assert row.conflict is None and row.target is None
            assert row.attention_before == pytest.approx(row.attention_after, abs=1e-6) or row.attention_before is None
            assert row.distribution == pytest.approx(before.distribution, abs=1e-5)
        else:
            decision = CHASE.decide({m: torch.tensor([getattr(row, f"p_{m}")]) for m in ("audio", "visual")})
            assert row.conflict == pytest.approx(float(decision.conflict), abs=1e-5)
            assert row.target in ("audio", "visual")
            assert sum(row.attention_before) == pytest.approx(1, abs=1e-4) and len(row.attention_before) == 3
            assert sum(row.attention_after) == pytest.approx(1, abs=1e-4)
            assert row.attention_after != pytest.approx(row.attention_before, abs=1e-4)
            assert row.distribution != pytest.approx(before.distribution, abs=1e-5)
    assert {row.conflict for row in plain.values()} == {row.target for row in plain.values()} == {None}
    summary = callback.telemetry.summary()
    assert summary["clips"] == sum(row.conflict is not None for row in steered.values()) > 0
    counted = [row.attention_before for row in steered.values() if row.conflict is not None]
    torch.testing.assert_close(
        torch.tensor(summary["before"]).mean(dim=(0, 1)), torch.tensor(counted).mean(0), atol=1e-4, rtol=0
    )
    assert {row.attention_before for row in plain.values()} == {None}
    before_mass, after_mass = (torch.tensor(summary[when]) for when in ("before", "after"))
    torch.testing.assert_close(before_mass.sum(-1), after_mass.sum(-1), atol=1e-4, rtol=0)
    assert (before_mass != after_mass).any() and torch.tensor(summary["flagged"]).max() > 0.5


def test_unimodal_predictions_are_not_paid_twice(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    predict = conflict_detector.unimodal_predictions

    def counted(*args: Any, **options: Any) -> Any:
        asked.append(1)
        return predict(*args, **options)

    monkeypatch.setattr(conflict_detector, "unimodal_predictions", counted)
    handed, _ = Built(corpus).test(CHASE)
    assert not asked
    alone, _ = Built(corpus, readings=False).test(CHASE)
    assert asked
    for name, row in handed.items():
        assert (row.target, alone[name].p_visual) == (alone[name].target, None)
        assert row.distribution == pytest.approx(alone[name].distribution, abs=1e-4)
    asked.clear()
    Built(corpus).test(Chase(readings="with_transcript"))
    assert asked, "predictions from one modality alone are no substitute for those with the transcript"


class Watch(Callback):
    """Notes whether a session is installed at each step, and may fail."""

    def __init__(self, fail: bool = False) -> None:
        self.fail, self.training, self.validation, self.sessions = fail, set(), set(), set()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        installed = hasattr(pl_module.backbone.model, "steering_session")
        self.training.add(installed or pl_module.answerer.steering is not None)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.validation.add(hasattr(pl_module.backbone.model, "steering_session"))
        if self.fail:
            raise RuntimeError("on purpose")

    def on_test_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        raise RuntimeError("on purpose")


def test_training_is_unsteered_and_validation_steered(corpus: Path) -> None:
    built, watch = Built(corpus, "mose"), Watch()
    built.trainer(SteeringCallback(Policies((AR, CHASE))), watch, max_steps=2, max_epochs=2).fit(
        built.system, built.data
    )
    assert (watch.training, watch.validation) == ({False}, {True})
    assert built.untouched


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_an_exception_takes_the_session_out(corpus: Path, stage: str) -> None:
    built = Built(corpus, "lora")
    trainer = built.trainer(SteeringCallback(AR), Watch(fail=True), max_steps=1)
    with pytest.raises(RuntimeError, match="on purpose"):
        getattr(trainer, stage)(built.system, built.data)
    assert built.untouched
    SteeringSession(built.backbone, AR).install().remove()  # and another one fits in


def test_generation_contribution_and_oracle_under_steering(corpus: Path) -> None:
    answering = {"method": "generate", "max_new_tokens": 3, "contribution": Contribution(enabled=True)}
    built = Built(corpus, **answering)
    oracle = Chase(conflict_threshold=0.0, strength=6.0, target="oracle")
    rows, _ = built.test(oracle)
    clips = {clip.id: clip for clip in built.data.manifest("test")}
    assert {row.target for row in rows.values()} >= {"audio", "visual"}
    for name, row in rows.items():
        assert row.target == (None if row.conflict is None else true_direction(clips[name]))
    assert len(built.system.contributions) == len(rows)


def test_gate_telemetry_hears_the_whole_prompt(corpus: Path) -> None:
    """Unimodal predictions come first; what the gate says in their passes is not what is reported."""
    heard = []
    for readings in (True, False):
        gate = GateTelemetry()
        Built(corpus, "mose", readings=readings).test(None, gate)
        heard.append(gate.summary()["gate"]["subsets"])
    assert heard[0] == heard[1]


def clip(label: str, audio: str | None, visual: str | None) -> Clip:
    return Clip("x", text="t", label=label, modality_labels=ModalityLabels(audio=audio, visual=visual))


@pytest.mark.parametrize(
    ("audio", "visual", "expected"),
    [("joy", "fear", "audio"), ("fear", "joy", "visual"), ("joy", "joy", None), ("a", "b", None), (None, None, None)],
)
def test_true_direction(audio: str | None, visual: str | None, expected: str | None) -> None:
    assert true_direction(clip("joy", audio, visual)) == expected


def test_telemetry_without_clips_is_empty() -> None:
    telemetry = SteeringTelemetry()
    telemetry.merge(SteeringTelemetry())
    assert telemetry.summary() == {}
