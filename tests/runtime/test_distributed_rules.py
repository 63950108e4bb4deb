"""Devices, processes and strategies that do not fit are named before anything loads; and what processes agree on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from mosear import torchrun
from mosear.config.validation import ConfigError
from mosear.runtime.checks import check_training

ROOT = Path(__file__).parents[2]
CPU = ["trainer.accelerator=cpu", "trainer.devices=2"]


def check(*overrides: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=/tmp/run", *overrides])
    check_training(cfg)


def without_gpu() -> bool:
    import torch

    return not torch.cuda.is_available()


@pytest.mark.parametrize("trainer", ["gpu", "ddp", "zero1", "zero2", "zero3", "zero3_offload"])
def test_a_gpu_trainer_without_gpus_says_so(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not without_gpu():
        pytest.skip("this machine has GPUs")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="there is no GPU on this machine") as caught:
        check(f"trainer={trainer}")
    assert len(caught.value.problems) == 1, "and does not complain about the number of devices as well"


@pytest.mark.parametrize(
    ("world", "overrides", "expected"),
    [
        (1, ["trainer=ddp", *CPU], "torchrun --nproc_per_node=2 train.py"),
        (1, ["trainer=ddp", *CPU, "trainer.num_nodes=3"], "--nproc_per_node=2 --nnodes=3"),
        (2, [], "trainer=ddp"),
        (4, ["trainer=zero2", *CPU], "torchrun started 4 processes (WORLD_SIZE), but devices x num_nodes = 2"),
        (4, ["trainer=ddp", *CPU, "trainer.num_nodes=1"], "Set trainer.devices=4"),
        (8, ["trainer=ddp", *CPU, "trainer.num_nodes=2"], "Set trainer.devices=4"),
        (2, ["trainer=ddp", *CPU, "trainer.devices=auto"], "Set trainer.devices=2"),
    ],
)
def test_devices_and_processes_must_agree(
    world: int, overrides: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    with pytest.raises(ConfigError, match=re.escape(expected)):
        check(*overrides)


@pytest.mark.parametrize("trainer", ["ddp", "zero1", "zero2", "zero3", "zero3_offload"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_what_fits_passes(trainer: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    nodes = ["trainer.num_nodes=2", "trainer.accumulate_grad_batches=2"]
    check(
        f"trainer={trainer}",
        *CPU,
        *nodes,
        f"trainer.precision={precision}",
        "data.batch_size=1",
        "method=conflict_mixing",
    )


@pytest.mark.parametrize("trainer", ["ddp", "zero1", "zero2"])
def test_nf4_goes_with_whole_weights(trainer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    check(f"trainer={trainer}", *CPU, "backbone.quantization=nf4")


def test_trainers_differ_in_the_strategy_alone() -> None:
    found = {}
    for name in ("ddp", "zero1", "zero2", "zero3", "zero3_offload"):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            trainer = dict(compose("train", overrides=["run_dir=/tmp/run", f"trainer={name}"]).trainer)
        found[name] = trainer.pop("strategy"), trainer
    assert all(rest == found["ddp"][1] for _, rest in found.values())
    assert {strategy.timeout_minutes for strategy, _ in found.values()} == {30}
    stages = {name: (strategy.stage, strategy.offload) for name, (strategy, _) in found.items() if name != "ddp"}
    assert stages == {"zero1": (1, False), "zero2": (2, False), "zero3": (3, False), "zero3_offload": (3, True)}


def test_a_process_on_its_own_needs_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    torchrun.launch_store.cache_clear()
    assert torchrun.launch_store() is None and torchrun.log_name() == "run.log"
    with torchrun.in_turn("work"):
        pass
    assert torchrun.started("%Y") == torchrun.started("%Y")


WORKER = """
import os, pathlib, sys, time
from mosear.torchrun import in_turn, launched_rank, log_name, start_time
out = pathlib.Path(sys.argv[1])
time.sleep(0.3 * launched_rank())
with in_turn("work"):
    done = out / "work"
    mine = not done.exists()
    if mine:
        time.sleep(0.5)
        done.touch()
