"""The LightningModule on rendered clips: real mp4 files, a real processor, PEFT LoRA and Lightning's Trainer."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from mosear.backbones import load_backbone
from mosear.data.datamodule import ClipDataModule
from mosear.data.manifest import load_manifest
from mosear.data.media import MediaBudget
from mosear.data.prompt import Prompt
from mosear.data.synthetic import ensure_corpus
from mosear.evaluation.answering import Answering
from mosear.evaluation.predictions import PredictionRow, read_predictions, write_predictions
from mosear.methods.answer_tuning import AnswerTuning
from mosear.methods.omni_system import OmniSystem
from mosear.methods.optim import Tuning

DECODER = r".*language_model.*\.(q_proj|v_proj)"
TOWERS = ".*(audio_tower|visual).*"
STEADY = Tuning(learning_rate=1e-2, warmup=0.0, schedule="constant")
FIELD_OF = {"visual": "video", "audio": "audio", "text": "text"}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 clips to train on, 10 to validate (4 subsets), 14 to test (7 subsets)."""
    root = tmp_path_factory.mktemp("corpus")
    return ensure_corpus(root, train_clips=6, val_clips=4, test_clips=2, workers=1, size=56)


Setup = tuple[OmniSystem, ClipDataModule]


@pytest.fixture
def setup(qwen25_dir: Path, corpus: Path) -> Callable[..., Setup]:
    """Builds a fresh backbone with LoRA, and the data; ``seed`` decides the adapter's start and the clips' order."""

    def build(
        seed: int = 0,
        answering: Answering | None = None,
        root: Path = corpus,
        checkpoint: Path = qwen25_dir,
        targets: Any = DECODER,
        exclude: str | None = None,
        **data: Any,
    ) -> Setup:
        lightning.seed_everything(seed, verbose=False)
        backbone = load_backbone(str(checkpoint), dtype="fp32")
        lora = LoraConfig(r=4, lora_dropout=0.1, target_modules=targets, exclude_modules=exclude)
        network = get_peft_model(backbone.model, lora)
        prompt = Prompt()
        module = ClipDataModule(
            backbone=backbone,
            prompt=prompt,
            budget=MediaBudget(num_frames=4, max_pixels=56 * 56),
            train=str(root / "train_natural.parquet"),
            val=str(root / "val.parquet"),
            test=str(root / "test.parquet"),
            **{"batch_size": 2, "eval_batch_size": 5, "num_workers": 0, "seed": seed} | data,
        )
        answering = answering or Answering(readings=False)
        return OmniSystem(backbone, network, module, answering, method=AnswerTuning(), tuning=STEADY), module

    return build


def trainer(**options: Any) -> lightning.Trainer:
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "max_epochs": 1,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
    }
    quiet = {"enable_progress_bar": False, "enable_checkpointing": False, "enable_model_summary": False}
    return lightning.Trainer(**defaults | quiet | options)


def adapter(tuner: OmniSystem) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in tuner.named_parameters() if p.requires_grad}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bitwise."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def fitted(built: Setup, **options: Any) -> OmniSystem:
    tuner, data = built
    trainer(**options).fit(tuner, data)
    return tuner


def predictions(built: Setup) -> list[PredictionRow]:
    tuner, data = built
    trainer().test(tuner, data, verbose=False)
    return tuner.rows


# -- training --------------------------------------------------------------------------------------------------------


