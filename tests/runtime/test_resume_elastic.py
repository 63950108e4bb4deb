"""One of two torchrun workers is killed; the job starts again by itself and ends like one that was left alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mosear.callbacks.checkpoint_files import complete, read_note
from tests.helpers.corpus import rendered_corpus
from tests.helpers.run_if import RunIf
from tests.helpers.training_child import ROOT, interruption
from tests.runtime.test_resume import CORPUS, LAST, RECIPE, assert_same_end

pytestmark = pytest.mark.multinode


def torchrun(
    run_dir, data_dir, *overrides, trainer: str = "ddp", restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    launcher = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--max-restarts={restarts}"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"),
    ]
    parallel = [f"trainer={trainer}", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    recipe = [entry for entry in RECIPE if entry != "data.batch_size=4"]
    command = [
        *(*launcher, "train.py", *parallel, *recipe, "data.batch_size=2", "trainer.deterministic=true"),
        *(f"data_dir={data_dir}", "data.cache_dir=null", f"hydra.run.dir={run_dir}", *overrides),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=3600)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return rendered_corpus(tmp_path_factory, **CORPUS)


@pytest.mark.parametrize("trainer", ["ddp", pytest.param("zero2", marks=pytest.mark.slow)])
@RunIf(deepspeed=True)
def test_a_killed_worker_is_replaced_and_nothing_is_lost(data_dir, tmp_path, trainer):
    done = torchrun(tmp_path / "reference", data_dir, trainer=trainer)
    assert done.returncode == 0, done.stdout + done.stderr
    once = tmp_path / "killed"
    killed = interruption(step=5, rank=1, unless=once)
    done = torchrun(tmp_path / "run", data_dir, *killed, trainer=trainer, restarts=1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert once.exists(), "nobody was killed"
    log = (tmp_path / "run" / "run.log").read_text()
    assert "goes on at step" in log
    newest = complete(tmp_path / "run" / "checkpoints")[-1]
    assert read_note(newest).world_size == 2
    if trainer == "ddp":
        assert_same_end(tmp_path / "run", tmp_path / "reference", LAST, processes=2)
        return
    # DeepSpeed's files hold objects; what they lead to is compared.
    assert read_note(newest).step == LAST and (newest / "state.ckpt" / "trained.json").is_file()
    for name in ("adapter/adapter_model.safetensors", "predictions.parquet"):
        mine, theirs = ((tmp_path / run / name).read_bytes() for run in ("run", "reference"))
        assert mine == theirs, name
