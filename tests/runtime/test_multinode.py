"""ZeRO-2 over two hosts: equal to one host, and a cut cable ends in an error and a resumable run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.corpus import rendered_corpus
from tests.helpers.hosts import Host, NotPermitted, two_hosts
from tests.helpers.run_if import RunIf

pytestmark = [pytest.mark.multinode, RunIf(deepspeed=True, namespaces=True, linux=True)]

ROOT = Path(__file__).parents[2]
STEPS = 24
PATIENCE = 30.0
"""Seconds a process waits for the others."""
CORPUS = {"test_clips": 2, "train_clips": 16, "val_clips": 4, "workers": 1}
RECIPE = [
    *("+experiment=mosear", "debug=fast", "callbacks.progress=null", "zero_shot=false", "report.examples=0"),
    *("trainer=zero2", "trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.deterministic=true"),
    *(
        "trainer.limit_train_batches=1.0",
        "trainer.max_steps=-1",
        f"trainer.max_epochs={STEPS // 2}",
        f"trainer.check_val_every_n_epoch={STEPS}",
    ),
    *("trainer.gradient_clip_val=1.0", "callbacks.checkpoint.every_n_steps=4", "keep_adapter=last", "resume=auto"),
    *(f"trainer.strategy.timeout_minutes={PATIENCE / 60}", "data.batch_size=4", "answering.readings=false"),
    *(f"data.prepare.{name}={value}" for name, value in CORPUS.items()),
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return rendered_corpus(tmp_path_factory, **CORPUS)


@pytest.fixture(scope="module")
def hosts():
    try:
        with two_hosts() as hosts:
            yield hosts
    except NotPermitted as reason:
        pytest.skip(f"needs two network namespaces: {reason}")


@pytest.fixture
def running():
    """What a test has started; nothing of it outlives the test."""
    jobs: list[subprocess.Popen[bytes]] = []
    yield jobs
    for job in jobs:
        if job.poll() is None:
            job.terminate()
            job.wait()


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, **more}


def command(run_dir: Path, data_dir: Path, devices: int) -> list[str]:
    own = [f"trainer.devices={devices}", f"data_dir={data_dir}", f"hydra.run.dir={run_dir}"]
    return [str(ROOT / "launch" / "torchrun.sh"), *RECIPE, *own]


def start(hosts: tuple[Host, Host], run_dir: Path, data_dir: Path, logs: list[Path]) -> list[subprocess.Popen[bytes]]:
    """The same command on both hosts, with one process each."""
    return [
        host.start(command(run_dir, data_dir, 1), log, env=environment(NPROC_PER_NODE="1", **host.launcher(hosts[0])))
        for host, log in zip(hosts, logs, strict=True)
    ]


@pytest.fixture(scope="module")
def one_host(data_dir, tmp_path_factory):
    """The run directory of two processes on one host."""
    run_dir = tmp_path_factory.mktemp("one") / "run"
    done = subprocess.run(
        command(run_dir, data_dir, 2), env=environment(NPROC_PER_NODE="2"), capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return run_dir


def test_a_cut_cable_ends_in_a_clear_error_and_the_job_goes_on_afterwards(hosts, data_dir, one_host, running, tmp_path):
    run_dir, logs = tmp_path / "run", [tmp_path / "first.log", tmp_path / "second.log"]
    jobs = start(hosts, run_dir, data_dir, logs)
    running += jobs
    while not list(run_dir.glob("checkpoints/step-*/COMPLETE")):
        assert all(job.poll() is None for job in jobs), [log.read_text() for log in logs]
        time.sleep(0.02)
    hosts[1].plug(connected=False)
    cut = time.monotonic()
    codes = [job.wait(timeout=1800) for job in jobs]
    waited = time.monotonic() - cut
    printed = [log.read_text() for log in logs]
    assert all(codes), printed
    assert not (run_dir / "metrics.json").exists(), "it was done before the cable was cut"
    for text in printed:
        assert "has lost contact with the others" in text and "resume=auto" in text, text
    assert waited < PATIENCE + 90, printed  # and time to leave, on a busy machine

    hosts[1].plug(connected=True)
    jobs = start(hosts, run_dir, data_dir, logs)
    running += jobs
    codes = [job.wait(timeout=1800) for job in jobs]
    assert codes == [0, 0], [log.read_text() for log in logs]
    assert "goes on at step" in (run_dir / "run.log").read_text()
    adapters = [load_file(path / "adapter" / "adapter_model.safetensors") for path in (run_dir, one_host)]
    assert adapters[0].keys() == adapters[1].keys()
    for name, value in adapters[1].items():
        torch.testing.assert_close(
            adapters[0][name], value, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
        )
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (run_dir, one_host)]
    assert metrics[0]["run"]["steps"] == metrics[1]["run"]["steps"] == STEPS
    assert metrics[0]["subsets"] == metrics[1]["subsets"]
