"""The comparison with other trainers: what it gives them, and what it makes of their records."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from benchmarks.peers.__main__ import main, parsed, tree_mib
from benchmarks.peers.checkpoint import SIZES, SYSTEM, save_checkpoint
from benchmarks.peers.clips import CLIPS as KINDS
from benchmarks.peers.clips import FRAMES
from benchmarks.peers.data import PROMPT, write_data
from benchmarks.peers.inside.mosear_callback import PeerBuilder
from benchmarks.peers.inside.mosear_operators import kind
from benchmarks.peers.inside.mosear_profile import Stopwatch
from benchmarks.peers.inside.recorder import Recorder, same_start
from benchmarks.peers.profile_table import profile_table
from benchmarks.peers.report import agreement, rate, table, version_lines
from benchmarks.peers.systems import (
    HERE,
    PEERS,
    SETTINGS,
    SMALLEST,
    SYSTEMS,
    Work,
    command,
    environment_variables,
    own_python,
    python_of,
)
from mosear.backbones import OmniBackbone, load_backbone
from mosear.backbones.media import MediaBatch
from mosear.data.datamodule import ClipDataModule
from mosear.data.manifest import load_manifest
from mosear.data.media import MediaBudget, decode, fit_within
from mosear.data.sample import IGNORE

CLIPS, BATCH = 6, 2


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few clips in every format."""
    directory = tmp_path_factory.mktemp("data")
    write_data(directory, CLIPS, BATCH)
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", SIZES["tiny"])


@pytest.fixture(scope="module")
def backbone(checkpoint: Path) -> OmniBackbone:
    return load_backbone(str(checkpoint), dtype="fp32")


def peer_rows(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "ms_swift.jsonl").read_text().splitlines()]


def data_module(data: Path, backbone: OmniBackbone) -> ClipDataModule:
    manifest = str(data / "mosear.jsonl")
    return ClipDataModule(
        backbone=backbone, prompt=PROMPT, budget=MediaBudget(), train=manifest, batch_size=BATCH, bucket=1,
        num_workers=0,
    )  # fmt: skip


def test_both_peers_get_the_same_rows(data: Path) -> None:
    entry = json.loads((data / "dataset_info.json").read_text())["clips"]
    assert json.loads((data / entry["file_name"]).read_text()) == peer_rows(data)
    assert set(entry["columns"].values()) == set(peer_rows(data)[0])


def test_rows_hold_what_the_manifest_holds(data: Path) -> None:
    manifest = load_manifest(data / "mosear.jsonl")
    assert len(manifest) == CLIPS and not manifest.check_files()
    by_video = {row["videos"][0]: row for row in peer_rows(data)}
    for clip in manifest:
        video, sound = manifest.resolve(clip)
        row = by_video[str(video)]
        assert row["audios"] == [str(sound)]
        question, answer = row["messages"]
        assert question == {"role": "user", "content": "<video><audio>" + PROMPT.user_text(clip.text)[0]}
        assert answer == {"role": "assistant", "content": clip.label}


def test_rows_are_in_the_order_of_the_training(data: Path, backbone: OmniBackbone) -> None:
    module = data_module(data, backbone)
    visited = [clip.id for batch in module.train_dataloader() for clip in batch.data.clips]
    assert visited == [Path(row["videos"][0]).stem for row in peer_rows(data)]
    assert visited != sorted(visited)


def test_the_prompt_is_the_one_of_the_peers_templates(data: Path, backbone: OmniBackbone) -> None:
    module = data_module(data, backbone)
    module.builder = PeerBuilder(backbone.processor, backbone.family, PROMPT)
    sample = module.dataset("train", with_answer=True)[0].sample
    assert sample is not None
    media = "<|vision_bos|><|VIDEO|><|vision_eos|><|audio_bos|><|AUDIO|><|audio_eos|>"
    text = backbone.processor.tokenizer.decode(sample.input_ids)
    for token in ("<|VIDEO|>", "<|AUDIO|>"):
        text = re.sub(f"({re.escape(token)})+", lambda found: found[1], text)
    clip = sample.clip
    assert text == (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{media}{PROMPT.user_text(clip.text)[0]}<|im_end|>\n"
        f"<|im_start|>assistant\n{clip.label}<|im_end|>\n"
    )
    trained = backbone.processor.tokenizer.decode(sample.labels[sample.labels != IGNORE])
    assert trained == f"{clip.label}<|im_end|>\n"
    assert int((sample.input_ids == backbone.family.config.video_token_id).sum()) == FRAMES // 2 * 4 * 4  # 28 px a side


