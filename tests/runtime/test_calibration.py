"""python -m mosear calibrate: from real clips to a settings file that eval.py takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mosear.backbones import load_backbone
from mosear.commands.calibrate import main
from mosear.config.validation import ConfigError
from mosear.data.clip import Clip, ModalityLabels
from mosear.data.manifest import load_manifest, write_manifest
from mosear.data.sample import collate
from mosear.data.synthetic.corpus import ensure_corpus
from mosear.experts import MoSEConfig
from mosear.inference.scoring import label_log_probs
from mosear.runtime import calibrate as flow
from mosear.runtime.calibrate import Calibration, calibrate, result_table
from mosear.runtime.checks import check_evaluation
from mosear.runtime.run import Run
from mosear.steering import AttentionReallocation, Chase, Policies, Policy, Reliability, steer
from mosear.steering.calibration.passes import ClipPasses, PassStore, model_fingerprint
from mosear.steering.calibration.search import Board
from mosear.steering.calibration.stages import Stages, under_name
from mosear.steering.configured import steering_policy
from mosear.steering.settings import SteeringSettings, adapter_fingerprint
from mosear.steering.telemetry import true_direction

ROOT = Path(__file__).parents[2]
CPU = ("data.num_workers=0", "data.prepare=null")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    ensure_corpus(root / "synthetic", test_clips=1, train_clips=1, val_clips=4, workers=1)
    return root


@pytest.fixture
def asked(data_dir: Path, tmp_path: Path) -> Calibration:
    """A short CHASE calibration."""
    overrides = (f"data_dir={data_dir}", *CPU)
    return Calibration("chase", out=tmp_path / "s.json", trials=8, head_clips=1, device="cpu", overrides=overrides)


def eval_config(data_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("eval", overrides=["run_dir=.", f"data_dir={data_dir}", *overrides])


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_says_what_was_done_and_eval_takes_it(asked: Calibration, data_dir: Path) -> None:
    outcome = calibrate(asked)
    assert asked.out is not None
    found = SteeringSettings.load(asked.out, backbone="tiny-omni")
    assert found == outcome.settings
    content = json.loads(asked.out.read_text())
    scores = content["scores"]
    assert scores["clips"] == {
        "audio_aligned": 2,
        "consistent": 4,
        "contextual": 2,
        "unreadable": 0,
        "video_aligned": 2,
    }
    assert content["adapter"] is None and len(content["trials"]) == 8
    assert {"unsteered", "late_fusion", "late_fusion_transcript", "chosen"} <= scores.keys()
    assert scores["chosen"]["consistent"] >= scores["unsteered"]["consistent"]
    assert scores["chosen"]["objective"] >= scores["unsteered"]["objective"]
    assert {tuple(pair[:2]) for pair in scores["head_effects"]} == set(product(range(4), range(6)))
    effects = [pair[2] for pair in scores["head_effects"]]
    assert effects == sorted(effects, reverse=True)
    assert not asked.work.exists() and list(asked.out.parent.iterdir()) == [asked.out]
    cfg = eval_config(data_dir, "steering=chase", f"steering.settings={asked.out}")
    check_evaluation(cfg)
    assert steering_policy(cfg) == found.policy
    foreign = eval_config(data_dir, "steering=chase", f"steering.settings={asked.out}", "backbone=tiny_omni_balanced")
    with pytest.raises(ConfigError, match="calibrated on 'tiny-omni', not on 'tiny-omni-balanced'"):
        check_evaluation(foreign)


def test_an_interrupted_call_goes_on_where_it_was(asked: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Watched(PassStore):
        """Notes what is really run; gives up after ``left`` passes."""

        left = 1000

        def get(self, name: str, run: Any) -> dict[str, torch.Tensor]:
            def noted() -> dict[str, torch.Tensor]:
                if Watched.left == 0:
                    raise KeyboardInterrupt
                Watched.left -= 1
                ran.append(name)
                found: dict[str, torch.Tensor] = run()
                return found

            return super().get(name, noted)

    monkeypatch.setattr(flow, "PassStore", Watched)
    assert asked.out is not None
    whole = calibrate(replace(asked, out=asked.out.with_name("whole.json")))
    every, ran[:] = list(ran), []
    Watched.left = 9
    with pytest.raises(KeyboardInterrupt):
        calibrate(asked)
    assert len(list(asked.work.glob("*.safetensors"))) == 9 and not asked.out.exists()
    Watched.left = 1000
    resumed = calibrate(asked)
    assert ran == every, "each pass ran once, in the two calls together"
    assert resumed.settings == whole.settings
    assert asked.out.read_text() == asked.out.with_name("whole.json").read_text()
    assert not asked.work.exists()


def test_ar_chase_and_what_was_not_chosen(asked: Calibration, data_dir: Path) -> None:
    outcome = calibrate(replace(asked, policy="ar_chase", trials=36))
    assert asked.out is not None
    families = {trial["stage"].partition(":")[0] for trial in outcome.settings.trials}
    assert "ar" in families
    cfg = eval_config(data_dir, "steering=ar_chase", f"steering.settings={asked.out}")
    policy = steering_policy(cfg)
    assert isinstance(policy, Policies) and [type(step) for step in policy.steps] == [AttentionReallocation, Chase]


@pytest.mark.parametrize(
    ("found", "wanted", "steps"),
    [
        (None, "ar", [AttentionReallocation(portion=0.0)]),
        (None, "chase", [Chase(strength=0.0)]),
        (AttentionReallocation(portion=0.2), "ar_chase", [AttentionReallocation(portion=0.2), Chase(strength=0.0)]),
        (Chase(strength=3.0), "ar_chase", [AttentionReallocation(portion=0.0), Chase(strength=3.0)]),
    ],
)
def test_names_have_all_their_steps(found: Policy | None, wanted: Any, steps: list[Policy]) -> None:
    assert list(under_name(found, wanted).steps) == steps


def test_heads_detector(asked: Calibration) -> None:
    outcome = calibrate(replace(asked, detector="heads"))
    scores = outcome.settings.scores
    assert 0 <= scores["evidence_accuracy"] <= 1
    assert {layer for layer, *_ in scores["head_effects"]} <= {1, 2, 3}, "behind the evidence"
    for trial in outcome.settings.trials:
        assert trial["policy"]["chase"]["detector"] == "heads" and trial["policy"]["chase"]["evidence_heads"]


def test_an_adapter_with_its_run(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = ["+experiment=mosear", f"data_dir={data_dir}", f"run_dir={tmp_path}", *CPU]
        cfg = compose("train", overrides=[*overrides, "adapter.experts_per_group=2"])
    OmegaConf.save(cfg, tmp_path / "config.yaml", resolve=True)
    model = peft.get_peft_model(load_backbone("tiny-omni", dtype="fp32").model, MoSEConfig(r=2, experts_per_group=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    model.peft_config["default"].base_model_name_or_path = "tiny-omni"
    model.save_pretrained(tmp_path / "adapter")
    arguments = ["--policy", "ar", "--adapter", str(tmp_path / "adapter"), "--trials", "2", "--device", "cpu"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    for part in ("reading clips", "ar: grid", "late fusion", "chosen", str(tmp_path / "ar.json")):
        assert part in out.replace("\n", ""), out
    content = json.loads((tmp_path / "ar.json").read_text())
    assert content["adapter"] == adapter_fingerprint(tmp_path / "adapter") and content["backbone"] == "tiny-omni"
    assert main(arguments) == 2
    assert "replace it with --overwrite" in capsys.readouterr().err


# -- what is refused --------------------------------------------------------------------------------------------------


def refusal(asked: Calibration, manifest: Path) -> str:
    with pytest.raises(ValueError) as error:
        calibrate(replace(asked, manifest=manifest))
    assert not asked.work.exists() and asked.out is not None and not asked.out.exists()
    return str(error.value)


def test_test_data_is_refused(asked: Calibration, data_dir: Path, tmp_path: Path) -> None:
    synthetic = data_dir / "synthetic"
    message = refusal(asked, synthetic / "test.parquet")
    assert "clip 'test_consistent_00000' is of split 'test'" in message
    val = list(load_manifest(synthetic / "val.parquet"))
    spoiled = write_manifest([*val[:-1], replace(val[-1], split="train")], tmp_path / "spoiled.jsonl")
    assert f"clip {val[-1].id!r} is of split 'train'" in refusal(asked, spoiled)
    relabelled = [replace(clip, split="val") for clip in load_manifest(synthetic / "test.parquet")]
    disguised = write_manifest(relabelled, tmp_path / "disguised.parquet")
    assert "are in the run's test manifest" in refusal(asked, disguised)
    one = write_manifest([*val, relabelled[0]], tmp_path / "one.parquet")
    assert f"1 clips, such as {relabelled[0].id!r}" in refusal(asked, one)
    same = replace(asked, overrides=(*asked.overrides, f"benchmark.manifest={synthetic / 'val.parquet'}"))
    assert "is the run's test manifest" in refusal(same, synthetic / "val.parquet")


def test_test_media_under_other_names_are_refused(asked: Calibration, data_dir: Path, tmp_path: Path) -> None:
    """New ids, another split, other paths: the bytes are the same."""
    synthetic = data_dir / "synthetic"
    shutil.copytree(synthetic, tmp_path / "copy")
    clips = [
        replace(clip, id=f"mine_{number}", split="val")
        for number, clip in enumerate(load_manifest(synthetic / "test.parquet"))
        if clip.video or clip.audio
    ]
    message = refusal(asked, write_manifest(clips, tmp_path / "copy" / "mine.parquet"))
    assert f"{len(clips)} clips have a media file of the run's test manifest" in message
    assert "'mine_0' is 'test_consistent_00000' there" in message
    val = list(load_manifest(synthetic / "val.parquet"))
    assert "1 clips have" in refusal(asked, write_manifest([*val, clips[-1]], tmp_path / "copy" / "one.parquet"))


def test_missing_subsets_are_found_before_anything_is_loaded(asked: Calibration, tmp_path: Path) -> None:
    clip = Clip(id="t", text="well.", label="sad", split="val", subset="consistent")
    message = refusal(asked, write_manifest([clip], tmp_path / "c.jsonl"))
    assert "at least one other subset in which face and voice disagree" in message


def test_every_mistake_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--policy", "ar", "--adapter", str(tmp_path), "--limit", "0", "--device", "tpu", "--out", "x.txt"]
    assert main([*arguments, "--trials", "-1", "--head-clips", "0"]) == 2
    message = capsys.readouterr().err
    for part in ("limit=0", "trials=-1", "head_clips=0", "device='tpu'", "adapter_config.json is missing", "in .json"):
        assert part in message, message
    with pytest.raises(ValueError, match=r"objective='best'.*detector='eyes'.*policy='magic'"):
        Calibration("magic", objective="best", detector="eyes").check()  # type: ignore[arg-type]
    assert main(["--policy", "ar", "--out", str(tmp_path / "s.json"), "data.nonsense=1"]) == 2
    assert "nonsense" in capsys.readouterr().err


# -- passes -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passes(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClipPasses]:
    manifest = tmp_path_factory.mktemp("m") / "mixed.jsonl"
    clips = list(load_manifest(data_dir / "synthetic" / "val.parquet"))
    clips.append(Clip(id="voiceless", video=clips[0].video, label="sad", split="val", subset="consistent"))
    write_manifest(clips, manifest)
    backbone = load_backbone("tiny-omni", dtype="fp32", device="cpu")
    cfg = eval_config(data_dir, *CPU, f"data.root={data_dir / 'synthetic'}")
    from mosear.runtime.calibration_clips import chosen_clips, read_clips, validation_data

    run = Run(cfg)
    data = validation_data(run, backbone, chosen_clips(run, manifest, None), 4)
    read = read_clips(backbone, backbone.model, data)
    store = PassStore(tmp_path_factory.mktemp("store"), "f")
    yield ClipPasses(backbone, read.samples, read.trie, data.builder.pad_id, store, batch_size=4)


R = Reliability(transcript_weight=1.0, audio_temperature=2.0)
POLICIES: list[Policy] = [
    AttentionReallocation(threshold=0.3, portion=0.5),
    Chase(suppress=8.0, conflict_threshold=0.5, reliability=R),
    Chase(soft=True, heads=((1, 2), (3, 0))),
    Policies((AttentionReallocation(threshold=0.4, portion=0.3), Chase(suppress=2.0, conflict_threshold=0.6))),
    Chase(detector="heads", evidence_heads=((0, 1), (1, 3)), conflict_threshold=0.01, strength=6.0),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
def test_answers_equal_those_of_a_session_that_reads_for_itself(passes: ClipPasses, policy: Policy) -> None:
    """One clip at a time, with no readings handed in and nothing skipped."""
    expected = []
    with torch.no_grad(), steer(passes.backbone, policy, passes.trie):
        for sample in passes.samples:
            batch = collate([sample], passes.pad_id)
            expected.append(label_log_probs(passes.backbone, batch, passes.trie).log_softmax(-1)[0])
    found = passes.answers(policy)
    torch.testing.assert_close(torch.from_numpy(found).float(), torch.stack(expected), atol=2e-4, rtol=2e-4)
    some = torch.tensor([5, 1])
    torch.testing.assert_close(passes.answers(policy, some), found[some.numpy()])
    voiceless = [sample.clip.id for sample in passes.samples].index("voiceless")
    torch.testing.assert_close(found[voiceless], passes.unsteered[voiceless].double().numpy())


def test_passes_that_cannot_differ_are_not_run(passes: ClipPasses) -> None:
    chase = Chase(suppress=5.0, conflict_threshold=0.0)
    passes.answers(chase)
    saved = passes.store.saved
    for threshold in (0.2, 0.6, 1.0):
        passes.answers(replace(chase, conflict_threshold=threshold))
    passes.answers(Chase(strength=0.0))
    passes.answers(AttentionReallocation(portion=0.0))
    passes.answers(Policies((AttentionReallocation(portion=0.0), chase)))
    assert passes.store.saved == saved
    passes.answers(replace(chase, suppress=6.0))
    assert passes.store.saved == saved + 1


def test_models_have_fingerprints(passes: ClipPasses) -> None:
    model = load_backbone("tiny-omni", dtype="fp32").model
    same = model_fingerprint(passes.backbone.model)
    assert model_fingerprint(model) == same
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert model_fingerprint(model) != same
    assert model_fingerprint(load_backbone("tiny-omni-balanced", dtype="fp32").model) != same


def test_without_modality_labels_estimates_are_guessed(asked: Calibration, data_dir: Path, tmp_path: Path) -> None:
    clips = [
        replace(clip, modality_labels=ModalityLabels())
        for clip in load_manifest(data_dir / "synthetic" / "val.parquet")
    ]
    assert all(true_direction(clip) is None for clip in clips)
    plain = write_manifest(clips, tmp_path / "plain.jsonl")
    overrides = (*asked.overrides, f"data.root={data_dir / 'synthetic'}")
    console = Console(width=160, record=True)
    outcome = calibrate(replace(asked, manifest=plain, trials=30, overrides=overrides), console)
    estimates = {json.dumps(trial["policy"]["chase"]["reliability"]) for trial in outcome.settings.trials}
    assert len(estimates) > 1
    console.print(result_table(outcome))
    assert "late fusion transcript" in console.export_text()


def test_clips_for_heads_are_spread_over_subsets() -> None:
    names = ["consistent"] * 9 + ["contextual"] * 2 + ["video_aligned"] * 9
    clips = [Clip(id=str(i), text="t", label="a", subset=name) for i, name in enumerate(names)]
    board = Board(names, [0] * 20, np.zeros((20, 2)))
    stages = Stages(None, board, None, clips, 4, 6, 8, None)  # type: ignore[arg-type]
    chosen = [names[i] for i in stages.spread(torch.ones(20, dtype=torch.bool)).tolist()]
    assert {name: chosen.count(name) for name in names} == {"consistent": 3, "contextual": 2, "video_aligned": 3}
    few = torch.zeros(20, dtype=torch.bool)
    few[[0, 19]] = True
    assert stages.spread(few).tolist() == [0, 19]


def test_two_policies_must_be_better_than_one() -> None:
    names = ["consistent"] * 4 + ["contextual"] * 40

    def answers(right: int, sure: float) -> np.ndarray:
        hit = np.arange(44) < 4 + right
        return np.log(np.where(hit[:, None], [sure, 1 - sure], [1 - sure, sure]))

    board = Board(names, [0] * 44, answers(10, 0.6))
    stages = Stages(None, board, None, [], 4, 6, 8, None)  # type: ignore[arg-type]
    ar, chase = AttentionReallocation(), Chase()
    alone = board.trial("chase", chase, answers(20, 0.9))
    equal, better = (board.trial("ar_chase", Policies((ar, chase)), answers(right, 0.7)) for right in (20, 30))
    assert board.choose([alone, equal]) is equal, "the weaker one"
    assert stages._simplest([alone, equal]) is alone
    assert stages._simplest([alone, better]) is better
    assert stages._simplest([]) is board.unsteered


def test_a_finished_store_leaves_other_files_alone(tmp_path: Path) -> None:
    store = PassStore(tmp_path / "w", "f")
    store.get("a", lambda: {"x": torch.ones(1)})
    (tmp_path / "w" / "mine.txt").touch()
    assert PassStore(tmp_path / "w", "f").get("a", dict)["x"] == 1
    assert PassStore(tmp_path / "w", "g").get("a", lambda: {"x": torch.zeros(1)})["x"] == 0
    store.remove()
    assert [path.name for path in (tmp_path / "w").iterdir()] == ["mine.txt"]
    shutil.rmtree(tmp_path / "w")
