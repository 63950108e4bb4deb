"""Whole runs of GRPO: two processes end with the adapter of one, and killed runs like those that were left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.corpus import rendered_corpus
from tests.helpers.run_if import RunIf
from tests.helpers.torchrun import distance, facts, train
from tests.helpers.training_child import TrainingRuns, interruption
from tests.runtime.test_resume import RECIPE, assert_same_end, printed

CORPUS = {"test_clips": 1, "train_clips": 16, "val_clips": 6, "workers": 1}
METHOD = ["method=grpo", "method.group_size=4", "method.max_new_tokens=4", "method.beta=0.1"]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered_corpus(tmp_path_factory, **CORPUS)


def recipe(data_dir: Path, *overrides: str, trainer: str = "cpu", size: int = 4) -> list[str]:
    """Three steps; ``size`` is the global batch."""
    alone = trainer == "cpu"
    processes = [] if alone else ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    return [
        "+experiment=mosear", *METHOD, f"trainer={trainer}", *processes,
        f"data.batch_size={size if alone else size // 2}", f"data_dir={data_dir}", "data.prepare=null",
        "data.num_workers=0", "data.cache_dir=null", "data.eval_batch_size=4", "data.budget.num_frames=4",
        "zero_shot=false", "trainer.max_steps=3", "trainer.limit_val_batches=0", "+trainer.enable_progress_bar=false",
        *overrides,
    ]  # fmt: skip


@pytest.mark.multinode
@RunIf(deepspeed=True)
def test_two_processes_equal_one(data_dir: Path, tmp_path: Path) -> None:
    """Samples of a prompt, means, curves; with ZeRO-3, completions that end at different times on the processes."""
    variants = {
        "sampled": ["method.temperature=2.0", "adapter.balance_weight=0.1"],
        "dapo": ["method.temperature=2.0", "method.loss_type=dapo", "method.num_iterations=2"],
        "exact": ["method.estimator=exact"],
    }
    alone = train({f"cpu-{n}": recipe(data_dir, *o) for n, o in variants.items()}, tmp_path / "alone")
    # ZeRO-3 comes last: modules that are built behind it in one process have partitioned weights, too.
    spread = {"zero2-sampled": recipe(data_dir, *variants["sampled"], trainer="zero2")}
    spread |= {f"{t}-{n}": recipe(data_dir, *o, trainer=t) for t in ("ddp", "zero3") for n, o in variants.items()}
    together = train(spread, tmp_path / "together", processes=2)
    found = {name: distance(alone / f"cpu-{name.partition('-')[2]}", together / name) for name in spread}
    print(found)
    assert max(found.values()) < 1e-4
    losses = facts(together / "ddp-sampled")["losses"]
    assert losses == pytest.approx(facts(alone / "cpu-sampled")["losses"], rel=1e-3, abs=1e-5)


def test_a_killed_run_ends_like_the_one_that_was_not(data_dir: Path, tmp_path: Path) -> None:
    """Checkpoints every three steps with two steps per rollout: one lies between them."""
    common = [own for own in RECIPE if not own.startswith("method.")]
    own = [*METHOD, "method.num_iterations=2", "method.temperature=2.0", f"data_dir={data_dir}"]
    start = TrainingRuns([*common, *own, "data.cache_dir=${run_dir}/cache"])
    reference, killed = tmp_path / "reference", tmp_path / "killed"
    assert start(reference) == 0, printed(reference)
    assert start(killed, *interruption(step=4, where="step")) == -9, printed(killed)
    assert start(killed) == 0, printed(killed)
    assert_same_end(killed, reference)
    assert "grpo" in (killed / "metrics.json").read_text()