def test_whichever_frame_of_a_pair_is_taken_the_picture_is_the_same(data: Path) -> None:
    video = next((data / "clips").glob("*.mp4"))
    frames = decode(video, None, MediaBudget(num_frames=2 * FRAMES)).frames
    assert frames is not None
    within = np.abs(frames[::2].astype(int) - frames[1::2]).mean()
    between = np.abs(frames[1:-1:2].astype(int) - frames[2::2]).mean()
    assert within < 0.1 * between


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip as a camera writes them."""
    directory = tmp_path_factory.mktemp("camera")
    write_data(directory, 1, 1, KINDS["camera"])
    return directory


def test_a_camera_clip_is_what_it_says(camera: Path) -> None:
    video = next((camera / "clips").glob("*.mp4"))
    with av.open(str(video)) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        assert (picture.width, picture.height, picture.average_rate, picture.frames) == (640, 360, 25, 150)
        assert (sound.rate, sound.layout.name) == (48_000, "stereo")
        assert float(picture.duration * picture.time_base) == 6.0
    wav = decode(None, video.with_suffix(".wav"), MediaBudget()).audio
    track = decode(None, video, MediaBudget()).audio
    assert wav is not None and track is not None and len(wav) == 6 * 16_000
    assert np.corrcoef(wav[: len(track)], track[: len(wav)])[0, 1] > 0.9
    assert video.stat().st_size > 500_000  # noise: H.264 has work to do


@pytest.mark.parametrize("name", KINDS)
def test_every_system_picks_frames_of_the_same_pictures(name: str) -> None:
    clips = KINDS[name]
    count = len(clips.held)
    assert count == round(clips.fps * clips.seconds)
    middles = [int((index + 0.5) * count / FRAMES) for index in range(FRAMES)]
    llamafactory = np.linspace(0, count - 1, FRAMES).astype(np.int32)
    ms_swift = torch.linspace(0, count - 1, FRAMES).round().long()
    for picks in (middles, llamafactory, ms_swift):
        assert [clips.held[pick] for pick in picks] == list(range(FRAMES))
    assert np.floor(clips.seconds * clips.sampled_fps) == FRAMES


@pytest.mark.parametrize("name", KINDS)
def test_every_system_gives_the_model_frames_of_one_size(name: str) -> None:
    clips = KINDS[name]
    # What each does before the model's processor: mosear while decoding, LLaMA-Factory by PIL, ms-swift nothing.
    factor = min(1.0, (clips.pixels / (clips.width * clips.height)) ** 0.5)
    sizes = [fit_within(clips.width, clips.height, clips.pixels)]
    sizes += [(int(clips.width * factor), int(clips.height * factor)), (clips.width, clips.height)]
    found = {smart_resize(height, width, 28, SMALLEST, clips.pixels) for width, height in sizes}
    assert found == {{"small": (112, 112), "camera": (84, 140)}[name]}


def test_a_smaller_last_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 clips are no multiple of batch_size=2"):
        write_data(tmp_path, 5, 2)


def test_the_checkpoint_is_complete_and_reacts_to_its_input(checkpoint: Path, backbone: OmniBackbone) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["model_type"] == "qwen2_5_omni" and {"thinker_config", "talker_config"} <= set(config)
    assert backbone.processor.feature_extractor.n_samples == 300 * 16000
    ids = torch.tensor([[20, 21, 22, 23], [20, 21, 22, 24]])
    positions = torch.arange(4).expand(3, 2, 4)
    with torch.no_grad():
        embeds, _ = backbone.embed(ids, MediaBatch())
        logits = backbone.lm_head(backbone.hidden_states(embeds, torch.ones_like(ids), positions))[:, -1]
    assert (logits[0] - logits[1]).abs().max() > 0.5


class Projection(nn.Module):
    """A decoder's projection under the name that it has in every library."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict({"q_proj": nn.Linear(8, 6), "v_proj": nn.Linear(8, 6)})


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Projection(), Projection()])


class Thinker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.thinker = Decoder()


def adapted(model: nn.Module) -> nn.Module:
    return get_peft_model(model, LoraConfig(r=3, target_modules=["q_proj", "v_proj"]))


def weights_of(model: nn.Module, part: str) -> list[torch.Tensor]:
    return [parameter.detach() for name, parameter in model.named_parameters() if part in name]


def test_adapters_start_equal_wherever_a_library_puts_the_decoder() -> None:
    own, others = adapted(Decoder()), adapted(Thinker())
    assert same_start(own) == same_start(others) == 4
    ours, theirs = weights_of(own, "lora_A"), weights_of(others, "lora_A")
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert len({float(one.sum()) for one in ours}) == 4
    assert not any(one.any() for one in weights_of(own, "lora_B"))


