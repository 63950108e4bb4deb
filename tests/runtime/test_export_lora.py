"""python -m mosear export: a run's MoSE adapter becomes a LoRA, scored on real clips of the run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from safetensors.torch import load_file

from mosear.backbones import load_backbone
from mosear.commands.export import main
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.evaluation.predictions import PredictionRow
from mosear.experts import MoSEConfig
from mosear.experts.export.to_lora import FITS
from mosear.files import replaced
from mosear.runtime.export import SYSTEMS, Export, compared, export_lora
from mosear.runtime.predictor import Predictor
from tests.helpers import processes

ROOT = Path(__file__).parents[2]
FILES = ["adapter_config.json", "adapter_model.safetensors", "export.json"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    ensure_corpus(root / "synthetic", test_clips=1, train_clips=1, val_clips=4, workers=1)
    return root


@pytest.fixture(scope="module")
def finished(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as ``train.py`` leaves it, with an adapter whose every weight is random."""
    run_dir = tmp_path_factory.mktemp("run")
    overrides = ["+experiment=mosear", f"data_dir={data_dir}", f"run_dir={run_dir}", "data.prepare=null"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("train", overrides=[*overrides, "data.num_workers=0", "adapter.experts_per_group=2"])
    OmegaConf.save(cfg, run_dir / "config.yaml", resolve=True)
    model = peft.get_peft_model(load_backbone("tiny-omni", dtype="fp32").model, MoSEConfig(r=2, experts_per_group=2))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    model.peft_config["default"].base_model_name_or_path = "tiny-omni"
    model.save_pretrained(run_dir / "adapter")
    return run_dir


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def export_json(directory: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((directory / "export.json").read_text())
    return report


def test_command(run_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    command = ["-m", "mosear", "export", run_dir / "adapter", "--to", "lora", "--device", "cpu"]
    done = processes.run(command, env={**processes.inherited(), "COLUMNS": "140"})
    assert done.returncode == 0, done.stderr
    out = run_dir / "adapter_lora"
    for part in (
        "Scoring mose",
        "Scoring base",
        "Scoring lora",
        "MoSE",
        "cost (95 %)",
        "video aligned",
        "refit",
        str(out),
    ):
        assert part in done.stdout, done.stdout
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert sorted(path.name for path in run_dir.iterdir()) == ["adapter", "adapter_lora", "config.yaml"]
    report = export_json(out)
    assert report["clips"] == 10 and report["fit"] == "refit" and report["rank"] == 6
    assert set(report["subsets"]) == {"consistent", "video_aligned", "audio_aligned", "contextual"}
    assert report["manifest"] == str(data_dir / "synthetic" / "val.parquet") and report["backbone"] == "tiny-omni"
    errors = report["relative_error"]
    assert 1 > errors["mean"] > errors["least-squares"] > errors["refit"] > 0
    assert all(sum(layer) == pytest.approx(1) for layer in report["gate"]["layers"])
    settings = json.loads((out / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA" and settings["base_model_name_or_path"] == "tiny-omni"


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("exported") / "lora"
    return {**export_lora(Export(finished / "adapter", device="cpu", batch_size=3, out=out)), "out": out}


def test_accuracies_are_those_that_predict_finds(exported: dict[str, Any], run_dir: Path, data_dir: Path) -> None:
    """Clip by clip, through files, for each of the three systems."""
    shutil.copytree(exported["out"], run_dir / "lora")
    manifest = load_manifest(data_dir / "synthetic" / "val.parquet")
    systems = {
        "base": Predictor.bare(),
        "mose": Predictor.from_run(run_dir / "adapter"),
        "lora": Predictor.from_run(run_dir / "lora"),
    }
    answers: dict[str, list[str]] = {name: [] for name in systems}
    for clip in manifest:
        video, _ = manifest.resolve(clip)
        for name, predictor in systems.items():
            assert video is not None
            answers[name].append(predictor(video, text=clip.text).label)
    labels = [clip.label for clip in manifest]
    for name, own in answers.items():
        right = sum(a == b for a, b in zip(own, labels, strict=True))
        assert exported["accuracy"][name] == pytest.approx(right / len(labels)), name
    same = sum(a == b for a, b in zip(answers["mose"], answers["lora"], strict=True))
    assert exported["agreement"] == pytest.approx(same / len(labels))
    assert exported["cost"][0] == pytest.approx(exported["accuracy"]["mose"] - exported["accuracy"]["lora"])


@pytest.mark.parametrize("fit", FITS)
def test_fit_manifest_and_limit(run_dir: Path, tmp_path: Path, fit: str, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [text_clip(index) for index in range(9)]
    manifest = write_manifest(clips, tmp_path / "texts.jsonl")
    arguments = [str(run_dir / "adapter"), "--to", "lora", "--fit", fit, "--manifest", str(manifest), "--limit", "3"]
    assert main([*arguments, "--out", str(tmp_path / "deep" / "lora"), "--device", "cpu"]) == 0
    report = export_json(tmp_path / "deep" / "lora")
    assert report["fit"] == fit and report["clips"] == 3 and report["manifest"] == str(manifest)
    assert set(report["subsets"]) == {"first", "second", "third"}, "spread over the manifest"
    assert "second" in capsys.readouterr().out
    b = load_file(tmp_path / "deep" / "lora" / "adapter_model.safetensors")
    assert any(bool(value.any()) for name, value in b.items() if "lora_B" in name)
    if fit == "mean":  # nothing visual was seen, so the visual expert (the first two ranks) gets nothing
        assert all(value[:, :2].abs().max() < 1e-6 for name, value in b.items() if "lora_B" in name)


def text_clip(index: int) -> Any:
    from mosear.data.clip import Clip

    subset = ("first", "second", "third")[index // 3]
    return Clip(id=f"t{index}", text=f"well, {index} of them.", label="sad" if index % 2 else "happy", subset=subset)


def test_an_earlier_export_is_replaced_only_when_asked(run_dir: Path, tmp_path: Path) -> None:
    manifest = write_manifest([text_clip(0)], tmp_path / "texts.jsonl")
    export = Export(run_dir / "adapter", manifest=manifest, device="cpu")
    export_lora(export)
    before = (export.target / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="replace it with --overwrite"):
        export_lora(export)
    write_manifest([text_clip(1), text_clip(2)], manifest)
    export_lora(replace(export, overwrite=True))
    assert (export.target / "adapter_model.safetensors").read_bytes() != before
    assert sorted(path.name for path in run_dir.iterdir()) == ["adapter", "adapter_lora", "config.yaml"]
    with pytest.raises(ValueError, match="not an earlier export"):
        export_lora(replace(export, out=run_dir, overwrite=True))
    with pytest.raises(ValueError, match="not an earlier export"):
        export_lora(replace(export, out=run_dir / "adapter", overwrite=True))
    with pytest.raises(RuntimeError, match="stop"), replaced(export.target) as staging:
        (staging / "half").touch()
        raise RuntimeError("stop")
    assert sorted(path.name for path in export.target.iterdir()) == FILES


def test_every_mistake_is_named_before_anything_is_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    arguments = ["--limit", "0", "--batch-size", "-1", "--device", "tpu"]
    assert main([str(adapter), "--to", "lora", *arguments]) == 2
    message = capsys.readouterr().err
    for part in ("limit=0", "batch_size=-1", "device='tpu'", "holds a LORA adapter", "config.yaml is missing"):
        assert part in message, message
    assert main([str(tmp_path / "nowhere"), "--to", "lora", "--device", "cuda:99"]) == 2
    message = capsys.readouterr().err
    assert "has no adapter_config.json" in message and "'cuda:99' is not there" in message
    with pytest.raises(ValueError, match="fit='best' must be one of mean, least-squares, refit"):
        Export(adapter, fit="best").check()  # type: ignore[arg-type]


def test_a_manifest_without_usable_clips_is_explained(run_dir: Path, data_dir: Path, tmp_path: Path) -> None:
    cfg = OmegaConf.load(run_dir / "config.yaml")
    cfg.data.on_bad_media = "quarantine"
    OmegaConf.save(cfg, run_dir / "config.yaml")
    clip = replace(load_manifest(data_dir / "synthetic" / "val.parquet")[0], video="gone.mp4")
    manifest = write_manifest([clip], tmp_path / "bad.jsonl")
    with pytest.raises(ValueError, match=r"No clip of .*bad.jsonl could be read: bad media: missing_file"):
        export_lora(Export(run_dir / "adapter", manifest=manifest, device="cpu"))
    assert not (run_dir / "adapter_lora").exists()


def test_comparison_counts_literally() -> None:
    def rows(predictions: str) -> list[PredictionRow]:
        return [
            PredictionRow(
                id=str(index),
                subset="x" if index < 2 else "y",
                label="a",
                prediction=None if letter == "-" else letter,
                unparsed_reason="bad" if letter == "-" else None,
                benchmark="m",
                model="n",
            )
            for index, letter in enumerate(predictions)
        ]

    found = compared(dict(zip(SYSTEMS, map(rows, ("bbb-", "aaa-", "aba-")), strict=True)))
    assert found["accuracy"] == {"base": 0.0, "mose": 0.75, "lora": 0.5} and found["clips"] == 4
    assert found["cost"][0] == pytest.approx(0.25) and found["cost"][1] <= 0.25 <= found["cost"][2]
    assert found["agreement"] == 0.75
    assert found["subsets"]["x"]["agreement"] == 0.5 and found["subsets"]["y"]["cost"] == [0.0, 0.0, 0.0]
