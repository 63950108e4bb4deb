"""``adapter=mse``: loaded like every adapter, planned, trained by train.py and found again by eval.py."""

import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from mosear.backbones import OmniBackbone
from mosear.backbones.identity import identity
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.evaluation.predictions import PredictionRow, read_predictions
from mosear.experts import MSEConfig
from mosear.methods.adapter_directory import save_adapter
from mosear.planning.memory import compose_train, estimate
from mosear.runtime.adapter_files import AdapterError
from mosear.runtime.adapters import load_adapter
from tests.helpers import processes
from tests.helpers.omni_samples import fresh

SMALL = [
    "debug=fast",
    "trainer.limit_test_batches=1.0",
    "callbacks.progress=null",
    "data.prepare.test_clips=1",
    "data.prepare.train_clips=6",
    "data.prepare.val_clips=2",
    "data.prepare.workers=1",
]


@pytest.fixture
def saved(qwen25: OmniBackbone, tmp_path: Path) -> tuple[peft.PeftModel, Path]:
    own = fresh(qwen25).freeze()
    model = peft.get_peft_model(own.model, MSEConfig(tokens=2, mixed=8)).eval()
    (tmp_path / "adapter").mkdir()
    save_adapter(model, own.name, identity(own), tmp_path / "adapter")
    return model, tmp_path / "adapter"


def test_a_saved_adapter_loads_to_the_last_bit(saved: tuple[peft.PeftModel, Path], qwen25: OmniBackbone) -> None:
    model, directory = saved
    found = dict(load_adapter(fresh(qwen25), directory).named_parameters())
    expected = {name: value for name, value in model.named_parameters() if "mse_" in name}
    assert len(expected) == 32 and all(torch.equal(found[name], value) for name, value in expected.items())
    assert "| adapter | MSE |" in (directory / "README.md").read_text()


def test_files_that_do_not_belong_together_are_refused(
    saved: tuple[peft.PeftModel, Path], qwen25: OmniBackbone
) -> None:
    _, directory = saved
    path = directory / "adapter_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "tokens": 10**9}))
    with pytest.raises(AdapterError, match="tokens=1000000000 is larger than every dimension"):
        load_adapter(fresh(qwen25), directory)
    path.write_text(json.dumps({**settings, "tokens": 3}))
    with pytest.raises(AdapterError, match="another shape"):
        load_adapter(fresh(qwen25), directory)
    path.write_text(json.dumps(settings))
    weights = load_file(directory / "adapter_model.safetensors")
    weights.pop(min(weights))
    save_file(weights, directory / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="1 parameters are not in the file"):
        load_adapter(fresh(qwen25), directory)


def test_the_memory_of_a_step_is_planned(qwen25_dir: Path) -> None:
    cfg = compose_train(["adapter=mse", f"backbone.name={qwen25_dir}"])
    found = estimate(cfg, tokens=60)
    assert found.training.activations > 0 and found.evaluation.activations > 0
    assert found.weights.trainable > 0


def tuned_rows(path: Path) -> list[PredictionRow]:
    return [row for row in read_predictions(path)[0] if row.model == "tuned"]


@pytest.mark.slow
def test_training_evaluation_and_generated_answers(tmp_path: Path) -> None:
    ensure_corpus(tmp_path / "synthetic", test_clips=1, train_clips=6, val_clips=2, workers=1)
    run_dir = tmp_path / "run"
    data = [f"data_dir={tmp_path}", *SMALL]

    def run(script: str, *overrides: str) -> None:
        done = processes.run([script, *overrides])
        assert done.returncode == 0, done.stdout + done.stderr

    run("train.py", "+experiment=lora", "adapter=mse", *data, f"hydra.run.dir={run_dir}")
    again = [f"run={run_dir}", f"data_dir={tmp_path}", "debug=fast", "trainer.limit_test_batches=1.0"]
    run("eval.py", *again, f"hydra.run.dir={tmp_path / 'scored'}")
    tuned = {row.id: row for row in tuned_rows(run_dir / "predictions.parquet")}
    rows = tuned_rows(tmp_path / "scored" / "predictions.parquet")
    assert len(rows) == len(tuned) == 7
    for row in rows:
        assert row.distribution == pytest.approx(tuned[row.id].distribution, abs=1e-5)
    run("eval.py", *again, "answering.method=generate", f"hydra.run.dir={tmp_path / 'written'}")
    written = tuned_rows(tmp_path / "written" / "predictions.parquet")
    assert all((row.prediction is None) == (row.unparsed_reason is not None) for row in written)
    metrics = json.loads((tmp_path / "written" / "metrics.json").read_text())
    unparsed = sum(subset["unparsed"] for subset in metrics["subsets"].values())
    assert unparsed == sum(row.prediction is None for row in written)