def test_a_record_has_a_stamp_more_than_steps(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "record.json")
    recorder.begin(adapted(Decoder()))
    for loss in (2.0, 1.0):
        recorder.step()
        recorder.loss(loss)
    held = np.ones(2**27, np.uint8)  # 128 MiB: too large to come from memory that was freed before
    recorder.end()
    found = json.loads((tmp_path / "record.json").read_text())
    assert (found["loss"], len(found["wall"]), len(found["cpu"])) == ([2.0, 1.0], 3, 3)
    assert found["wall"] == sorted(found["wall"])
    assert found["training_mib"] - found["before_mib"] > 0.5 * held.nbytes / 2**20
    assert found["peak_mib"] == max(found["training_mib"], found["loading_mib"])
    assert found["versions"]["torch"] == torch.__version__.split("+")[0]


def test_children_count() -> None:
    alone = tree_mib(os.getpid())
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        both = tree_mib(os.getpid())
        child.communicate(b"\n")
    assert both > alone > 0
    assert tree_mib(child.pid) == 0


def run_of(system: str, seconds: float, number: int = 0, **changes: Any) -> dict[str, Any]:
    """Three steps of 4 clips, the first of them warm-up and slow."""
    stamps = [0.0, 100.0, 100.0 + seconds, 100.0 + 2 * seconds]
    return {
        "size": "tiny", "system": system, "round": number, "warmup": 1, "batch_size": 4, "wall": stamps,
        "cpu": [stamp / 2 for stamp in stamps], "loss": [2.0, 1.5, 1.0], "before_mib": 100.0, "training_mib": 150.0,
        "peak_mib": 150.0, "tree_mib": 140.0, "versions": {"torch": "1"}, **changes,
    }  # fmt: skip


def test_table_of_recorded_runs() -> None:
    runs = [
        run_of("mosear", 1.0, loss=[2.0, 1.5, 1.0]),
        run_of("llamafactory", 4.0, tree_mib=400.0, loss=[2.0, 1.4, 1.3]),
        run_of("ms_swift", 2.0, peak_mib=300.0, loss=[2.001, 1.5, 1.0]),
        run_of("mosear_mose", 1.0, loss=[2.0, 3.0, 4.0]),
        run_of("mosear", 2.0, 1),
        run_of("llamafactory", 1.0, 1, tree_mib=400.0),
        run_of("ms_swift", 3.0, 1, peak_mib=300.0),
    ]
    assert rate(runs[0], "wall") == 4.0 and rate(runs[0], "cpu") == 8.0
    rows = table(runs).splitlines()
    # Against the faster peer of each round: 4 / 2 and 2 / 4.
    assert rows[2] == "| tiny | mosear | 3.00 | 1.25 | 6.00 | 1.25 | 150 | 0.50 | 50 |"
    assert [row.split("|")[2].strip() for row in rows[2:]] == ["mosear", "mosear_mose", "llamafactory", "ms_swift"]
    assert len({row.count("|") for row in rows}) == 1
    losses = agreement(runs).splitlines()
    assert losses[2] == "| tiny | mosear | 2.0000 |  |  | 3 |"
    assert losses[3] == "| tiny | mosear_mose | 2.0000 | 0.0e+00 | another adapter | 3 |"
    assert losses[4] == "| tiny | llamafactory | 2.0000 | 0.0e+00 | 3.0e-01 | 3 |"
    assert losses[5] == "| tiny | ms_swift | 2.0010 | 1.0e-03 | 1.0e-03 | 3 |"
    assert version_lines(runs).splitlines()[0] == "mosear: torch 1"


def test_table_without_peers_has_no_ratios() -> None:
    assert table([run_of("mosear", 1.0)]).splitlines()[2] == "| tiny | mosear | 4.00 |  | 8.00 |  | 150 |  | 50 |"


def test_a_rate_needs_a_step_after_the_warm_up() -> None:
    with pytest.raises(ValueError, match="3 steps leave none after a warm-up of 3"):
        rate(run_of("mosear", 1.0, warmup=3), "wall")


def test_recorded_runs_can_be_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.json"
    path.write_text(json.dumps([run_of("mosear", 1.0)]))
    main(["--report", str(path)])
    assert "| tiny | mosear | 4.00 |" in capsys.readouterr().out


def test_profile_table_shows_shares() -> None:
    found = {"tiny": {"seconds": {"mel": 1.0, "decode": 3.0}, "steps": 2}, "mid": {"seconds": {"mel": 2.0}, "steps": 1}}
    assert profile_table(found).splitlines()[2:] == [
        "| decode | 75.0% | 0.0% |",
        "| mel | 25.0% | 100.0% |",
        "| CPU seconds per step | 2.000 | 2.000 |",
    ]
    found = {"mid": {"seconds": {"attention": 1.0}, "steps": 1, "clock": "Wall-clock"}}
    assert profile_table(found).splitlines()[-1] == "| Wall-clock seconds per step | 1.000 |"