class Spy(Callback):
    """Notes modes, gradients and how often a decoder layer ran."""

    def __init__(self) -> None:
        self.modes: list[tuple[bool, list[bool]]] = []
        self.gradients: dict[str, Tensor] = {}
        self.layer_runs = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        layer = pl_module.backbone.language_model.layers[0]
        layer.self_attn.register_forward_pre_hook(self.count)

    def count(self, *_: Any) -> None:
        self.layer_runs += 1

    def on_before_zero_grad(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, optimizer: Any
    ) -> None:
        backbone = pl_module.backbone
        towers = [backbone.model.get_submodule(path) for path in backbone.family.tower_paths]
        frozen = [module.training for tower in towers for module in tower.modules()]
        self.modes.append((backbone.language_model.layers[0].training, frozen))

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.gradients = {n: p.grad.clone() for n, p in pl_module.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("family", ["qwen25_dir", "qwen3_dir"])
def test_only_the_adapter_moves(setup: Callable[..., Setup], family: str, request: pytest.FixtureRequest) -> None:
    tuner, data = setup(checkpoint=request.getfixturevalue(family), exclude=TOWERS)
    before = {name: value.clone() for name, value in tuner.state_dict().items()}
    spy = Spy()
    fitted((tuner, data), callbacks=[spy], limit_val_batches=1, val_check_interval=1)
    after = tuner.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == set(adapter(tuner)), "every LoRA tensor and nothing else"
    assert all("language_model" in name and "lora_" in name for name in moved)
    assert all(after[name].any() for name in moved if "lora_B" in name)
    assert len(spy.modes) == 3
    for decoder, towers in spy.modes:  # also after a validation in mid-epoch
        assert decoder and not any(towers)


def test_same_seed_gives_bitwise_the_same_adapter(setup: Callable[..., Setup]) -> None:
    first, second, other = (adapter(fitted(setup(seed=seed))) for seed in (3, 3, 4))
    assert same(first, second)
    assert not same(first, other)


def test_gradient_checkpointing_changes_nothing(setup: Callable[..., Setup]) -> None:
    spies = []
    for checkpointing in (False, True):
        tuner, data = setup()
        if checkpointing:
            tuner.network.gradient_checkpointing_enable({"use_reentrant": False})
        spies.append(spy := Spy())
        fitted((tuner, data), callbacks=[spy], max_steps=1)
    plain, checkpointed = spies
    assert (plain.layer_runs, checkpointed.layer_runs) == (1, 2), "the layer runs again in the backward pass"
    assert any(gradient.any() for gradient in plain.gradients.values())
    for name, gradient in plain.gradients.items():
        torch.testing.assert_close(checkpointed.gradients[name], gradient, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("family", "targets"),
    # The audio tower has these too. For Qwen3-Omni, PEFT 0.20 keeps only the last part of a regular expression.
    [("qwen25_dir", ["q_proj", "v_proj"]), ("qwen3_dir", DECODER)],
)
def test_an_adapter_in_the_towers_is_refused(
    setup: Callable[..., Setup], family: str, targets: Any, request: pytest.FixtureRequest
) -> None:
    tuner, data = setup(checkpoint=request.getfixturevalue(family), targets=targets)
    with pytest.raises(ValueError, match=r"trainable tensors into the frozen towers.*audio_tower.*exclude_modules"):
        trainer().fit(tuner, data)


def test_the_feature_cache_changes_nothing(setup: Callable[..., Setup], tmp_path: Path) -> None:
    adapters, distributions = [], []
    for cache_dir in (None, str(tmp_path), str(tmp_path)):  # without, filling it, reading it
        built = setup(cache_dir=cache_dir)
        adapters.append(adapter(fitted(built)))
        distributions.append([row.distribution for row in predictions(built)])  # clips with any of the modalities
    assert same(adapters[0], adapters[1]) and same(adapters[0], adapters[2])
    assert distributions[0] == distributions[1] == distributions[2]
    assert sum(path.is_file() for path in tmp_path.rglob("*")) >= 6


# -- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_trainable_weights_alone_and_resumes(setup: Callable[..., Setup], tmp_path: Path) -> None:
    tuner, data = setup()
    first = trainer()
    first.fit(tuner, data)
    first.save_checkpoint(tmp_path / "last.ckpt")
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert same(saved, adapter(tuner))
    resumed, data = setup()
    trainer(max_epochs=2).fit(resumed, data, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert resumed.trainer.global_step == 6
    assert not same(adapter(resumed), adapter(tuner))


def test_resuming_equals_not_stopping(setup: Callable[..., Setup], tmp_path: Path) -> None:
    straight = fitted(no_dropout(setup()), max_epochs=2)
    first = trainer()
    first.fit(*no_dropout(setup()))
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed, data = no_dropout(setup(seed=0))
    trainer(max_epochs=2).fit(resumed, data, ckpt_path=tmp_path / "last.ckpt", weights_only=False)
    assert same(adapter(resumed), adapter(straight))


def no_dropout(built: Setup) -> Setup:
    """Random numbers of dropout are not part of a checkpoint."""
    for module in built[0].modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return built


def test_a_foreign_checkpoint_is_refused(setup: Callable[..., Setup], tmp_path: Path) -> None:
    other, data = setup(targets=r".*language_model.*\.q_proj")
    first = trainer(max_steps=1)
    first.fit(other, data)
    first.save_checkpoint(tmp_path / "other.ckpt")
    tuner, data = setup()
    with pytest.raises(
        ValueError, match=r"does not fit this adapter: 6 trainable tensors are missing \(.*v_proj.*\), 0 "
    ):
        trainer().fit(tuner, data, ckpt_path=tmp_path / "other.ckpt", weights_only=False)


def test_a_saved_adapter_loads_with_plain_peft(setup: Callable[..., Setup], qwen25_dir: Path, tmp_path: Path) -> None:
    built = setup()
    untrained = [row.distribution for row in predictions(built)]
    fitted(built)
    expected = [row.distribution for row in predictions(built)]
    assert expected != untrained
    built[0].network.save_pretrained(tmp_path)
    _, data = setup()
    backbone = load_backbone(str(qwen25_dir), dtype="fp32")
    network = PeftModel.from_pretrained(backbone.model, tmp_path)
    loaded = OmniSystem(backbone, network, data, Answering(readings=False))
    assert [row.distribution for row in predictions((loaded, data))] == expected


# -- evaluation ------------------------------------------------------------------------------------------------------


def test_validation_logs_loss_and_accuracies(setup: Callable[..., Setup]) -> None:
    tuner, data = setup()
    run = trainer(limit_val_batches=1.0)
    run.validate(tuner, data, verbose=False)
    logged = {name: float(value) for name, value in run.callback_metrics.items()}
    manifest = data.manifest("val")
    subsets = {clip.subset for clip in manifest}
    assert len(subsets) == 4
    of_subsets = {f"val/{subset}/accuracy" for subset in subsets}
    assert set(logged) == {"val/loss", "val/accuracy", "val/subset_mean", *of_subsets}
    assert logged["val/subset_mean"] == pytest.approx(sum(logged[name] for name in of_subsets) / len(of_subsets))
    data.paths["test"] = data.paths["val"]
    rows = predictions((tuner, data))
    gold = [row.distribution[tuner.prompt.labels.index(row.label)] for row in rows]
    losses = -torch.tensor(gold, dtype=torch.float64).log()
    assert logged["val/loss"] == pytest.approx(losses.mean().item(), rel=1e-5)
    for subset in subsets:
        own = [row.correct for row in rows if row.subset == subset]
        assert logged[f"val/{subset}/accuracy"] == pytest.approx(sum(own) / len(own))
    assert logged["val/accuracy"] == pytest.approx(sum(row.correct for row in rows) / len(rows))


def test_a_model_without_numbers_has_no_validation_loss_of_zero(setup: Callable[..., Setup]) -> None:
    tuner, data = setup(val_subset="consistent")
    for parameter in tuner.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(float("nan"))
    run = trainer(limit_val_batches=1.0)
    run.validate(tuner, data, verbose=False)
    assert run.callback_metrics["val/loss"].isnan() and float(run.callback_metrics["val/accuracy"]) == 0


def test_one_validation_subset_has_no_curve_of_its_own(setup: Callable[..., Setup]) -> None:
    run = trainer(limit_val_batches=1.0)
    run.validate(*setup(val_subset="consistent"), verbose=False)
    assert set(run.callback_metrics) == {"val/loss", "val/accuracy"}


def test_one_row_per_clip_with_what_each_modality_says(setup: Callable[..., Setup], tmp_path: Path) -> None:
    tuner, data = setup(answering=Answering(readings=True))
    rows = predictions((tuner, data))
    clips = list(data.manifest("test"))
    assert [row.id for row in rows] == [clip.id for clip in clips]
    for row, clip in zip(rows, clips, strict=True):
        assert (row.subset, row.split, row.label, row.text) == (clip.subset, "test", clip.label, clip.text)
        assert sum(row.distribution) == pytest.approx(1)
        assert row.prediction == tuner.prompt.labels[max(range(6), key=lambda i, p=row.distribution: p[i])]
        for name, field in FIELD_OF.items():
            reading = getattr(row, f"p_{name}")
            assert (reading is not None) == (getattr(clip, field) is not None)
            assert reading is None or sum(reading) == pytest.approx(1)
    assert any(row.p_visual is None for row in rows) and any(row.p_audio is None for row in rows)
    write_predictions(rows, tuner.prompt.labels, tmp_path / "predictions.parquet")
    assert [row.id for row in read_predictions(tmp_path / "predictions.parquet")[0]] == [row.id for row in rows]


def test_text_without_a_label_is_unparsed(setup: Callable[..., Setup]) -> None:
    tuner, data = setup(answering=Answering(method="generate", max_new_tokens=4, readings=False))
    rows = predictions((tuner, data))
    assert len(rows) == 14
    for row in rows:
        assert row.answer_text is not None and row.distribution is not None
        assert (row.prediction is None) == (row.unparsed_reason is not None)
    unread = [row for row in rows if row.prediction is None]
    assert unread, "a random model does not write labels"
    assert all(row.unparsed_reason in ("no label", "empty") and not row.correct for row in unread)


@pytest.fixture
def damaged(corpus: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A copy of the corpus in which the first five test clips (a whole batch) and the eighth are no media files."""
    root = shutil.copytree(corpus, tmp_path / "damaged")
    clips = [list(load_manifest(root / "test.parquet"))[index] for index in (0, 1, 2, 3, 4, 7)]
    for clip in clips:
        (root / (clip.video or clip.audio)).write_bytes(b"not a clip")
    return root, [clip.id for clip in clips]


def test_bad_media_count_as_wrong(setup: Callable[..., Setup], damaged: tuple[Path, list[str]]) -> None:
    root, bad = damaged
    good = {row.id: row.distribution for row in predictions(setup())}
    rows = predictions(setup(root=root, on_bad_media="quarantine"))
    assert sorted(row.id for row in rows) == sorted(good)
    unread = [row for row in rows if row.prediction is None]
    assert sorted(row.id for row in unread) == sorted(bad)
    assert all(row.unparsed_reason.startswith("bad media: ") and not row.correct for row in unread)
    for row in rows:
        if row.id not in bad:
            assert row.distribution == pytest.approx(good[row.id], abs=1e-5), "batch mates do not matter"


def test_bad_media_count_as_wrong_in_validation(setup: Callable[..., Setup], damaged: tuple[Path, list[str]]) -> None:
    root, _ = damaged
    tuner, data = setup(root=root, on_bad_media="quarantine")
    data.paths["val"] = data.paths["test"]
    run = trainer(limit_val_batches=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        run.validate(tuner, data, verbose=False)
    right = sum(row.correct for row in predictions((tuner, data)))
    assert float(run.callback_metrics["val/accuracy"]) == pytest.approx(right / 14)
    assert torch.isfinite(run.callback_metrics["val/loss"])


def test_bad_media_stop_the_run_by_default(setup: Callable[..., Setup], damaged: tuple[Path, list[str]]) -> None:
    root, bad = damaged
    with pytest.raises(ValueError, match=rf"Clip '{bad[0]}': .*on_bad_media=quarantine"):
        predictions(setup(root=root))


def test_scores_that_are_not_finite_count_as_wrong(setup: Callable[..., Setup]) -> None:
    tuner, data = setup()
    with torch.no_grad():
        tuner.backbone.language_model.norm.weight.fill_(float("nan"))
    rows = predictions((tuner, data))
    assert {(row.prediction, row.unparsed_reason) for row in rows} == {(None, "scores are not finite")}
    assert all(row.distribution is None and not row.correct for row in rows)
    data.paths["val"] = data.paths["test"]
    run = trainer(limit_val_batches=1.0)
    run.validate(tuner, data, verbose=False)
    assert float(run.callback_metrics["val/accuracy"]) == 0
