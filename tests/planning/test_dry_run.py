"""A dry run says what would happen, and does none of it."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf
from torch.utils.data import DataLoader

from mosear.data.clip import Clip
from mosear.data.manifest import write_manifest
from mosear.planning.dry_run import dry_run, report, step_counts, steps, training_clips, verdict
from mosear.planning.memory import compose_train, estimate
from tests.helpers import processes

ROOT = Path(__file__).parents[2]


class Counted(LightningModule):
    """The smallest module that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [
        {
            "accumulate_grad_batches": accumulate,
            "limit_train_batches": limit,
            "max_epochs": epochs,
            "max_steps": at_most,
        }
        for accumulate, limit, (epochs, at_most) in itertools.product((1, 3), (1.0, 0.5, 2), ((2, -1), (3, 4), (-1, 5)))
    ],
    ids=str,
)
def test_steps_are_those_that_lightning_takes(options: dict[str, Any]) -> None:
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(accelerator="cpu", **options, **quiet)
    trainer.fit(Counted(), DataLoader(torch.ones(7, 1), batch_size=1))
    cfg = OmegaConf.create({**options, "overfit_batches": 0.0})
    assert step_counts(cfg, 14, 2, 1)[1] == trainer.global_step
    assert step_counts(cfg, 28, 2, 2)[1] == trainer.global_step  # two processes share the clips


def test_nothing_is_rendered_or_loaded(tmp_path: Path) -> None:
    cfg = compose_train(["+experiment=mosear", f"data_dir={tmp_path}", "debug=dry"])
    assert cfg.dry_run
    shown = dry_run(cfg)
    assert list(tmp_path.iterdir()) == []
    for part in ("tiny-omni", "longest clip", "1200 training clips", "38 an epoch, 380 in all", "fits 24 GB"):
        assert part in shown


def test_the_command_shows_both_trainings_and_no_warning(tmp_path: Path) -> None:
    where = [f"data_dir={tmp_path}", f"hydra.run.dir={tmp_path / 'run'}"]
    done = processes.run(["train.py", "+experiment=r1_omni", "debug=dry", *where], check=True)
    first, then = done.stdout.split("then r1_omni:")
    assert first.startswith("first r1_omni_cold_start:") and "38 an epoch" in first and "75 an epoch" in then
    assert "Warning" not in done.stderr


def test_an_unknown_backbone_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemExit, match="how large 'nobody/nothing' is"):
        report(compose_train(["backbone=checkpoint", "backbone.name=nobody/nothing"]))
    assert capsys.readouterr().out == ""


def test_clips_are_counted_in_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    path = tmp_path / "train.jsonl"
    write_manifest([Clip(id=f"c{n}", video="a.mp4", label="sad") for n in range(5)], path)
    given = ["data=manifest", f"data.train={path}", f"data.val={path}", "benchmark=manifest"]
    cfg = compose_train([*given, f"benchmark.manifest={path}", "data.batch_size=2"])
    assert training_clips(cfg) == 5
    assert "5 training clips, 2 to an optimiser step (2 x 1 process(es) x 1): 3 an epoch, 18 in all" in steps(cfg, 1)
    cfg.data.train = str(tmp_path / "nowhere.jsonl")
    assert training_clips(cfg) is None
    assert "unknown until" in steps(cfg, 1)


def test_the_verdict_says_what_to_change() -> None:
    found = estimate(compose_train(["+experiment=mosear"]))
    assert "trainer=gpu fits cards of 24 GB and more" in verdict(found)
    cramped = type(found)(**{**vars(found), "training": type(found.training)(10**12, 0)})
    assert "backbone.gradient_checkpointing=true, or trainer=zero3" in verdict(cramped)


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["mosear_7b", "mosear_30b"])
def test_published_recipes_run_dry_on_any_machine(experiment: str, tmp_path: Path) -> None:
    command = ["train.py", f"+experiment={experiment}", "debug=dry", f"hydra.run.dir={tmp_path}"]
    run = processes.run([*command, f"data_dir={tmp_path / 'data'}"])
    assert run.returncode == 0, run.stderr
    assert "B parameters" in run.stdout and "an epoch" in run.stdout and "fits 80 GB" in run.stdout
    assert not (tmp_path / "data").exists()


def test_a_fusion_model_is_planned_without_loading_anything(tmp_path: Path) -> None:
    done = processes.run(
        ["train.py", "+experiment=fusion", "model=linear_probe", "debug=dry", f"data_dir={tmp_path}",
         f"hydra.run.dir={tmp_path / 'run'}"]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "features: video 96, audio 96, text 96" in done.stdout
    assert "LinearProbe, 1,734 parameters" in done.stdout and "6 outputs for task=label" in done.stdout
    assert "1200 training clips" in done.stdout and not (tmp_path / "synthetic").exists()
