"""The whole way on real mp4 clips: train.py tunes and publishes, eval.py finds the same numbers, predict answers."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
import subprocess
import wave
from pathlib import Path

import pytest

from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.evaluation.aggregate import collect, differences, table
from mosear.evaluation.predictions import read_predictions
from mosear.runtime.predictor import Predictor
from tests.helpers import processes

ROOT = Path(__file__).parents[2]
SMALL = [
    "debug=fast",
    "trainer.limit_test_batches=1.0",
    "callbacks.progress=null",
    "data.prepare.test_clips=6",
    "data.prepare.train_clips=12",
    "data.prepare.val_clips=6",
    "data.prepare.workers=1",
]


def run(script: str, *overrides: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {**processes.inherited(), "COLUMNS": "140"}
    done = processes.run([*script.split(), *overrides], env=environment)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    ensure_corpus(root / "synthetic", test_clips=6, train_clips=12, val_clips=6, workers=1)
    return root


@pytest.fixture(scope="module")
def trained(data_dir, tmp_path_factory):
    """The run directory of a two-step tuning, and what it printed."""
    run_dir = tmp_path_factory.mktemp("run") / "a"
    done = run("train.py", "+experiment=lora", *SMALL, f"data_dir={data_dir}", f"hydra.run.dir={run_dir}")
    return run_dir, done.stdout


def test_run_directory_is_complete(trained):
    run_dir, _ = trained
    for name in ("config.yaml", "metrics.json", "predictions.parquet", "report.html", "run.log"):
        assert (run_dir / name).stat().st_size > 0, name
    card = (run_dir / "adapter" / "README.md").read_text()
    assert "# LORA adapter of tiny-omni" in card
    assert "| video aligned | 6 |" in card
    assert sorted(path.name for path in (run_dir / "adapter").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "mosear.json",
    ]
    assert any((run_dir / "checkpoints").iterdir())


def test_report_plays_its_example_clips(trained, data_dir):
    report = (trained[0] / "report.html").read_text()
    embedded = {base64.b64decode(found) for found in re.findall(r'src="data:video/mp4;base64,([^"]+)"', report)}
    files = {path.read_bytes() for path in (data_dir / "synthetic" / "clips" / "test").iterdir()}
    assert len(embedded) >= 4 and embedded <= files


def test_summary_table_and_counts_are_printed(trained):
    _, printed = trained
    for part in ("zero-shot", "tuned", "conflict mean", "trainable_parameters", "peak_memory_gb", "report.html"):
        assert part in printed, printed


def test_metrics_have_the_contract_s_shape(trained):
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    assert {"benchmark", "steering", "seed", "subsets", "conflict_mean", "gap"} <= metrics.keys()
    subset = metrics["subsets"]["consistent"]
    assert {"n", "accuracy", "weighted_f1", "macro_f1", "uar", "war", "unparsed"} <= subset.keys()
    assert {"missing_video", "missing_audio", "missing_text", "contextual"} <= metrics["subsets"].keys()
    assert metrics["controls"]["late_fusion"] and metrics["controls"]["late_fusion_transcript"]


def test_checkpoint_is_small_and_free_of_frozen_weights(trained):
    import torch

    checkpoint = torch.load(next((trained[0] / "checkpoints").glob("step-*/state.ckpt")), weights_only=True)
    assert checkpoint["state_dict"] and all("lora" in name for name in checkpoint["state_dict"])


def test_adapter_loads_with_plain_peft(trained):
    from peft import PeftModel

    from mosear.backbones import load_backbone

    backbone = load_backbone("tiny-omni", dtype="fp32")
    model = PeftModel.from_pretrained(backbone.model, trained[0] / "adapter")
    assert model.peft_config["default"].base_model_name_or_path == "tiny-omni"
    assert any("lora_B" in name and bool(value.any()) for name, value in model.named_parameters())


def test_eval_reproduces_training_s_test_exactly(trained, data_dir, tmp_path):
    run_dir, _ = trained
    overrides = (*SMALL, f"data_dir={data_dir}", f"hydra.run.dir={tmp_path / 'e'}")
    run("eval.py", "+experiment=lora", f"adapter={run_dir / 'adapter'}", "benchmark=synthetic", *overrides)
    trained_rows = [row for row in read_predictions(run_dir / "predictions.parquet")[0] if row.model == "tuned"]
    evaluated_rows = read_predictions(tmp_path / "e" / "predictions.parquet")[0]
    assert evaluated_rows == trained_rows  # every probability, bit by bit
    metrics = [json.loads((path / "metrics.json").read_text()) for path in (run_dir, tmp_path / "e")]
    assert metrics[0]["subsets"] == metrics[1]["subsets"]


def test_same_seed_gives_bitwise_the_same_adapter_without_the_cache(trained, data_dir, tmp_path):
    """One comparison for two promises: seeds decide everything, and the feature cache changes nothing."""
    overrides = (
        *SMALL,
        f"data_dir={data_dir}",
        f"hydra.run.dir={tmp_path / 'b'}",
        "data.cache_dir=null",
        "zero_shot=false",
    )
    run("train.py", "+experiment=lora", *overrides)
    files = [path / "adapter" / "adapter_model.safetensors" for path in (trained[0], tmp_path / "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_predict_answers_for_one_clip(trained, data_dir):
    clip = next((data_dir / "synthetic" / "clips" / "test").glob("test_consistent_*.mp4"))
    done = run(
        "-m mosear.predict", str(clip), "--adapter", str(trained[0] / "adapter"), "--text", "it is late.", "--json"
    )
    answer = json.loads(done.stdout)
    assert set(answer["readings"]) == {"visual", "audio", "text"}
    assert sum(answer["distribution"].values()) == pytest.approx(1)
    assert 0 <= answer["conflict"] <= 1 and answer["label"] in answer["distribution"]
    assert "all together" in run("-m mosear.predict", str(clip)).stdout


@pytest.mark.slow
@pytest.mark.parametrize("data", ["test", "manifest"])
def test_predict_and_eval_agree_on_clips_of_one_s_own(data, trained, data_dir, tmp_path):
    """The question, the budgets and the limits are those of the run, whichever data an evaluation names."""
    clips = [clip for clip in load_manifest(data_dir / "synthetic" / "test.parquet") if clip.video and clip.text][:3]
    manifest = write_manifest(clips, tmp_path / "mine.jsonl")
    options = [f"data={data}", f"data.root={data_dir / 'synthetic'}", "trainer=cpu", "callbacks.progress=null"]
    options += [] if data == "test" else ["data.train=null", "data.val=null"]
    benchmark = ["benchmark=manifest", f"benchmark.manifest={manifest}", "data.num_workers=0"]
    run("eval.py", f"run={trained[0]}", *options, *benchmark, f"hydra.run.dir={tmp_path / 'e'}")
    rows = {row.id: row for row in read_predictions(tmp_path / "e" / "predictions.parquet")[0]}
    predictor = Predictor.from_run(trained[0])
    for clip in clips:
        answer = predictor(data_dir / "synthetic" / clip.video, text=clip.text)
        row = rows[clip.id]
        assert answer.label == row.prediction
        assert list(answer.distribution.values()) == pytest.approx(list(row.distribution), abs=1e-4)
        assert answer.conflict is not None


@pytest.mark.slow
def test_a_transcript_that_is_too_long_names_the_limit_of_the_run(trained, data_dir):
    clip = next((data_dir / "synthetic" / "clips" / "test").glob("test_consistent_*.mp4"))
    with pytest.raises(ValueError, match=r"its run allows \(data\.max_tokens\) 2048\. Shorten the transcript") as found:
        Predictor.from_run(trained[0])(clip, text="well, " * 3000)
    assert "num_frames" not in str(found.value)


@pytest.mark.parametrize(
    ("content", "adapter", "expected"),
    [(b"", None, "empty"), (b"hello world, this is text", None, "not"), (b"", "nowhere", "adapter_config.json")],
)
def test_predict_explains_bad_input(content, adapter, expected, tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(content)
    done = run("-m mosear.predict", str(clip), *(["--adapter", adapter] if adapter else []), check=False)
    assert done.returncode == 2 and done.stderr.startswith("error:") and expected in done.stderr
    assert "Traceback" not in done.stderr


def test_config_errors_end_without_a_traceback(tmp_path):
    done = run("train.py", "+adapter.rr=1", "tuning.learning_rate=-1", f"hydra.run.dir={tmp_path}", check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "adapter.rr" in done.stderr and "learning_rate" in done.stderr


def test_adapter_of_another_backbone_is_refused(trained, data_dir, tmp_path):
    overrides = (*SMALL, f"data_dir={data_dir}", f"hydra.run.dir={tmp_path}", "backbone=tiny_omni_balanced")
    done = run("eval.py", f"adapter={trained[0] / 'adapter'}", *overrides, check=False)
    assert done.returncode != 0 and "was trained on 'tiny-omni'" in done.stderr


def test_bad_clip_is_listed_and_counts_as_wrong(trained, data_dir, tmp_path):
    import shutil

    root = tmp_path / "synthetic"
    shutil.copytree(data_dir / "synthetic", root)
    victim = next((root / "clips" / "test").glob("test_consistent_*.mp4"))
    victim.write_bytes(victim.read_bytes()[:200])
    overrides = (*SMALL, f"data_dir={tmp_path}", f"hydra.run.dir={tmp_path / 'q'}", "data.on_bad_media=quarantine")
    run("eval.py", "+experiment=lora", f"adapter={trained[0] / 'adapter'}", *overrides)
    listed = [json.loads(line) for line in (tmp_path / "q" / "quarantine.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in listed] == [victim.stem]
    subset = json.loads((tmp_path / "q" / "metrics.json").read_text())["subsets"]["consistent"]
    assert subset["n"] == 6 and subset["unparsed"] == 0 and subset["quarantined"] == 1
    row = next(row for row in read_predictions(tmp_path / "q" / "predictions.parquet")[0] if row.id == victim.stem)
    assert row.prediction is None and not row.correct and row.unparsed_reason.startswith("bad media")


def test_aggregate_lists_systems_and_controls(trained):
    benchmark = collect([trained[0]])
    systems = benchmark.systems
    assert next(iter(systems)) == "zero-shot" and "lora" in systems and "lora, late fusion" in systems
    rows = table(benchmark, n_boot=50)
    assert rows[0][:2] == ["system", "bases x seeds"] and rows[0][-2:] == ["conflict mean", "gap"]
    assert all(len(row) == len(rows[0]) for row in rows)
    rows = differences(benchmark, [("lora", "zero-shot"), ("lora", "lora")], n_boot=50)
    assert rows[0][-3:] == ["conflict mean", "gap", "mean of four"] and rows[1][0] == "lora - zero-shot"
    hits = {
        name: {k: v["tiny-omni"][k].mean() for k in v["tiny-omni"]}
        for name, v in ((name, systems[name].arrays()) for name in ("lora", "zero-shot"))
    }
    column = rows[0].index("consistent")
    assert float(rows[1][column].split()[0]) == pytest.approx(
        100 * (hits["lora"]["consistent"] - hits["zero-shot"]["consistent"]), abs=0.06
    )
    assert all(cell.startswith(("+0.0 [", "-0.0 [")) for cell in rows[2][1:])
    with pytest.raises(ValueError, match="no system 'mose' in these runs; there are: zero-shot"):
        differences(benchmark, [("lora", "mose")])
    with pytest.raises(ValueError, match="not a finished run"):
        collect([trained[0] / "adapter"])


def test_steered_evaluation_publishes_what_steering_did(data_dir, tmp_path):
    overrides = (*SMALL, f"data_dir={data_dir}", "answering.readings=true", "report.examples=0")
    steering = ("steering=ar_chase", "steering.ar.portion=0.9", "steering.chase.conflict_threshold=0.0")
    run("eval.py", *overrides, *steering, f"hydra.run.dir={tmp_path}")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    telemetry = metrics["steering_telemetry"]
    assert metrics["steering"] == "ar_chase"
    assert list(telemetry["policy"]) == ["ar", "chase"] and telemetry["policy"]["ar"]["portion"] == 0.9
    rows, _ = read_predictions(tmp_path / "predictions.parquet")
    assert {row.steering for row in rows} == {"ar_chase"}
    judged = [row for row in rows if row.conflict is not None]
    assert (
        len(judged) == telemetry["clips"] == sum(row.p_visual is not None and row.p_audio is not None for row in rows)
    )
    assert {row.target for row in judged} <= {"audio", "visual"}
    report = (tmp_path / "report.html").read_text()
    assert 'id="steering"' in report and "Conflict scores" in report


def test_predict_refuses_a_sound_that_is_not_finite(tmp_path):
    sound = tmp_path / "nan.wav"
    samples = struct.pack("<16000f", *[math.nan] * 16000)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, 16_000, 64_000, 4, 32)  # 3: float samples
    data = form + struct.pack("<4sI", b"data", len(samples)) + samples
    sound.write_bytes(struct.pack("<4sI4s", b"RIFF", 4 + len(data), b"WAVE") + data)
    done = run("-m mosear.predict", str(sound), "--json", check=False)
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert "nan.wav: implausible_sound: 16000 of 16000 samples" in done.stderr


@pytest.mark.slow
def test_predict_says_that_a_long_file_was_cut(tmp_path):
    sound = tmp_path / "long.wav"
    with wave.open(str(sound), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(struct.pack("<16000h", *range(-8000, 8000)) * 40)
    assert json.loads(run("-m mosear.predict", str(sound), "--json").stdout)["cut_at"] == 30
    assert "only the first 30 s were used" in run("-m mosear.predict", str(sound)).stdout
