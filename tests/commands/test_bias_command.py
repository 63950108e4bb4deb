"""``mosear bias``: from the answers of a run, and from a backbone that is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mosear.commands.bias import main
from mosear.data.clip import Clip, ModalityLabels
from mosear.data.manifest import write_manifest
from mosear.evaluation.bias import ALL, directions, verdict
from mosear.evaluation.predictions import PredictionRow, write_predictions
from mosear.evaluation.summary import summarise, write_metrics

EARLIER_RUN = Path(__file__).parents[1] / "fixtures" / "earlier" / "run"
LABELS = ["happy", "sad", "angry"]


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    """A finished run of two models on four kinds of answers; one clip is no conflict."""
    said = [("happy", "sad"), ("sad", "angry"), ("happy", "angry"), ("angry", "happy"), ("sad", "sad")] * 8
    clips = [
        Clip(
            id=f"c{i}",
            video="a.mp4",
            audio="video",
            label=visual,
            subset="video_aligned",
            modality_labels=ModalityLabels(visual=visual, audio=audio),
        )
        for i, (visual, audio) in enumerate(said)
    ]
    directory = tmp_path / "run"
    directory.mkdir()
    write_manifest(clips, tmp_path / "test.jsonl")
    rows = [
        PredictionRow(
            id=clip.id,
            subset=clip.subset,
            label=str(clip.label),
            prediction=said[i][1] if model == "tuned" and i % 5 else said[i][0],
            benchmark="b",
            model=model,
            p_visual=[0.4, 0.3, 0.3],
            p_audio=[0.2, 0.2, 0.6],
        )
        for model in ("zero_shot", "tuned")
        for i, clip in enumerate(clips)
    ]
    summary = summarise(rows[len(clips) :], LABELS, benchmark="b", steering="none", seed=0, n_boot=20)
    write_metrics({**summary, "model": "tuned", "run": {"experiment": "lora"}}, directory / "metrics.json")
    write_predictions(rows, LABELS, directory / "predictions.parquet")
    config = {"benchmark": {"manifest": str(tmp_path / "test.jsonl")}, "data": {"root": None}}
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def test_a_run_is_read_and_every_model_of_it_told(run_directory, tmp_path, capsys):
    assert main([str(run_directory), "--out", str(tmp_path / "out"), "--n-boot", "200"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    saved = json.loads((tmp_path / "out" / "bias.json").read_text())["systems"]
    assert list(saved) == ["lora, zero-shot", "lora, tuned"]
    assert [saved[name]["parts"][ALL]["follows"] for name in saved] == ["face", "voice"]
    assert all(saved[name]["parts"][ALL]["n"] == 32 for name in saved)
    for name, own in saved.items():
        assert f"{name}: {own['verdict']}." in printed
    assert "…" not in printed and "+1.00 [+1.00, +1.00]" in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"bias.json", "bias.svg", "bias.html"}


def test_mistakes_end_in_a_sentence(run_directory, tmp_path, capsys):
    def told(*arguments: object) -> str:
        assert main([*map(str, arguments), "--out", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and "Traceback" not in printed
        return printed

    assert "is not a finished run" in told(tmp_path)
    assert "Two systems have one name" in told(run_directory, run_directory)
    (tmp_path / "test.jsonl").rename(tmp_path / "moved.jsonl")
    assert "Give it: --manifest FILE" in told(run_directory)
    other = Clip(id="x", video="a.mp4", audio="video", label="sad")
    write_manifest([other], tmp_path / "other.jsonl")
    assert "lacks 40 clips" in told(run_directory, "--manifest", tmp_path / "other.jsonl")
    assert main([str(run_directory), "--manifest", str(tmp_path / "moved.jsonl"), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "bias.json.tmp").exists()
    with pytest.raises(SystemExit):
        main(["--clips", "0"])


@pytest.mark.slow
def test_a_backbone_is_asked_about_conflicts_alone(tmp_path, capsys):
    from mosear.runtime.bias import answer, opened, synthetic_conflicts

    manifest = synthetic_conflicts(tmp_path / "conflicts", 3)
    run = opened("tiny-omni", None, ["data.num_workers=0"], manifest=manifest, trust_remote_code=False)
    answered = answer("tiny-omni", run, manifest)
    assert len(answered.found) == 9
    assert {one.row.subset for one in answered.found} == {"video_aligned", "audio_aligned", "contextual"}
    assert all(one.row.p_visual is not None and one.row.p_audio is not None for one in answered.found)
    found = directions(answered.found, answered.labels, n_boot=200)
    arguments = [
        "--backbone",
        "tiny-omni",
        "--manifest",
        str(manifest),
        "--set",
        "data.num_workers=0",
        "--n-boot",
        "200",
    ]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    saved = json.loads((tmp_path / "out" / "bias.json").read_text())["systems"]["tiny-omni"]
    assert saved["verdict"] == verdict(found[ALL])


@pytest.mark.slow
def test_a_tuned_model_is_asked_with_its_adapter(tmp_path):
    from mosear.runtime.bias import answer, opened, synthetic_conflicts

    manifest = synthetic_conflicts(tmp_path / "conflicts", 3)
    few = ["data.num_workers=0"]
    bare = answer("bare", opened("tiny-omni", None, few, manifest=manifest, trust_remote_code=False), manifest)
    tuned = answer("tuned", opened(None, EARLIER_RUN, few, manifest=manifest, trust_remote_code=False), manifest)
    assert [one.row.id for one in bare.found] == [one.row.id for one in tuned.found]
    assert [one.row.distribution for one in bare.found] != [one.row.distribution for one in tuned.found]
    for own in (EARLIER_RUN, EARLIER_RUN / "adapter"):
        arguments = ["--adapter", str(own), "--manifest", str(manifest), "--set", *few, "--n-boot", "200"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
        saved = json.loads((tmp_path / "out" / "bias.json").read_text())["systems"]
        assert list(saved) == [str(own)]
        assert saved[str(own)]["verdict"] == verdict(directions(tuned.found, tuned.labels, n_boot=200)[ALL])