(out / f"{launched_rank()}.txt").write_text(f"{start_time()} {log_name()} {mine}")
"""


RESTARTED = """
import os, pathlib, signal, sys
from datetime import timedelta
import torch
from mosear.torchrun import launched_rank, store_of_this_start
out, rank = pathlib.Path(sys.argv[1]), launched_rank()
torch.distributed.init_process_group(
    "gloo", store=store_of_this_start(timedelta(seconds=60)), rank=rank, world_size=2, timeout=timedelta(seconds=60)
)
total = torch.tensor([1.0 + rank])
torch.distributed.all_reduce(total)
starts = out / f"starts.{rank}"
starts.write_text((starts.read_text() if starts.exists() else "") + f"{total.item():.0f}")
if rank == 1 and len(starts.read_text()) < 3:
    os.kill(os.getpid(), signal.SIGKILL)
torch.distributed.barrier()
"""


def launch(tmp_path: Path, worker: str, processes: int, *options: str) -> None:
    """A worker under torchrun, with the directory as its argument."""
    script = tmp_path / "worker.py"
    script.write_text(worker)
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.multinode
def test_processes_find_each_other_after_restarts(tmp_path: Path) -> None:
    """torchrun's store still holds the addresses of those that were killed, twice."""
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--max-restarts=2"]
    launch(tmp_path, RESTARTED, 2, *rendezvous)
    assert [(tmp_path / f"starts.{rank}").read_text() for rank in (0, 1)] == ["333", "333"]


@pytest.mark.multinode
def test_processes_agree_on_the_start_and_take_turns(tmp_path: Path) -> None:
    launch(tmp_path, WORKER, 3, "--standalone")
    times, logs, did = zip(*((tmp_path / f"{rank}.txt").read_text().split() for rank in range(3)), strict=True)
    assert len(set(times)) == 1
    assert logs == ("run.log", "run.rank1.log", "run.rank2.log")
    assert did == ("True", "False", "False")


REFUSING = """
import sys, time
from datetime import timedelta
from mosear import torchrun
rank = torchrun.launched_rank()
with torchrun.first_reports():
    case = sys.argv[1]
    if case == "all":  # the first one is late
        time.sleep(3 * (rank == 0))
        sys.exit("there is no GPU")
    if case == "one":
        torchrun.REPORT, torchrun.GRACE = timedelta(seconds=1), 1.0
        if rank == 1:
            sys.exit("there is no GPU")
        time.sleep(30)
    torchrun.processes_start()
    sys.exit(f"failed later on {rank}")
"""


def refused(tmp_path: Path, case: str, *launcher: str, **environment: str) -> str:
    """What is shown of processes that refuse to start, or fail later."""
    script = tmp_path / "refusing.py"
    script.write_text(REFUSING)
    done = subprocess.run(
        [sys.executable, *launcher, str(script), case],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )
    assert done.returncode == 1
    return done.stderr


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def test_the_first_process_reports_before_the_launcher_ends_it(tmp_path: Path) -> None:
    shown = refused(tmp_path, "all", *TORCHRUN)
    assert shown.startswith("there is no GPU\n") and shown.count("there is no GPU") == 1


def test_a_process_that_refuses_alone_speaks_for_itself(tmp_path: Path) -> None:
    assert refused(tmp_path, "one", *TORCHRUN).startswith("process 1 of 2: there is no GPU\n")
    alone = refused(tmp_path, "one", RANK="1", WORLD_SIZE="2")  # a launcher without a store
    assert alone == "process 1 of 2: there is no GPU\n"


def test_later_exits_are_left_alone(tmp_path: Path) -> None:
    assert refused(tmp_path, "later", RANK="1", WORLD_SIZE="2") == "failed later on 1\n"
    assert refused(tmp_path, "all", RANK="0", WORLD_SIZE="1") == "there is no GPU\n"