@pytest.mark.parametrize(
    ("name", "shapes", "expected"),
    [
        ("aten::addmm", [[6], [4, 8], [8, 6]], "products of frozen weights"),
        ("aten::mm", [[4, 8], [8, 3]], "products of the adapter"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", [[1, 3, 4, 8]], "attention"),
        ("aten::mul", [[4, 3]], "element by element, copies, Python"),
        ("autograd::engine::evaluate_function: ScaledDotProductAttention", [], "element by element, copies, Python"),
    ],
)
def test_kinds_of_operators(name: str, shapes: list[list[int]], expected: str) -> None:
    assert kind(name, shapes, rank=3) == expected


class Nested:
    """Two functions, one of which calls the other."""

    @staticmethod
    def inner(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    @staticmethod
    def outer() -> None:
        Nested.inner(0.05)


def test_a_part_does_not_count_what_another_part_does_inside_it() -> None:
    watch = Stopwatch()
    watch.around(Nested, "inner", "inner")
    watch.around(Nested, "outer", "outer")
    Nested.outer()
    assert not watch.seconds
    watch.start()
    Nested.outer()
    watch.stop()
    assert set(watch.seconds) == {"inner", "outer", "rest of the loop"}
    assert watch.seconds["inner"] > 10 * watch.seconds["outer"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "--rounds=0"),
        (["--steps", "2", "--warmup", "2"], "2 steps leave none after --warmup=2"),
        (["--systems", "peft"], "invalid choice"),
    ],
)
def test_senseless_arguments_are_refused(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(options)
    assert message in capsys.readouterr().err


def test_commands_name_their_settings_and_records(tmp_path: Path) -> None:
    work = Work(tmp_path / "checkpoint", tmp_path / "data", BATCH, 3)
    for system in SYSTEMS:
        words = command(system, work, tmp_path, tmp_path / "environments")
        assert str(tmp_path / "record.json") in words[-1]
        assert (str(tmp_path / "environments") in words[0]) == (system in PEERS)
        assert Path(words[1]).is_file()
        if system in PEERS:
            assert json.loads(Path(words[2]).read_text()) == SETTINGS[system](work, tmp_path)
    cached = [f"data.cache_dir={work.cache}" in command(name, work, tmp_path, tmp_path) for name in SYSTEMS]
    assert cached == [name == "mosear_cached" for name in SYSTEMS]


def test_peers_see_nothing_of_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    variables = environment_variables("ms_swift", Work(tmp_path, tmp_path, BATCH, 3), threads=1)
    assert "PYTHONPATH" not in variables
    assert variables["FPS"] == "4.0" and variables["OMP_NUM_THREADS"] == "1"


def test_mosear_runs_in_an_environment_of_its_own_where_there_is_one(tmp_path: Path) -> None:
    assert own_python(tmp_path) == Path(sys.executable)
    (tmp_path / "mosear").mkdir()
    (tmp_path / "mosear" / "built").touch()
    assert own_python(tmp_path) == python_of(tmp_path / "mosear")
    assert command("mosear", Work(tmp_path, tmp_path, BATCH, 3), tmp_path, tmp_path)[0] == str(own_python(tmp_path))


@pytest.mark.parametrize("peer", PEERS)
def test_pins_are_exact_and_name_no_place(peer: str) -> None:
    pins = (HERE / f"requirements-{peer}.txt").read_text().splitlines()
    assert pins and all(re.fullmatch(r"[a-z0-9-]+==[0-9.]+", pin) for pin in pins)


@pytest.mark.slow
def test_mosear_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--sizes", "tiny", "--steps", "2", "--warmup", "1", "--rounds", "1", "--batch-size", "2"]
    out = tmp_path / "runs.json"
    main(["--systems", "mosear", "mosear_cached", *options, "--dir", str(tmp_path / "work"), "--json", str(out)])
    plain, cached = json.loads(out.read_text())
    assert plain["loss"] == pytest.approx(cached["loss"], abs=1e-5) and len(plain["loss"]) == 2
    assert plain["adapted"] == 4 * 7 and plain["trainable"] == cached["trainable"]
    assert "| tiny | mosear |" in capsys.readouterr().out
    main(["--profile", "--sizes", "tiny", "--steps", "3", "--batch-size", "2", "--dir", str(tmp_path / "work")])
    shown = capsys.readouterr().out
    assert all(f"| {part} |" in shown for part in ("decode", "backward", "optimiser", "mel", "logging"))
    main(["--operators", "--sizes", "tiny", "--steps", "3", "--batch-size", "2", "--dir", str(tmp_path / "work")])
    shown = capsys.readouterr().out
    assert all(f"| {scope}: products of frozen weights |" in shown for scope in ("decoder, forward", "backward"))
